"""How busy the whole machine's cores are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from splitbed.record import ReadingSource
from splitbed.resources.gauge import measured

_FIRST_LINE_BYTES: Final = 256


class SystemTimes(msgspec.Struct, frozen=True):
    """Seconds of all cores together, since the machine started."""

    busy_s: float
    idle_s: float


class SystemMeter:
    """Reads /proc/stat's first line where there is one, else psutil."""

    def __init__(self, root: Path) -> None:
        self._fd = -1
        try:
            self._fd = os.open(root / "proc/stat", os.O_RDONLY | os.O_CLOEXEC)
            self._ticks = float(os.sysconf("SC_CLK_TCK"))
            self._from_file()
        except (OSError, ValueError, AttributeError):
            self.close()

    def read(self) -> SystemTimes:
        """Now."""
        if self._fd >= 0:
            try:
                return self._from_file()
            except (OSError, ValueError):
                self.close()  # Android shows it to some processes and not to others
        try:
            return times(psutil.cpu_times())
        except (OSError, psutil.Error):
            return SystemTimes(0.0, 0.0)

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
        return [measured("system_cpu_pct", place), measured("system_cpu_ns", place)]

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


def busy_pct(before: SystemTimes, after: SystemTimes) -> float:
    """Share of all cores' time between two readings that was not idle, in percent.

    Kept within 0 and 100: a kernel may take back time that it had booked as waiting for a disk, and
    what is left of differences of large sums may lie a rounding below zero.
    """
    busy, idle = after.busy_s - before.busy_s, after.idle_s - before.idle_s
    spent = busy + idle
    return min(100.0, max(0.0, 100 * (1 - idle / spent))) if spent > 0 else 0.0
