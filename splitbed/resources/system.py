"""How busy the whole machine's cores are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from splitbed.record import ReadingSource
from splitbed.resources.gauge import measured, unavailable, why

_FIRST_LINE_BYTES: Final = 256


class SystemTimes(msgspec.Struct, frozen=True):
    """Seconds of all cores together, since the machine started."""

    busy_s: float
    idle_s: float


class SystemMeter:
    """Reads /proc/stat's first line where there is one, else psutil.

    Android shows neither to an app: then there are no values, and the sources say why.
    """

    def __init__(self, root: Path) -> None:
        self._fd, self._told, self._reason = -1, False, ""
        try:
            self._fd = os.open(root / "proc/stat", os.O_RDONLY | os.O_CLOEXEC)
            self._ticks = float(os.sysconf("SC_CLK_TCK"))
            self._from_file()
        except (OSError, ValueError, AttributeError):
            self.close()
        self.read()  # what cannot be had is known from here on

    def read(self) -> SystemTimes | None:
        """Now; None where nothing tells."""
        if self._fd >= 0:
            try:
                found = self._from_file()
            except (OSError, ValueError):
                self.close()  # Android shows it to some processes and not to others
            else:
                self._told = True
                return found
        try:
            found = times(psutil.cpu_times())
        except (OSError, psutil.Error) as error:
            self._reason = why(error)
            return None
        self._told, self._reason = True, ""
        return found

    def _from_file(self) -> SystemTimes:
        words = os.pread(self._fd, _FIRST_LINE_BYTES, 0).partition(b"\n")[0].split()
        if len(words) < 6 or words[0] != b"cpu":
            raise ValueError("/proc/stat begins with another line")
        # user nice system idle iowait irq softirq steal guest guest_nice (proc(5)); a guest's time
        # is part of `user` and `nice` already.
        ticks = [int(word) for word in words[1:9]]
        idle = ticks[3] + ticks[4]
        return SystemTimes((sum(ticks) - idle) / self._ticks, idle / self._ticks)

    def sources(self) -> list[ReadingSource]:
        """Where its values come from."""
        place = "/proc/stat" if self._fd >= 0 else f"psutil {psutil.__version__}"
        names = ("system_cpu_pct", "system_cpu_ns")
        if not self._told:
            reason = (
                f"this machine does not tell how busy its cores are ({self._reason}); Android "
                "tells root only"
            )
            return [unavailable(name, f"/proc/stat, {place}", reason) for name in names]
        reason = f"ended early: {self._reason}" if self._reason else ""
        return [measured(name, place, reason=reason) for name in names]

    def close(self) -> None:
        """Close its file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def times(found: Any) -> SystemTimes:
    """The same from psutil's `cpu_times()`."""
    named = found._asdict()
    # A guest's time is part of `user` and `nice` already (proc(5)).
    spent = sum(named.values()) - named.get("guest", 0) - named.get("guest_nice", 0)
    idle = named["idle"] + named.get("iowait", 0)
    return SystemTimes(spent - idle, idle)


def busy_ns(before: SystemTimes | None, after: SystemTimes | None) -> int | None:
    """Time of all cores between two readings that was not idle."""
    if before is None or after is None:
        return None
    return max(0, round((after.busy_s - before.busy_s) * 1e9))


def busy_pct(before: SystemTimes | None, after: SystemTimes | None) -> float | None:
    """Share of all cores' time between two readings that was not idle, in percent; None where no
    time was counted between them.

    Kept within 0 and 100: a kernel may take back time that it had booked as waiting for a disk, and
    what is left of differences of large sums may lie a rounding below zero.
    """
    if before is None or after is None:
        return None
    busy, idle = after.busy_s - before.busy_s, after.idle_s - before.idle_s
    spent = busy + idle
    return min(100.0, max(0.0, 100 * (1 - idle / spent))) if spent > 0 else None
