"""One direction of the relay: when does a chunk leave, when does it arrive.

A shaper is a virtual wire. It keeps the instant at which the wire is free again; a chunk that comes
earlier waits for it. All connections of a direction book the same wire, so they share its rate.
"""

from __future__ import annotations

import math
import random
import threading
import time
from typing import Final

from splitbed.link import Direction

HORIZON_NS: Final = 4_000_000
"""How far ahead of its departure a chunk may be booked. Long enough that a reader that wakes late
loses no capacity, short enough that connections take turns."""

_CHUNK_NS: Final = 1_000_000
"""A chunk is what the wire carries in this time, between one packet and the largest read."""

PACKET_BYTES: Final = 1448
_LARGEST_CHUNK_BYTES: Final = 256 * 1024


class Shaper:
    """Rate, delay and jitter of one direction, shared by all connections over it."""

    def __init__(self, direction: Direction, seed: int) -> None:
        self._direction = direction
        payload_bps = direction.payload_bps
        self._ns_per_byte = 0.0 if payload_bps is None else 8e9 / payload_bps
        self._free_ns = 0.0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.carried_bytes = 0
        """Payload bytes booked so far."""
        if payload_bps is None:
            self.chunk_bytes = _LARGEST_CHUNK_BYTES
        else:
            packets = int(_CHUNK_NS / self._ns_per_byte / PACKET_BYTES)
            largest = _LARGEST_CHUNK_BYTES // PACKET_BYTES
            self.chunk_bytes = max(1, min(packets, largest)) * PACKET_BYTES

    def book(self, size: int, counted: bool) -> tuple[int, int]:
        """Put `size` bytes on the wire now.

        Returns when their last bit leaves and when it arrives, by `time.perf_counter_ns`.
        """
        with self._lock:
            start_ns = max(float(time.perf_counter_ns()), self._free_ns)
            leaves_ns = start_ns + size * self._ns_per_byte
            self._free_ns = leaves_ns
            if counted:
                self.carried_bytes += size
            jitter_ns = (
                self._random.gauss(0, self._direction.jitter_ns)
                if self._direction.jitter_ns
                else 0.0
            )
        travel_ns = max(0.0, self._direction.delay_ns + jitter_ns)
        return math.ceil(leaves_ns), math.ceil(leaves_ns + travel_ns)


def sleep_until(due_ns: int) -> None:
    """Sleep until `due_ns` of `time.perf_counter_ns`; at once if that is past."""
    left_ns = due_ns - time.perf_counter_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
