"""When the kernel had what a process reads. The time between the two is the host's, not the link's.

Waking a process takes 0.05 ms on a machine that is awake, 0.2 ms on one that has slept for 20 ms,
and a phone takes its time.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterable
from typing import Final

_SO_TIMESTAMPNS: Final = 35
"""asm-generic/socket.h; a stamp comes under the same number."""
_STAMP: Final = struct.Struct("@ll")
NOTE_BYTES: Final = 256
"""Room for a packet's ancillary data."""


def stamp(sock: socket.socket, on: bool) -> None:
    """Have the kernel note when packets come, or no longer; where it cannot, nothing happens.

    A kernel that noted nothing until now begins a few milliseconds later. Until then, packets are
    noted as they are read.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, int(on))


def noted_ns(notes: Iterable[tuple[int, int, bytes]]) -> int:
    """The stamp among a packet's ancillary data: CLOCK_REALTIME in ns, 0 where there is none."""
    for level, kind, data in notes:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) == _STAMP.size:
            seconds, nanoseconds = _STAMP.unpack(data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0


def receive_stamped(sock: socket.socket, size: int) -> tuple[bytes, int]:
    """Exactly `size` bytes, and when the last of them came (as `noted_ns`).

    Raises EOFError where the other end closes before.
    """
    data, stamp_ns = b"", 0
    while len(data) < size:
        more, notes, _, _ = sock.recvmsg(size - len(data), NOTE_BYTES)
        if not more:
            raise EOFError("connection closed")
        data, stamp_ns = data + more, noted_ns(notes)
    return data, stamp_ns


def since(stamp_ns: int) -> int:
    """Nanoseconds since a stamp of this host; 0 if there is none, or the clock was set back."""
    return max(0, time.time_ns() - stamp_ns) if stamp_ns else 0
