"""One transfer over TCP, timed at its receiver once it is up to speed.

A connection begins slowly: over a long path it takes ten round trips until it fills the link, and
what is sent meanwhile says nothing of the link. The receiver therefore notes how far it is after
every window of time, and what came before the speed was reached is left out afterwards.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Final

import msgspec
from msgspec import Meta

LONGEST_NS: Final = 120_000_000_000
"""Of one transfer."""

_STALL_S: Final = 60.0
"""Longest wait for a single byte."""

_READ_BYTES: Final = 1 << 20
_BLOCK: Final = bytes(64 * 1024)
_UNKNOWN_BPS: Final = 200e6
"""Taken for a rate that nobody asked for."""
_FIRST_WINDOW_BYTES: Final = 10 * 1448
"""What TCP sends before the first acknowledgement (RFC 6928)."""

_FEWEST_WINDOWS: Final = 4
_UP_TO_SPEED: Final = 0.98


class TransferPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the client asks for."""

    duration_ns: Annotated[int, Meta(gt=0, le=LONGEST_NS)]
    """How long the sender goes on putting bytes in."""
    window_ns: Annotated[int, Meta(ge=10_000_000, le=LONGEST_NS)]
    """How often the receiver notes how far it is; at least one round trip."""
    most_bytes: Annotated[int, Meta(gt=0, le=1 << 40)]
    """After which the sender stops earlier."""
    unsent_bytes: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    """The most that may wait in the sender's buffer to be sent; 0: as TCP likes."""


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the receiver saw. Time and bytes count from the end of its first read.

    What the first read took arrived over an unknown time.
    """

    received_bytes: int
    marks: tuple[tuple[int, int], ...]
    """Nanoseconds and bytes so far: about one a window, and the last at the last byte."""

    @property
    def bps(self) -> float:
        """Payload bits per second, once up to speed.

        The speed is the median of the windows in the second half. What comes before the first two
        windows in a row that reach 98 % of it is left out (slow start fills one, and the next is
        half empty); so is the very first, which may have been saved up in a bucket, and the last,
        which ends anywhere. Of fewer than four windows all count.
        """
        marks = [(0, 0), *self.marks]
        spans = [(t1 - t0, b1 - b0) for (t0, b0), (t1, b1) in pairwise(marks)]
        if len(spans) <= _FEWEST_WINDOWS + 1:
            return _bps(marks[0], marks[-1])
        rates = [size / max(1, took) for took, size in spans[1:-1]]
        speed = median(rates[len(rates) // 2 :])
        is_fast = [rate >= _UP_TO_SPEED * speed for rate in rates]
        pairs = (i for i, both in enumerate(pairwise(is_fast)) if all(both))
        begin = next(pairs, is_fast.index(True))
        return _bps(marks[1 + begin], marks[-2])


def _bps(start: tuple[int, int], end: tuple[int, int]) -> float:
    return (end[1] - start[1]) * 8e9 / max(1, end[0] - start[0])


def planned(rate_bps: float | None, rtt_ns: int, seconds: float, is_lossy: bool) -> TransferPlan:
    """A transfer of about `seconds` after TCP came up to speed on a path of this round trip.

    Slow start doubles what is under way every round trip, from ten segments to rate x round trip.
    At speed, at least six round trips follow. Where packets are lost on purpose, TCP does not come
    near the rate: what its buffer took in would be under way for many seconds after the time is up,
    so little may wait there.
    """
    window_ns = max(100_000_000, rtt_ns)
    if seconds * 1e9 < _FEWEST_WINDOWS * window_ns and rtt_ns < 10_000_000:
        window_ns = max(10_000_000, int(seconds * 1e9) // 8)
    bps = rate_bps or _UNKNOWN_BPS
    under_way = bps / 8 * rtt_ns / 1e9
    doublings = 0.0 if is_lossy else 1 + math.log2(max(1.0, under_way / _FIRST_WINDOW_BYTES))
    steady_ns = max(int(seconds * 1e9), (_FEWEST_WINDOWS + 2) * rtt_ns)
    duration_ns = min(LONGEST_NS, int(doublings * rtt_ns) + steady_ns)
    most = 1 << 40 if rate_bps is None else int(rate_bps / 8 * duration_ns / 1e9)
    return TransferPlan(
        duration_ns=duration_ns,
        window_ns=window_ns,
        most_bytes=max(most, 2 * _FIRST_WINDOW_BYTES),
        unsent_bytes=int(min(max(bps / 8 / 4, 32 * 1024), 256 * 1024)) if is_lossy else 0,
    )


def drain(sock: socket.socket, plan: TransferPlan) -> Transfer:
    """Read until the sender is done."""
    sock.settimeout(_STALL_S)
    buffer = bytearray(_READ_BYTES)
    first = sock.recv_into(buffer)
    start_ns = now_ns = time.perf_counter_ns()
    due_ns, end_ns = start_ns + plan.window_ns, start_ns + 2 * LONGEST_NS
    received = 0
    marks: list[tuple[int, int]] = []
    while (got := sock.recv_into(buffer)) and now_ns < end_ns:
        now_ns = time.perf_counter_ns()
        received += got
        if now_ns >= due_ns:
            marks.append((now_ns - start_ns, received))
            due_ns = max(due_ns, now_ns - plan.window_ns // 2) + plan.window_ns
    if received and (not marks or marks[-1][1] != received):
        marks.append((now_ns - start_ns, received))
    return Transfer(first + received, tuple(marks))


def pour(sock: socket.socket, plan: TransferPlan) -> None:
    """Send zeros as planned, and say that they were all."""
    sock.settimeout(_STALL_S)
    if plan.unsent_bytes:
        with contextlib.suppress(OSError):  # no TCP: behind the relay
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, plan.unsent_bytes)
    end_ns, left = time.perf_counter_ns() + plan.duration_ns, plan.most_bytes
    while left > 0 and time.perf_counter_ns() < end_ns:
        left -= sock.send(_BLOCK[: min(left, len(_BLOCK))])
    sock.shutdown(socket.SHUT_WR)


def largest_buffers() -> tuple[int, int]:
    """Bytes to which this host lets TCP's receive and send buffer grow; zeros where unknown."""
    found = []
    for name in ("tcp_rmem", "tcp_wmem"):
        try:
            found.append(int(Path("/proc/sys/net/ipv4", name).read_text().split()[2]))
        except (OSError, ValueError, IndexError):
            return 0, 0
    return found[0], found[1]


def window_bytes(send_buffer: int, receive_buffer: int) -> int:
    """Payload that may be under way, about: half of the receiver's buffer, a third of the sender's.

    The rest is bookkeeping, and room that a sender waits for before it goes on.
    """
    return min(send_buffer // 3, receive_buffer // 2)
