"""Who shaped an interface, and what is to be restored: one small file each in /run/splitbed.

A file is named for the network namespace and the interface, and holds its owner's process id and
start time, so that a later process can tell an owner that lives from one that crashed.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from splitbed.errors import LinkError

_FOLDER: Final = Path("/run/splitbed")
_START_FIELD: Final = 19
"""Of /proc/PID/stat after the name in brackets: when the process started, in clock ticks."""


class Record(msgspec.Struct, frozen=True):
    """One shaped interface."""

    interface: str
    profile: str
    pid: int
    started: str
    """The owner's start time by the kernel's count: process ids are used again."""
    begun_utc: str
    offloads: dict[str, bool]
    """As they were."""

    @staticmethod
    def of_this_process(interface: str, profile: str, offloads: dict[str, bool]) -> Record:
        """A record that this process owns, from now on."""
        return Record(
            interface=interface,
            profile=profile,
            pid=os.getpid(),
            started=_start_of(os.getpid()),
            begun_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            offloads=offloads,
        )

    @property
    def is_of_this_process(self) -> bool:
        """Whether its owner is this process."""
        return self.pid == os.getpid() and self.started == _start_of(self.pid)

    @property
    def is_held(self) -> bool:
        """Whether its owner lives."""
        return self.started != "" and _start_of(self.pid) == self.started


def write(record: Record) -> None:
    """Keep it, in place of an older one of the same interface."""
    path = _path(record.interface)
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.write_bytes(msgspec.json.encode(record))
    except OSError as error:
        raise LinkError(
            f"cannot note in {path} what is done to {record.interface}: {error.strerror}"
        ) from error


def read(interface: str) -> Record | None:
    """The record of an interface; None where there is none that can be read."""
    try:
        return msgspec.json.decode(_path(interface).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


def forget(interface: str) -> None:
    """Remove the record of an interface; fine if there is none."""
    with contextlib.suppress(OSError):
        _path(interface).unlink()


def _path(interface: str) -> Path:
    namespace = os.stat("/proc/thread-self/ns/net").st_ino
    return _FOLDER / f"{namespace}.{interface}.json"


def _start_of(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[_START_FIELD]
