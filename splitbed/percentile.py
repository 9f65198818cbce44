"""Percentiles with a distribution-free interval: which of the sorted samples enclose them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


class Percentile(msgspec.Struct, frozen=True):
    """One percentile of a sample, with a 95 % confidence interval.

    The interval is distribution-free: two order statistics between which the true percentile lies
    with at least 95 % probability, by the binomial distribution (Conover, Practical Nonparametric
    Statistics, 3.2). A sample too small to hold one gives None for that end: more frames are needed
    to say, and no resampling of the same frames can replace them.
    """

    value: float
    low: float | None
    high: float | None

    def is_within(self, share: float) -> bool:
        """Whether both ends are known, and lie within this part of the value."""
        if self.low is None or self.high is None:
            return False
        most = share * self.value
        return self.value - self.low <= most and self.high - self.value <= most


def percentile(samples: Sequence[float] | Floats, share: float) -> Percentile:
    """The `share` quantile (0..1) by linear interpolation, with its interval."""
    ordered = np.sort(np.asarray(samples, np.float64))
    if len(ordered) == 0:
        raise ValueError("no samples")
    value = float(np.quantile(ordered, share))
    return enclosed(ordered, value, *interval_ranks(len(ordered), share))


def enclosed(ordered: Floats, value: float, lower: int, upper: int) -> Percentile:
    """A percentile between the sorted samples of two ranks, which `interval_ranks` explains."""
    return Percentile(
        value,
        # Of a few frames, a high percentile is interpolated below the largest, which bounds it.
        min(value, float(ordered[lower - 1])) if lower >= 1 else None,
        max(value, float(ordered[upper - 1])) if upper <= len(ordered) else None,
    )


def interval_ranks(count: int, share: float, outside: float = 0.05) -> tuple[int, int]:
    """Ranks (from 1) of two of `count` sorted samples with the `share` quantile between them.

    The true quantile lies between them with probability 1 - `outside` at least, whatever the
    distribution, as long as the samples are independent (Conover, Practical Nonparametric
    Statistics, 3.2). Rank 0, or `count` + 1, where the sample is too small to hold that end.
    """
    # P(X_(l) <= q) = P(Binomial(n, share) >= l): take the largest l, and the smallest u, that
    # leave at most half of `outside` on their side.
    below = _binomial_cdf(count, share)
    lower = int(np.searchsorted(below, outside / 2, side="right"))
    upper = int(np.searchsorted(below, 1 - outside / 2, side="left")) + 1
    return lower, upper


def _binomial_cdf(count: int, share: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """P(Binomial(count, share) <= k) for k = 0 .. count."""
    k = np.arange(count + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    log_choose = log_factorial[count] - log_factorial[k] - log_factorial[count - k]
    log_mass = log_choose + k * math.log(share) + (count - k) * math.log1p(-share)
    return np.cumsum(np.exp(log_mass))
