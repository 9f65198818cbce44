"""What one direction carries over time: how many bytes by an instant, and when so many have passed.

The whole course is known ahead, so both are exact: the rate is summed up once, step by step, and a
look-up finds the step. Nothing is done for every byte or at every change.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise
from typing import Final

from netem.trace_steps import Pieces
from splitbed.link import PAYLOAD_SHARE, Change, Direction

FREE_BPS: Final = 100_000_000_000
"""Stands for a rate that is left alone: more than a relay ever moves, and still a number."""

_EVER_NS: Final = 1 << 62
_ROUNDING_BYTES: Final = 1e-3
_STEADY: Final[Pieces] = ((0, Change()),)


class Schedule:
    """Capacity of a direction in payload bytes, in nanoseconds since the schedule's beginning.

    `pieces` are a trace's changes over the direction, which begin anew after `duration_ns`; without
    them the direction stays as it is.
    """

    def __init__(
        self,
        direction: Direction,
        pieces: Pieces = _STEADY,
        duration_ns: int = _EVER_NS,
    ) -> None:
        own_bps = FREE_BPS if direction.rate_bps is None else direction.rate_bps
        self._period_ns = duration_ns
        self._starts = [at_ns for at_ns, _ in pieces]
        self._speeds = [
            (own_bps if change.rate_bps is None else change.rate_bps) * PAYLOAD_SHARE / 8e9
            for _, change in pieces
        ]
        """Bytes a nanosecond."""
        self._delays = [
            direction.delay_ns if change.delay_ns is None else change.delay_ns
            for _, change in pieces
        ]
        spans = [b - a for a, b in pairwise([*self._starts, duration_ns])]
        carried = (span * speed for span, speed in zip(spans, self._speeds, strict=True))
        *self._sums, self._total = accumulate(carried, initial=0.0)

    @property
    def peak_bps(self) -> float | None:
        """Largest rate of payload, in bit/s; None where the rate is left alone at times."""
        peak_bps = max(self._speeds) * 8e9
        return None if peak_bps >= FREE_BPS * PAYLOAD_SHARE else peak_bps

    def carried_bytes(self, at_ns: float) -> float:
        """Bytes that can have passed by this instant."""
        rounds, rest_ns = divmod(at_ns, self._period_ns)
        index = bisect_right(self._starts, rest_ns) - 1
        passed = (rest_ns - self._starts[index]) * self._speeds[index]
        return rounds * self._total + self._sums[index] + passed

    def instant_ns(self, size: float) -> float:
        """When that many bytes have passed: the earliest instant; infinite if they never do."""
        # Sums are inexact in their last digits, and no rounding may make a byte wait out a gap.
        size -= _ROUNDING_BYTES
        if size <= 0:
            return 0.0
        if not self._total:
            return math.inf
        rounds = math.ceil(size / self._total) - 1
        rest = min(size - rounds * self._total, self._total)
        index = max(0, bisect_left(self._sums, rest) - 1)
        speed = self._speeds[index]
        within_ns = (rest - self._sums[index]) / speed if speed else 0.0
        return rounds * self._period_ns + self._starts[index] + within_ns

    def delay_ns(self, at_ns: float) -> int:
        """One-way delay of what leaves at this instant."""
        if len(self._delays) == 1:
            return self._delays[0]
        return self._delays[bisect_right(self._starts, at_ns % self._period_ns) - 1]
