"""How many independent samples as much is known from as from a stream of them.

Frames that share a queue wait together: ten thousand of them may say as little as fifty that have
nothing to do with each other. An interval that takes them for independent is then far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from splitbed.percentile import Floats, interval_ranks
from splitbed.student import Z95, student95

_QUIET_LAGS: Final = 5
_MOST_SHARE: Final = 1 / 3
"""Of the sample, over which a likeness is looked for."""


def memory(samples: Sequence[float] | Floats) -> int:
    """Over how many samples on from each they are still alike; 0: as good as independent.

    The lag after which five autocorrelations in a row are within chance, 2 sqrt(log10(n) / n): the
    rule of D. N. Politis and H. White, Econometric Reviews 23 (2004), for the length of bootstrap
    blocks. Of ranks, so that one outlier hides nothing.
    """
    return _memory(_autocovariance(_ranks(np.asarray(samples, np.float64))), len(samples))


def stream_ranks(values: Floats, estimate: float, share: float, alike: int) -> tuple[int, int]:
    """`interval_ranks` of values in the order in which they came, alike over so many of them.

    `estimate` is their `share` quantile. The ranks are those of so many independent samples as tell
    as much of the count of values up to it, spread over all of them.
    """
    count = len(values)
    independent = effective(values <= estimate, alike)
    lower, upper = interval_ranks(independent, share)
    low = math.floor(lower * count / independent)
    high = math.ceil(upper * count / independent) if upper <= independent else count + 1
    return low, high


def effective(is_so: np.ndarray[tuple[int], np.dtype[np.bool_]], alike: int) -> int:
    """So many independent samples say as much of a share as these, which are alike over `alike`."""
    values = is_so.astype(np.float64)
    factor = widening(values, max(alike, _memory(_autocovariance(values), len(values))))
    return max(1, int(len(values) / factor))


def widening(values: Floats, alike: int) -> float:
    """By how much a likeness over `alike` samples widens the variance of their mean; at least 1.

    The spectral density at zero over the variance, with the flat-top window of Politis and White
    over twice the memory, and Student's factor for so few stretches of that length.
    """
    count = len(values)
    lags = min(2 * alike, int(count * _MOST_SHARE))
    if alike == 0 or lags == 0:
        return 1.0
    covariance = _autocovariance(values)
    if covariance[0] <= 0:
        return 1.0
    at = np.arange(1, lags + 1)
    window = np.minimum(1.0, 2 * (1 - at / lags))
    # Around the sample's own mean, covariances come out too small by about this share.
    kept = 1 - min(lags / count, 0.5)
    factor = 1 + 2 * float(window @ covariance[at]) / float(covariance[0]) / kept
    return max(1.0, factor) * (student95(max(2.0, 0.75 * count / lags)) / Z95) ** 2


def _memory(covariance: Floats, count: int) -> int:
    if count < 2 * _QUIET_LAGS or covariance[0] <= 0:
        return 0
    quiet = max(_QUIET_LAGS, int(math.sqrt(math.log10(count))))
    most = min(2 * math.ceil(math.sqrt(count)) + quiet, count - 1)
    chance = 2 * math.sqrt(math.log10(count) / count)
    heard = np.abs(covariance[1 : most + 1] / covariance[0]) >= chance
    silent = 0
    for lag, is_heard in enumerate(heard, 1):
        silent = 0 if is_heard else silent + 1
        if silent == quiet:
            return lag - quiet
    return int(np.flatnonzero(heard)[-1]) + 1 if heard.any() else 0


def _autocovariance(values: Floats) -> Floats:
    """At every lag from 0 on, by the Fourier transform."""
    count = len(values)
    transformed = np.fft.rfft(values - values.mean(), 2 * count)
    found: Floats = np.fft.irfft(np.abs(transformed) ** 2)[:count] / count
    return found


def _ranks(values: Floats) -> Floats:
    """Place of each in the order of size, equal values sharing theirs."""
    _, where, often = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(often) - (often - 1) / 2
    found: Floats = middle[where]
    return found
