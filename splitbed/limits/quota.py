"""A share of a core by CPU bandwidth of a control group, version 2 or 1 (Linux).

The group is this process's own, named after its number, and goes when the process ends. One that a
kill left behind is empty and uses nothing; `sweep` removes it, at the next start or by whoever
started the process.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from splitbed.errors import UsageError

_PREFIX: Final = "splitbed-"
_PERIOD_US: Final = 10_000
"""Shorter than the kernel's 100 ms, with which a small head runs at full speed and then not at all
for longer than a frame takes."""
_SHORTEST_US: Final = 1000
"""Of a quota and of a period, by the kernel (sched-bwc)."""
_TRIES: Final = 3


class Group(msgspec.Struct, frozen=True):
    """A control group that this process is in."""

    folder: Path
    home: Path
    """Where the process came from, and goes back to."""
    version: int
    period_us: int
    quota_us: int

    @property
    def described(self) -> str:
        """How the quota is held, for the record."""
        file = "cpu.max" if self.version == 2 else "cpu.cfs_quota_us"
        return f"cgroup v{self.version} {file}: {self.quota_us} us of every {self.period_us} us"


def parse_quota(cores: float) -> tuple[int, int]:
    """(quota, period) in microseconds for a share of a core; both at least a millisecond."""
    period_us = max(_PERIOD_US, math.ceil(_SHORTEST_US / cores))
    return max(_SHORTEST_US, round(cores * period_us)), period_us


def check_quota(cores: float, cpus: Collection[int] | None = None) -> None:
    """UsageError for a share that limits nothing: all of the cores that may be used, and more.

    `cpus` are the ones that the process will be held to, None for those that it may use now.
    """
    if not hasattr(os, "sched_getaffinity"):
        return
    usable = len(os.sched_getaffinity(0) if cpus is None else cpus)
    if cores >= usable:
        raise UsageError(
            f"--cpu-quota {cores:g} limits nothing: this process may use "
            f"{usable} {'core' if usable == 1 else 'cores'}; give less, or leave it out"
        )


def enter(cores: float, root: Path = Path("/")) -> Group:
    """Put this process, with all its threads, into a new group with that share of a core.

    UsageError where that is not allowed, with another way to the same end.
    """
    quota_us, period_us = parse_quota(cores)
    reasons: list[str] = []
    for version, home, parent in _places(root, reasons):
        group = Group(parent / f"{_PREFIX}{os.getpid()}", home, version, period_us, quota_us)
        try:
            _sweep_below(parent)
            _make(group)
        except OSError as error:
            with contextlib.suppress(OSError):
                group.folder.rmdir()
            reasons.append(f"{parent}: {error.strerror}")
            continue
        return group
    why = "; ".join(reasons) or "there is no control group for CPU time here"
    percent = f"{100 * cores:g}%"
    raise UsageError(
        f"--cpu-quota {cores:g} may not be set by this process ({why}): start it without under "
        f"`systemd-run --user --scope -p CPUQuota={percent} -p CPUQuotaPeriodSec=10ms`, in "
        f"a container with `docker run --cpu-period 10000 --cpu-quota {10000 * cores:.0f}`, "
        "or as root"
    )


def lift(group: Group) -> None:
    """No quota for now."""
    _write_quota(group, None)


def hold(group: Group) -> None:
    """The quota again."""
    _write_quota(group, group.quota_us)


def leave(group: Group) -> None:
    """Back to where the process came from, and the group is gone. Calling it twice is fine."""
    with contextlib.suppress(OSError):
        _join(group.home)
    with contextlib.suppress(OSError):
        group.folder.rmdir()


def sweep(root: Path = Path("/")) -> int:
    """Remove groups that killed processes left behind; how many. Never raises."""
    return sum(_sweep_below(parent) for parent in {place[2] for place in _places(root, [])})


def _sweep_below(parent: Path) -> int:
    gone = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            match = re.fullmatch(rf"{_PREFIX}(\d+)", name)
            # One that is about to be joined is empty, too: its process lives.
            if match and not os.path.exists(f"/proc/{match[1]}"):
                with contextlib.suppress(OSError):  # somebody is in it
                    (parent / name).rmdir()
                    gone += 1
    return gone


def _places(root: Path, reasons: list[str]) -> list[tuple[int, Path, Path]]:
    """(version, own group, parent of a new one) where a quota may be set, likeliest first."""
    found: list[tuple[int, Path, Path]] = []
    for version, mount in _mounts(root):
        own = _own_path(root, version)
        if own is None:
            continue
        home = mount / own.lstrip("/")
        if not os.path.isdir(home):  # the mount shows another part of the tree
            reasons.append(f"{mount} does not show this process's group")
            continue
        if version == 1:
            found.append((1, home, home))
            continue
        # A group with processes in it hands no controller down (no internal processes), except the
        # root: what is left is a group beside our own, unless that one is limited.
        if home == mount:
            parents = [home]
        else:
            if _limited(home):
                reasons.append(f"{home} is limited already, and a group beside it would not be")
                continue
            parents = [home, home.parent]
        for parent in parents:
            if "cpu" in _words(parent / "cgroup.subtree_control"):
                found.append((2, home, parent))
                break
        else:
            reasons.append(f"{parents[-1]} hands out no CPU time (cgroup.subtree_control)")
    return found


def _mounts(root: Path) -> list[tuple[int, Path]]:
    """Mounts of the hierarchies that may hold CPU quotas: (version, place)."""
    found = []
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        place = root / fields[4].encode().decode("unicode_escape").lstrip("/")
        if kind[0] == "cgroup2" and "cpu" in _words(place / "cgroup.controllers"):
            found.append((2, place))
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            found.append((1, place))
    return found


def _own_path(root: Path, version: int) -> str | None:
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if version == 2 and number == "0" and not controllers:
            return path
        if version == 1 and "cpu" in controllers.split(","):
            return path
    return None


def _limited(home: Path) -> bool:
    """Whether this group has limits of its own, which a group beside it would escape."""
    for name in ("cpu.max", "memory.max"):
        words = _words(home / name)
        if words and words[0] != "max":
            return True
    return False


def _make(group: Group) -> None:
    for attempt in range(_TRIES):
        try:
            with contextlib.suppress(FileExistsError):  # of a process that had our number
                group.folder.mkdir()
            _write_quota(group, group.quota_us)
            _join(group.folder)
            return
        except FileNotFoundError:  # swept away as empty by somebody whose /proc lacks us
            if attempt == _TRIES - 1:
                raise


def _join(folder: Path) -> None:
    _write(folder / "cgroup.procs", str(os.getpid()))


def _write_quota(group: Group, quota_us: int | None) -> None:
    if group.version == 2:
        text = "max" if quota_us is None else str(quota_us)
        _write(group.folder / "cpu.max", f"{text} {group.period_us}")
        return
    _write(group.folder / "cpu.cfs_period_us", str(group.period_us))
    _write(group.folder / "cpu.cfs_quota_us", str(-1 if quota_us is None else quota_us))


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
