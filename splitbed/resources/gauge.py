"""Numbers in small files that are read again and again.

A file is opened once and read with pread(2): sysfs and procfs make the content anew at each read
from the start, and opening costs more than reading.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from splitbed.record import ReadingSource

_LONGEST_BYTES: Final = 64
_FAILURES: Final = 5
"""Reads that fail in a row, after which a gauge is given up."""
_MOST_W: Final = 5000.0
"""No counter that is read here counts faster; one that seems to was set back."""


class Meter(Protocol):
    """Something that gives readings."""

    def sources(self) -> list[ReadingSource]:
        """Where its readings come from, and which cannot be had, as known by now."""

    def read(self, now_ns: int) -> dict[str, float]:
        """What can be read now, by name. Never raises."""

    def close(self) -> None:
        """Let go of what is open. Calling it twice is fine."""


class CounterLost(ValueError):
    """A counter was set back: what it counted meanwhile is not known."""


class NumberFile:
    """A file that holds one whole number. OSError or ValueError where it does not."""

    def __init__(self, path: Path, base: int = 10) -> None:
        self._fd, self._base = -1, base
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.read()
        except (OSError, ValueError):
            self.close()
            raise

    def read(self) -> int:
        """The number as it is now."""
        text = os.pread(self._fd, _LONGEST_BYTES, 0)
        if not text.strip():
            raise ValueError("the file is empty")
        try:
            return int(text, self._base)
        except ValueError:
            raise ValueError("the file holds no number") from None

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Gauge:
    """The product of one or more files' numbers, in the unit of its name."""

    def __init__(self, name: str, files: Sequence[NumberFile], scale: float) -> None:
        self.name, self.files, self._scale = name, tuple(files), scale

    def value(self, now_ns: int) -> float:
        """The value now."""
        product = self._scale
        for file in self.files:
            product *= file.read()
        return product

    def close(self) -> None:
        """Close its files."""
        for file in self.files:
            file.close()


class Counters(Gauge):
    """The sum of counters that start again at zero behind `ranges`, from 0 at the first reading.

    Between two readings a counter may wrap once. One that has no range, or that would have counted
    faster than anything draws power, was set back, and is lost.
    """

    def __init__(
        self, name: str, files: Sequence[NumberFile], scale: float, ranges: Sequence[int]
    ) -> None:
        super().__init__(name, files, scale)
        self._ranges = tuple(ranges)
        self._last = [file.read() for file in self.files]
        self._last_ns = 0
        self._total = 0

    def value(self, now_ns: int) -> float:
        """Counted since the first reading."""
        passed_s = (now_ns - self._last_ns) / 1e9 if self._last_ns else 3600.0
        for at, (file, most) in enumerate(zip(self.files, self._ranges, strict=True)):
            found = file.read()
            step = found - self._last[at]
            if step < 0:
                step += most
                if step < 0 or step * self._scale > 1 + _MOST_W * passed_s:
                    raise CounterLost("the counter was set back")
            self._last[at] = found
            self._total += step
        self._last_ns = now_ns
        return self._total * self._scale


class Gauges:
    """A Meter of several gauges, of which at most `each_read` are read at a time, in turn.

    A gauge that fails five times in a row, or whose counter was set back, is given up, and its
    source says so; the others go on.
    """

    def __init__(
        self, gauges: Sequence[Gauge], sources: Sequence[ReadingSource], each_read: int = 16
    ) -> None:
        self._gauges = list(gauges)
        self._sources = {source.name: source for source in sources}
        self._each_read = each_read
        self._next = 0
        self._failures: dict[str, int] = {}

    def sources(self) -> list[ReadingSource]:
        """See Meter."""
        return list(self._sources.values())

    def read(self, now_ns: int) -> dict[str, float]:
        """See Meter."""
        found: dict[str, float] = {}
        for gauge in self._turn():
            try:
                found[gauge.name] = gauge.value(now_ns)
            except (OSError, ValueError) as error:
                self._fail(gauge, error)
            else:
                self._failures.pop(gauge.name, None)
        return found

    def close(self) -> None:
        """See Meter."""
        for gauge in self._gauges:
            gauge.close()
        self._gauges = []

    def _turn(self) -> list[Gauge]:
        count = len(self._gauges)
        if count <= self._each_read:
            return list(self._gauges)
        start = self._next % count
        self._next = start + self._each_read
        return (self._gauges + self._gauges)[start : start + self._each_read]

    def _fail(self, gauge: Gauge, error: Exception) -> None:
        failures = self._failures[gauge.name] = self._failures.get(gauge.name, 0) + 1
        if failures < _FAILURES and not isinstance(error, CounterLost):
            return
        gauge.close()
        self._gauges.remove(gauge)
        source = self._sources[gauge.name]
        reason = f"ended early: {why(error)}"
        self._sources[gauge.name] = msgspec.structs.replace(source, reason=reason)


def unavailable(name: str, source: str, reason: str, scope: str = "") -> ReadingSource:
    """A source without values."""
    return ReadingSource(name, unit_of(name), "unavailable", source, reason, scope)


def measured(name: str, source: str, **more: object) -> ReadingSource:
    """A source of measured values."""
    return ReadingSource(name, unit_of(name), "measured", source, **more)  # type: ignore[arg-type]


_UNITS: Final = {
    "w": "W",
    "j": "J",
    "pct": "%",
    "bytes": "bytes",
    "celsius": "°C",
    "hz": "Hz",
    "ns": "ns",
}


def unit_of(name: str) -> str:
    """The unit that a name ends with; "" for counts."""
    return _UNITS.get(name.rpartition("_")[2], "")


def why(error: Exception) -> str:
    """What went wrong with a file, as a clause."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def text_of(path: Path) -> str:
    """A small file's one line; "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return ""


def listed(folder: Path, pattern: str) -> list[Path]:
    """Entries whose whole name matches, by number; none where the folder cannot be read."""
    try:
        names = [name for name in os.listdir(folder) if re.fullmatch(pattern, name)]
    except OSError:
        return []
    return [folder / name for name in sorted(names, key=_numbers)]


def _numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def plain(text: str) -> str:
    """A label as a part of a name: at most 32 small letters, digits, dashes."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:32]


def open_gauges(
    wanted: Sequence[tuple[ReadingSource, Callable[[], Gauge]]],
) -> tuple[list[Gauge], list[ReadingSource]]:
    """The gauges that open, and the sources of all, with the reason where one does not."""
    gauges, sources = [], []
    for source, make in wanted:
        try:
            gauges.append(make())
        except (OSError, ValueError) as error:
            reason = source.reason or why(error)
            if not isinstance(error, PermissionError):
                reason = why(error)
            sources.append(msgspec.structs.replace(source, how="unavailable", reason=reason))
        else:
            sources.append(msgspec.structs.replace(source, reason=""))
    return gauges, sources


def open_files(*paths: Path) -> list[NumberFile]:
    """All of them or none."""
    files: list[NumberFile] = []
    try:
        for path in paths:
            files.append(NumberFile(path))
    except (OSError, ValueError):
        for file in files:
            file.close()
        raise
    return files
