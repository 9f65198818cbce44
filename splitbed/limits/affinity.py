"""On which cores this process may run."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from splitbed.errors import UsageError

_TASKS: Final = Path("/proc/self/task")
_MOST: Final = 4096
_PASSES: Final = 20


def parse_cpus(text: str) -> frozenset[int]:
    """`0,2-3` as numbers of cores; UsageError where it is none."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last >= _MOST:
            raise UsageError(f"--cpus '{text[:80]}': write numbers of cores, as in 0,1 or 0-3")
        found.update(range(first, last + 1))
    return frozenset(found)


def usable() -> frozenset[int]:
    """The cores that this process may use now; UsageError where the system does not tell."""
    if not sys.platform.startswith("linux"):
        raise UsageError("--cpus needs Linux: only there a process is held on some cores")
    return frozenset(os.sched_getaffinity(0))


def usable_cpus(text: str) -> frozenset[int]:
    """As `parse_cpus`; UsageError also for a core that this process may not use.

    The kernel would leave such a core out without a word.
    """
    cpus, allowed = parse_cpus(text), usable()
    if cpus - allowed:
        raise UsageError(
            f"--cpus {_written(cpus)}: this process may not use {_written(cpus - allowed)}, only "
            f"{_written(allowed)}"
        )
    return cpus


def _written(cpus: frozenset[int]) -> str:
    return ",".join(map(str, sorted(cpus)))


def hold(cpus: frozenset[int]) -> None:
    """Let every thread of this process run on these cores only.

    Affinity is a thread's own (sched_setaffinity(2)): setting it for the process sets it for the
    thread that asks, and a runtime's threads that are there already would run on all cores.
    """
    _each_thread(lambda thread: os.sched_setaffinity(thread, cpus), cpus)


def _each_thread(change: Callable[[int], None], cpus: frozenset[int]) -> None:
    done: set[int] = set()
    for _ in range(_PASSES):  # a thread may start others while we go through them
        try:
            found = {int(name) for name in os.listdir(_TASKS)}
        except OSError:
            found = {0}
        if found <= done:
            return
        for thread in found - done:
            with contextlib.suppress(ProcessLookupError):
                try:
                    change(thread)
                except ProcessLookupError:
                    raise
                except OSError as error:
                    raise UsageError(
                        f"--cpus {_written(cpus)} cannot be had ({error.strerror}): choose among "
                        f"{_written(usable())}"
                    ) from error
        done |= found
