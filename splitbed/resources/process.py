"""What this process uses: CPU time, memory, threads, context switches."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import psutil

from splitbed.record import ReadingSource
from splitbed.resources.gauge import measured, unavailable

if sys.platform != "win32":
    import resource

_STATUS: Final = "proc/self/status"
_FIELDS: Final = re.compile(rb"^(VmHWM|VmRSS|Threads):\s+(\d+)", re.MULTILINE)


class ProcessUse(msgspec.Struct, frozen=True):
    """Totals since the process began, and its memory now."""

    cpu_ns: int
    rss_bytes: int
    rss_peak_bytes: int | None
    threads: int
    voluntary_switches: int | None
    involuntary_switches: int | None


class ProcessMeter:
    """Reads this process: /proc where there is one, which costs a third of psutil, else psutil.

    The peak is VmHWM, of this program's memory alone. getrusage's ru_maxrss is not taken where that
    exists: it keeps what the process was before it became this program, its parent's size included.
    Context switches are getrusage's, of all threads; those in /proc/self/status are of one.
    """

    def __init__(self, root: Path) -> None:
        self._fd = -1
        self._process = psutil.Process()
        try:
            self._fd = os.open(root / _STATUS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return

    def read(self) -> ProcessUse:
        """Now."""
        cpu_ns = time.process_time_ns()
        waits = forced = peak = None
        if sys.platform != "win32":
            used = resource.getrusage(resource.RUSAGE_SELF)
            waits, forced = used.ru_nvcsw, used.ru_nivcsw
            peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        found: dict[bytes, int] = {}
        if self._fd >= 0:
            try:
                found = {
                    name: int(value) for name, value in _FIELDS.findall(os.pread(self._fd, 4096, 0))
                }
            except OSError:
                found = {}
        if len(found) == 3:
            rss, threads = 1024 * found[b"VmRSS"], found[b"Threads"]
            # Either is brought up to date now and then only: a peak lies below no size.
            peak = max(1024 * found[b"VmHWM"], rss)
        else:
            with self._process.oneshot():
                rss, threads = self._process.memory_info().rss, self._process.num_threads()
        return ProcessUse(cpu_ns, rss, peak, threads, waits, forced)

    def sources(self) -> list[ReadingSource]:
        """Where its values come from."""
        place = "/proc/self/status" if self._fd >= 0 else f"psutil {psutil.__version__}"
        found = [
            measured("process_cpu_ns", "CLOCK_PROCESS_CPUTIME_ID, all threads, user and system"),
            measured("rss_bytes", place),
            measured("threads", place),
        ]
        if sys.platform == "win32":
            reason = "Windows does not tell"
            return [
                *found,
                unavailable("rss_peak_bytes", "getrusage", reason),
                unavailable("voluntary_switches", "getrusage", reason),
            ]
        peak = "VmHWM of /proc/self/status" if self._fd >= 0 else "ru_maxrss"
        return [
            *found,
            measured("rss_peak_bytes", f"{peak}, since the process began"),
            measured("voluntary_switches", "getrusage, all threads"),
            measured("involuntary_switches", "getrusage, all threads"),
        ]

    def close(self) -> None:
        """Close its file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def rss_bytes() -> int:
    """This process's resident memory now."""
    return int(psutil.Process().memory_info().rss)
