"""Statistics of samples that come one after the other, and are like the ones before them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from experiments.statistics import Percentile, percentile
from splitbed.dependence import memory, stream_ranks, widening
from splitbed.student import student95


class Interval(msgspec.Struct, frozen=True):
    """A figure with its 95 % confidence interval; None for an end that the sample cannot give."""

    value: float
    low: float | None
    high: float | None


def stream_percentile(samples: Sequence[float], share: float, alike: int) -> Percentile:
    """The `share` quantile of samples in their order, `alike` being their `memory`.

    The interval is that of `percentile`, by the binomial distribution, for so many independent
    samples as tell as much as these: their number over the factor by which likeness widens the
    variance of the count of samples at or below the quantile. Without a memory it is `percentile`'s
    own.
    """
    values, found = np.asarray(samples, np.float64), percentile(samples, share)
    low, high = stream_ranks(values, found.value, share, alike)
    ordered = np.sort(values)
    return Percentile(
        found.value,
        min(found.value, float(ordered[low - 1])) if low >= 1 else None,
        max(found.value, float(ordered[high - 1])) if high <= len(ordered) else None,
    )


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
