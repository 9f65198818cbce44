"""The range within which a tensor, or each of its channels, is quantised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.layout import planes
from splitbed.codec.statistics import BINS, TensorStatistics
from splitbed.errors import CodecError, CodecUnknown
from splitbed.tensor import Array

Floats = NDArray[np.float64]

_MOST_BINS: Final = 1 << 20
"""Of all channels together, so that many of them take no longer than seconds."""
_DEAD: Final = 1e-20
"""Magnitudes below it are taken as zero."""


def clip_range(
    statistics: TensorStatistics, bits: int, rule: str, *, symmetric: bool = False
) -> tuple[float, float]:
    """Range to quantise within: `minmax`, `pNN.N` (that share of the values), or `mse`.

    `mse` takes the range with the smallest expected squared error of `bits`-bit quantisation over
    the calibration's histogram. A tensor that is never negative keeps low = 0, so that zero stays
    exact. Symmetric, the range is as wide on both sides of zero, which a level then hits.
    """
    low, high = statistics.low, statistics.high
    narrow = max(abs(low), abs(high), _DEAD) * 1e-6
    if symmetric:
        lows, highs = _ranges(_rows_of(statistics), bits, rule, symmetric=True)
        return float(lows[0]), float(highs[0])
    if not high - low > narrow:
        return low, low + 1e3 * narrow  # as good as constant: any range will do
    floor = 0.0 if low >= 0 else low
    if rule == "minmax":
        return floor, high
    part = clip_share(rule)
    if part is not None:
        tail = 1 - part if floor == 0.0 else (1 - part) / 2
        lower = 0.0 if floor == 0.0 else statistics.quantile(tail)
        upper = statistics.quantile(1 - tail)
        return (lower, upper) if lower < upper else (floor, high)
    return _least_error(statistics, floor, high, (1 << bits) - 1)


def channel_ranges(
    samples: Sequence[Array], bits: int, rule: str, *, symmetric: bool = False
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same for each channel of calibration frames: lower ends, higher ends.

    Written with as many digits as a hundredth of a step has. A channel that was zero throughout
    gets the range of the whole tensor, in case it ever is not.
    """
    lows, highs = _ranges(_rows_of_channels(samples), bits, rule, symmetric=symmetric)
    digits = 2 - np.floor(np.log10((highs - lows) / ((1 << bits) - 1))).astype(int)
    ends = zip(lows.tolist(), highs.tolist(), digits.tolist(), strict=True)
    short = [(round(low, number), round(high, number)) for low, high, number in ends]
    return tuple(low for low, _ in short), tuple(high for _, high in short)


def clip_share(rule: str) -> float | None:
    """The share of `pNN.N`, None for the rules without one; CodecUnknown for anything else."""
    if rule in ("mse", "minmax"):
        return None
    try:
        part = float(rule.removeprefix("p")) / 100 if rule.startswith("p") else -1.0
    except ValueError:
        part = -1.0
    if not 0.5 <= part <= 1:
        raise CodecUnknown(f"quantize: clip is mse, minmax, or a share as in p99.9, not '{rule}'")
    return part


def _least_error(
    statistics: TensorStatistics, floor: float, high: float, levels: int
) -> tuple[float, float]:
    centres, weights = statistics.centres(), np.asarray(statistics.counts, np.float64)
    shares = np.geomspace(0.02, 1.0, 48)
    best, found = np.inf, (floor, high)
    for low in [0.0] if floor == 0.0 else [float(floor * share) for share in shares]:
        for top in shares * high if high > 0 else [high]:
            if not low < top:
                continue
            step = (top - low) / levels
            near = np.clip(np.rint((centres - low) / step), 0, levels) * step + low
            error = float(np.dot(weights, (near - centres) ** 2))
            if error < best:
                best, found = error, (low, float(top))
    return found


class _Rows(NamedTuple):
    """One distribution a row: values in ascending order [rows, bins], how often each, the ends."""

    values: Floats
    counts: Floats
    low: Floats
    high: Floats


def _rows_of(statistics: TensorStatistics) -> _Rows:
    counts = np.asarray(statistics.counts, np.float64)
    low, high = np.array([statistics.low]), np.array([statistics.high])
    return _Rows(statistics.centres()[None], counts[None], low, high)


