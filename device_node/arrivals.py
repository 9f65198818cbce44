"""When frames are due: pure arithmetic, in nanoseconds from the start of the load."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

from splitbed.load import LoadPlan


def due_times(plan: LoadPlan) -> Iterator[int]:
    """Due times without end, none before the one before it.

    `rate`: frame n at n / rate, so that rounding does not add up. `poisson`: independent
    exponential gaps of mean 1 / rate, from the seed; the same on every machine. `offline`: all
    at 0. ValueError for a closed loop, which has no schedule.
    """
    if plan.kind == "offline":
        return itertools.repeat(0)
    if plan.rate_fps is None:
        raise ValueError(f"a load of kind {plan.kind} has no schedule")
    gap_ns = 1e9 / plan.rate_fps
    if plan.kind == "rate":
        return (int(number * gap_ns) for number in itertools.count())
    return _poisson(gap_ns, plan.seed)


def _poisson(gap_ns: float, seed: int) -> Iterator[int]:
    chance, due_ns = random.Random(seed), 0.0
    while True:
        # The inverse of the distribution: expovariate's own way of drawing is Python's to change.
        due_ns -= gap_ns * math.log1p(-chance.random())
        yield int(due_ns)
