"""Learning an entropy model from the symbols of calibration frames.

Floating-point arithmetic happens here and nowhere after: what is learnt is rounded to integers,
which the session carries.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy import model as m
from splitbed.codec.entropy.model import ChannelModel, ContextModel
from splitbed.codec.entropy.prediction import beside, learnt
from splitbed.codec.entropy.tables import Tables
from splitbed.codec.entropy.vectorised import half_octaves, residual_of, table_and_base

Floats = NDArray[np.float64]

_SMOOTHING: Final = 4.0
"""Symbols' worth of belief in a coarser table where a finer one has seen little."""
_SPREAD_ROWS: Final = 300_000
_CLASSES: Final = 16
_MOST_CHANNEL_TABLES: Final = 64

_spurious = np.errstate(divide="ignore", over="ignore", invalid="ignore")
"""Matrix products on ARM raise floating-point flags for lanes that hold nothing."""


@_spurious
def fit_channels(symbols: NDArray[np.uint8], alphabet: int) -> ChannelModel:
    """Tables for channels from symbols [frames, channels, any].

    Channels with like statistics share a table (at most 64 of them): Lloyd's algorithm on the cost
    in bits, begun with channels in the order of their mean.
    """
    channels = symbols.shape[1]
    flat = np.moveaxis(symbols, 1, 0).reshape(channels, -1)
    counts = np.stack([np.bincount(row, minlength=alphabet) for row in flat]).astype(np.float64)
    prior = counts.sum(axis=0) + 0.5
    smooth = counts + 2 * prior / prior.sum()
    groups = min(_MOST_CHANNEL_TABLES, channels)
    mean = counts @ np.arange(alphabet)
    table_of = np.empty(channels, np.int64)
    table_of[np.argsort(mean, kind="stable")] = np.arange(channels) * groups // channels
    for _ in range(10 if groups < channels else 1):
        weights = np.zeros((groups, alphabet))
        np.add.at(weights, table_of, smooth)
        weights += 1e-3 * prior / prior.sum()
        bits = -np.log2(weights / weights.sum(axis=1, keepdims=True))
        table_of = np.argmin(smooth @ bits.T, axis=1) if groups < channels else table_of
    used, table_of = np.unique(table_of, return_inverse=True)
    return ChannelModel(Tables.of(weights[used]), table_of.astype(np.uint8))


@_spurious
def fit_contexts(symbols: NDArray[np.uint8], alphabet: int, zero: int) -> ContextModel:
    """A context model from symbols [frames, channels, height, width]; `zero` codes the value 0."""
    values = symbols.astype(np.int32) - zero
    padded = np.pad(values, ((0, 0), (0, 1), (2, 0), (2, 1)))
    weights = learnt(values, padded)
    predicted = weights.predicted(values, padded)
    predicted = np.clip(predicted, -zero * m.ONE, (alphabet - 1 - zero) * m.ONE)
    residual = residual_of(values, predicted)
    spread, scale, scale_weights = _spread(residual, predicted, weights.parents)
    kind = half_octaves(spread)
    first = int(np.quantile(kind, 0.003))
    kind = np.clip(kind - first, 0, _CLASSES - 1)
    table, base = table_and_base(kind, predicted, zero)
    coded = symbols.astype(np.int32) - base
    window = int(np.clip(np.quantile(np.abs(coded), 0.9995) + 4, 4, m.MOST_WINDOW))
    window = max(1, min(window, alphabet - 1))
    tables = _tables(table.reshape(-1), coded.reshape(-1), window)
    return ContextModel(
        alphabet,
        zero,
        window,
        max(first, 0),
        scale_weights,
        weights.bias,
        scale,
        weights.near,
        weights.parents,
        weights.parent_weights,
        weights.dense,
        weights.levels,
        tables,
    )


def _spread(
    residual: NDArray[np.int32], predicted: NDArray[np.int32], parents: NDArray[np.int16]
) -> tuple[NDArray[np.int32], NDArray[np.int32], tuple[int, int, int, int]]:
    """How far symbols lie from their prediction, from how far those around did.

    The same weights for all channels, beside each one's own mean. Weighted least squares, where the
    error of a spread is in proportion to it.
    """
    frames, channels, height, width = residual.shape
    padded = np.pad(residual, ((0, 0), (0, 1), (2, 0), (2, 1)))
    own = residual.mean(axis=(0, 2, 3))
    places = frames * height * width
    draw = np.random.default_rng(1)
    each = max(200, _SPREAD_ROWS // channels)

    def seen(channel: int) -> NDArray[np.int32]:
        west, north, north_west, north_east = (
            beside(padded, channel, *step) for step in m.NEAR[:4]
        )
        around = sum(padded[:, parent, 2:, 2:-1] for parent in parents[channel])
        magnitude = np.abs(predicted[:, channel]) >> m.RESIDUAL_SHIFT
        columns = (west + north, north_west + north_east, around, magnitude)
        return np.stack([np.asarray(column).reshape(-1) for column in columns], axis=1)

    rows, wanted = [], []
    for channel in range(channels):
        some = draw.choice(places, min(places, each), replace=False)
        columns = np.concatenate(
            [np.full((some.size, 1), own[channel]), seen(channel)[some]], axis=1
        )
        rows.append(columns)
        wanted.append(residual[:, channel].reshape(-1)[some])
    columns, target = np.concatenate(rows).astype(np.float64), np.concatenate(wanted)
    weights = np.full(columns.shape[1], 0.15)
    for _ in range(8):
        expected = np.maximum(columns @ weights, 0.05)
        certainty = 1 / (expected * expected + 0.3 * expected)
        gram = (columns * certainty[:, None]).T @ columns + 1e-6 * np.eye(columns.shape[1])
        weights = np.linalg.solve(gram, (columns * certainty[:, None]).T @ target)
    whole = np.clip(np.rint(weights * m.SPREAD_ONE), -4096, 4096).astype(np.int32)
    scale = np.rint(own * weights[0] * m.SPREAD_ONE).astype(np.int32)
    found = np.empty_like(residual)
    for channel in range(channels):
        spread = scale[channel] + seen(channel) @ whole[1:]
        found[:, channel] = spread.reshape(frames, height, width)
    _, first, second, third, fourth = (int(weight) for weight in whole)
    return found, scale, (first, second, third, fourth)


def _tables(table: NDArray[np.int64], coded: NDArray[np.int32], window: int) -> Tables:
    """Counted, and smoothed: a table leans on that of all floors, and this on that of its class."""
    entries = 2 * window + 2
    entry = np.where(np.abs(coded) <= window, coded + window, entries - 1)
    shape = (_CLASSES, m.PHASES, m.FLOORS, entries)
    index = table.astype(np.int64) * entries + entry
    counts = np.bincount(index, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)
    of_phase = counts.sum(axis=2, keepdims=True)
    of_class = of_phase.sum(axis=1, keepdims=True) + 0.05
    believed = of_class / of_class.sum(axis=-1, keepdims=True)
    for finer in (of_phase, counts):
        believed = (finer + _SMOOTHING * believed) / (
            finer.sum(axis=-1, keepdims=True) + _SMOOTHING
        )
    return Tables.of(believed.reshape(-1, entries))
