"""A distribution-free interval of a percentile: which of the sorted samples enclose it."""

from __future__ import annotations

import math

import numpy as np


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