def _rows_of_channels(samples: Sequence[Array]) -> _Rows:
    """A histogram for each channel, whose bins have the mean of what fell into them."""
    stacked = [planes(array) for array in samples]
    channels = stacked[0].shape[0]
    seen: Any = np.concatenate([array.reshape(channels, -1) for array in stacked], axis=1)
    low, high = seen.min(axis=1).astype(np.float64), seen.max(axis=1).astype(np.float64)
    if not np.isfinite(high - low).all():
        raise CodecError("a calibration frame has NaN or infinite elements: only raw can carry it")
    bins = max(128, min(BINS, _MOST_BINS // channels, 2 * seen.shape[1]))
    scale = (bins - 1) / np.maximum(high - low, 1e-300)
    counts, sums = np.empty((2, channels, bins))
    for at, row in enumerate(seen):
        index = ((row - low[at]) * scale[at]).astype(np.intp)
        np.minimum(index, bins - 1, out=index)
        counts[at] = np.bincount(index, minlength=bins)
        sums[at] = np.bincount(index, weights=row, minlength=bins)
    means = sums / np.maximum(counts, 1)
    return _Rows(np.where(counts > 0, means, low[:, None]), counts, low, high)


def _ranges(rows: _Rows, bits: int, rule: str, *, symmetric: bool) -> tuple[Floats, Floats]:
    """Lower and higher end of each row."""
    share = clip_share(rule)
    floor = np.where(rows.low >= 0, 0.0, rows.low)
    top = rows.high
    if symmetric:
        top = np.maximum(abs(rows.low), abs(rows.high))
        floor = -top
    narrow = np.maximum(np.maximum(abs(rows.low), abs(rows.high)), _DEAD) * 1e-6
    if share is not None:
        floor, top = _quantiles(rows, share, floor, top, symmetric=symmetric)
    elif rule == "mse":
        floor, top = _least_errors(rows, bits, floor, top, symmetric=symmetric)
    # As good as constant: any range will do, and for zeros the whole tensor's does.
    still = ~(rows.high - rows.low > narrow)
    if symmetric:
        whole = float(np.max(top))
        top = np.where(top > _DEAD, top, whole if whole > _DEAD else 1.0)
        return -top, top
    floor, top = np.where(still, rows.low, floor), np.where(still, rows.low + 1e3 * narrow, top)
    dead = still & (rows.low == 0)
    return floor, np.where(dead, max(float(np.max(rows.high)), 0.0) or 1.0, top)


def _quantiles(
    rows: _Rows, share: float, floor: Floats, top: Floats, *, symmetric: bool
) -> tuple[Floats, Floats]:
    """Ends that leave `1 - share` of the elements outside, on both sides where there are two."""
    values, counts = rows.values, rows.counts
    if symmetric:
        order = np.argsort(abs(values), axis=1)
        values = np.take_along_axis(abs(values), order, axis=1)
        counts = np.take_along_axis(counts, order, axis=1)
    reached = np.cumsum(counts, axis=1)
    one_sided = (floor == 0) | symmetric
    tail = np.where(one_sided, 1 - share, (1 - share) / 2)

    def value_at(part: Floats) -> Floats:
        index = np.argmax(reached >= (part * reached[:, -1])[:, None] - 1e-9, axis=1)
        return np.asarray(values[np.arange(len(values)), index])

    upper = np.minimum(value_at(1 - tail), top)
    if symmetric:
        upper = np.where(upper > 0, upper, top)
        return -upper, upper
    lower = np.where(floor == 0, 0.0, value_at(tail))
    fits = lower < upper
    return np.where(fits, lower, floor), np.where(fits, upper, top)


def _least_errors(
    rows: _Rows, bits: int, floor: Floats, top: Floats, *, symmetric: bool
) -> tuple[Floats, Floats]:
    """Ends of the smallest squared error, each a share of the whole range's."""
    levels = (1 << bits) - 1 - symmetric
    shares = np.geomspace(0.04, 1.0, 28)
    best = np.full(len(floor), np.inf)
    found_low, found_top = floor.copy(), top.copy()
    for low_share in shares[1::2] if not symmetric and (floor < 0).any() else [1.0]:
        for share in shares:
            low = floor * (share if symmetric else low_share)
            high = np.where(top > 0, top * share, top)
            step = np.where(low < high, high - low, 1.0) / levels
            scaled = (rows.values - low[:, None]) / step[:, None]
            near = np.clip(np.rint(scaled), 0, levels)
            near -= scaled
            error = np.einsum("ij,ij,ij->i", near, near, rows.counts) * np.square(step)
            better = (low < high) & (error < best)
            best = np.where(better, error, best)
            found_low, found_top = (
                np.where(better, low, found_low),
                np.where(better, high, found_top),
            )
    return found_low, found_top
