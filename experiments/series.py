"""Statistics of samples that come one after the other, and are like the ones before them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from splitbed.dependence import memory, widening
from splitbed.student import student95


class Interval(msgspec.Struct, frozen=True):
    """A figure with its 95 % confidence interval; None for an end that the sample cannot give."""

    value: float
    low: float | None
    high: float | None


def stream_mean(samples: Sequence[float]) -> Interval:
    """The mean of samples in their order, with Student's interval for as many as are independent.

    Without ends for fewer than five samples.
    """
    values = np.asarray(samples, np.float64)
    count, middle = len(values), float(np.mean(values))
    if count < 5:
        return Interval(middle, None, None)
    factor = widening(values, memory(samples))
    half = student95(count - 1) * math.sqrt(float(np.var(values, ddof=1)) * factor / count)
    return Interval(middle, middle - half, middle + half)
