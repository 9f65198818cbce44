"""One direction of the relay: when does a chunk leave, when does it arrive.

A shaper is a virtual wire, and a place on it is a number of bytes: how many can have passed since
the shaper was made. A chunk is booked behind the last one, or where the wire has come to by now,
whichever is further; the `Schedule` says when the wire gets there. All connections of a direction
book the same wire, so they share its rate.

Another schedule may take over at any time. Places stay what they are, only their instants change,
and a chunk that waits for its place waits for the new instant. A chunk that leaves soon has been
let go by then and keeps its instant, so that a thread that wakes up late costs nothing.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Final, NamedTuple

from netem.drift import Drift
from netem.jitter import Jitter
from netem.schedule import Schedule
from splitbed.link import Direction

HORIZON_NS: Final = 4_000_000
"""How far ahead of its departure a chunk may be booked. Long enough that a reader that wakes late
loses no capacity, short enough that connections take turns."""

_SOON_NS: Final = 2 * HORIZON_NS
"""A chunk that leaves within this time is let go."""

_CHUNK_NS: Final = 1_000_000
"""A chunk is what the wire carries in this time, in whole packets, up to the largest read."""

_SLOW_CHUNK_NS: Final = 10_000_000
"""Where that is less than a packet: what it carries in this time, up to a packet."""

PACKET_BYTES: Final = 1448
_LARGEST_CHUNK_BYTES: Final = 256 * 1024 // PACKET_BYTES * PACKET_BYTES
_LONGEST_WAIT_S: Final = 3600.0


class Passage(NamedTuple):
    """What becomes of a chunk."""

    taken_bytes: int
    """How much was taken of what was offered; the rest is a chunk of its own."""
    leaves_ns: int
    """When the last bit of it leaves, by `time.perf_counter_ns`."""
    arrives_ns: int
    """When the last bit of it arrives."""


class Shaper:
    """Rate, delay and jitter of one direction, shared by all connections over it."""

    def __init__(self, direction: Direction, seed: int) -> None:
        self._jitter = Jitter(direction, seed)
        self._turn = threading.Condition()
        self._closed = False
        self._booked = 0.0
        """Place behind the last chunk."""
        self._let_go_ns = 0
        """When the last of the chunks leaves that were let go."""
        self._use(Schedule(direction), time.perf_counter_ns(), time.perf_counter_ns(), 0.0)
        self.drift: Drift | None = None
        """Where to note how late chunks are handed over; None: nowhere."""
        self.carried_bytes = 0
        """Payload bytes booked so far."""

    def follow(self, schedule: Schedule, origin_ns: int) -> None:
        """From `origin_ns`, which is now, carry by this schedule from its beginning on."""
        with self._turn:
            # What was let go leaves by the old schedule, and the wire is its own until then.
            begin_ns = max(origin_ns, self._let_go_ns)
            self._use(schedule, origin_ns, begin_ns, self._place(begin_ns))
            self._turn.notify_all()

    def _use(self, schedule: Schedule, origin_ns: int, begin_ns: int, place: float) -> None:
        self._schedule, self._origin_ns = schedule, origin_ns
        self._begin_ns, self._begin = begin_ns, place
        self._base = place - schedule.carried_bytes(begin_ns - origin_ns)

    @property
    def chunk_bytes(self) -> int:
        """How much to take off a sender at once."""
        with self._turn:
            return self._chunk(max(self._place(time.perf_counter_ns()), self._booked))

    def carry(self, size: int, counted: bool) -> Passage:
        """Put up to `size` bytes on the wire; returns when they are let go, soon before they leave.

        `size` 0 is the end of a stream, which takes its place like one byte.
        """
        with self._turn:
            now_ns = time.perf_counter_ns()
            begin = max(self._place(now_ns), self._booked)
            taken = min(size, self._chunk(begin))
            self._booked = end = begin + max(1, taken)
            if counted:
                self.carried_bytes += taken
            while not self._closed:
                leaves_ns = self._instant_ns(end)
                early_ns = leaves_ns - _SOON_NS - now_ns
                if early_ns <= 0:
                    break
                self._turn.wait(min(early_ns / 1e9, _LONGEST_WAIT_S))
                now_ns = time.perf_counter_ns()
            else:
                return Passage(size, now_ns, now_ns)
            self._let_go_ns = max(self._let_go_ns, math.ceil(leaves_ns))
            delay_ns: float = self._schedule.delay_ns(leaves_ns - self._origin_ns)
            delay_ns = max(0.0, delay_ns + self._jitter.draw_ns())
        return Passage(taken, math.ceil(leaves_ns), math.ceil(leaves_ns + delay_ns))

    def close(self) -> None:
        """Whoever waits for its turn need not wait any longer."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def _place(self, at_ns: float) -> float:
        """Where the wire has come to at an instant."""
        return self._base + self._schedule.carried_bytes(
            max(at_ns, self._begin_ns) - self._origin_ns
        )

    def _instant_ns(self, place: float) -> float:
        """When the wire comes to a place; not before the schedule began to hold."""
        if place <= self._begin:
            return self._begin_ns
        return self._origin_ns + self._schedule.instant_ns(place - self._base)

    def _chunk(self, place: float) -> int:
        """Bytes of a chunk that begins at a place."""
        schedule = self._schedule
        begin = place - self._base
        # Not where the wire comes to the place: it may stand still there for a while.
        first_ns = schedule.instant_ns(begin + 1)
        if math.isinf(first_ns):
            return PACKET_BYTES
        packets = int((schedule.carried_bytes(first_ns + _CHUNK_NS) - begin) // PACKET_BYTES)
        if packets:
            return min(packets * PACKET_BYTES, _LARGEST_CHUNK_BYTES)
        slowly = int(schedule.carried_bytes(first_ns + _SLOW_CHUNK_NS) - begin)
        return max(1, min(slowly, PACKET_BYTES))


def sleep_until(due_ns: int) -> None:
    """Sleep until `due_ns` of `time.perf_counter_ns`; at once if that is past."""
    left_ns = due_ns - time.perf_counter_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
