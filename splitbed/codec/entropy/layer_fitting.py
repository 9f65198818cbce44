"""Learning a model of layers from the symbols of calibration frames."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy import nesting
from splitbed.codec.entropy.fitting import fit_channels
from splitbed.codec.entropy.layered import MOST_GROUPS, LayeredModel
from splitbed.codec.entropy.model import MOST_LANES
from splitbed.codec.entropy.tables import TOTAL, Tables

Floats = NDArray[np.float64]

_SMOOTHING: Final = 4.0
"""Entries' worth of belief in a coarser table where a finer one has seen little."""
_REACH: Final = 1.7
"""To how many standard deviations the coarsest bin around zero reaches. At about 1.7 the first layer
takes a quarter to a third of the bytes; at twice that it says nothing, and costs 2 to 4 % more
(MobileNetV2's 64x14x14, steps of 0.4 and 1)."""
_CHUNK_BYTES: Final = 256
"""A chunk is at least about so long: it costs some 4 bytes."""
_BYTES_A_LANE: Final = 320


def layers_for(symbols: NDArray[np.uint8], alphabet: int, zero: int) -> int:
    """How many layers suit these symbols."""
    values = symbols.astype(np.float32) - zero
    reach = _REACH * float(np.sqrt(np.square(values).mean()))
    layers = 1 + round(np.log2(max(1.0, reach)))
    return min(layers, most_layers(alphabet, zero))


def most_layers(alphabet: int, zero: int) -> int:
    """With more, the coarsest bins would all be one."""
    layers = nesting.MOST_DEPTH
    while layers > 1 and nesting.width(alphabet, zero, layers - 1) < 2:
        layers -= 1
    return layers


def fit_layers(
    symbols: NDArray[np.uint8], alphabet: int, zero: int, layers: int
) -> LayeredModel:
    """A model from symbols [frames, channels, height, width]."""
    frames, channels = symbols.shape[:2]
    values = symbols.astype(np.int16) - np.int16(zero)
    bins = [nesting.bins_of(values, depth) for depth in range(layers - 1, -1, -1)]
    size = np.abs(values).mean(axis=(0, 2, 3))
    class_of = np.empty(channels, np.uint8)
    class_of[np.argsort(size, kind="stable")] = np.arange(channels) * nesting.CLASSES // channels
    coarsest, table_of, bits = _coarsest(bins[0], class_of, alphabet, zero, layers - 1)
    costs, gains = [bits / frames], []
    finer, middles = [], []
    mean = np.clip(np.rint(values.mean(axis=(0, 2, 3))), -zero, alphabet - 1 - zero)
    error = _squared(values - mean[:, None, None].astype(np.int16))
    for layer, found in enumerate(bins):
        if layer:
            tables, bits = _finer(bins[layer - 1], found, class_of)
            finer.append(tables)
            costs.append(bits / frames)
        if layer == layers - 1:
            left = np.zeros(channels)
        else:
            middle = _middles(values, found, alphabet, zero, layers - 1 - layer)
            middles.append((middle + zero).astype(np.uint8))
            low, _ = nesting.ends(alphabet, zero, layers - 1 - layer)
            left = _squared(values - middle[found - np.int16(low)])
        gains.append((error - left) / frames)
        error = left
    cost, gain = np.stack(costs), np.stack(gains)
    channel = np.argsort(-gain.sum(axis=0), kind="stable")
    groups = _groups(cost.sum(axis=0)[channel], layers)
    starts = np.cumsum([0, *groups[:-1]])
    cost, gain = (np.add.reduceat(found[:, channel], starts, axis=1) for found in (cost, gain))
    order = _order(cost, gain)
    return LayeredModel(
        alphabet,
        zero,
        layers,
        groups,
        channel.astype(np.uint16),
        np.array([group for group, _ in order], np.uint8),
        tuple(_lanes(cost[layer, group] / 8) for group, layer in order),
        (mean + zero).astype(np.uint8)[channel],
        tuple(middles),
        table_of[channel],
        class_of[channel],
        coarsest,
        Tables(np.concatenate([tables.frequencies for tables in finer]))
        if finer
        else Tables.of(np.ones((1, nesting.PARTS))),
    )


def _squared(error: NDArray[Any]) -> Floats:
    """By channel."""
    found: Floats = np.square(error, dtype=np.float64).sum(axis=(0, 2, 3))
    return found


def _coarsest(
    bins: nesting.Bins, class_of: NDArray[np.uint8], alphabet: int, zero: int, depth: int
) -> tuple[Tables, NDArray[np.uint8], Floats]:
    """Tables of both kinds of places, which a channel has at even ones, and its bits in all."""
    frames, channels, height, width = bins.shape
    low, high = nesting.ends(alphabet, zero, depth)
    entries = high - low + 1
    even, odd = nesting.places(height, width)
    entry = (bins - np.int16(low)).astype(np.uint8).reshape(frames, channels, -1)
    at_even = fit_channels(entry[:, :, even], entries)
    rows = at_even.tables.frequencies.shape[0]
    table = np.empty((frames, channels, height * width), np.int64)
    table[:, :, even] = at_even.table_of[:, None]
    flat = bins.reshape(-1, height, width)
    kinds = nesting.coarsest_kinds(flat).reshape(frames, channels, -1)[:, :, odd]
    table[:, :, odd] = rows + class_of[:, None].astype(np.int64) * nesting.COARSE_KINDS + kinds
    tables = rows + nesting.CLASSES * nesting.COARSE_KINDS
    counts = _counts(table, entry, tables, entries)
    by_class = counts[rows:].reshape(nesting.CLASSES, nesting.COARSE_KINDS, entries)
    believed = _believed(by_class, by_class.sum(axis=0, keepdims=True))
    found = Tables(
        np.concatenate(
            [at_even.tables.frequencies, Tables.of(believed.reshape(-1, entries)).frequencies]
        )
    )
    return found, at_even.table_of, _bits(found, table, entry)


def _finer(
    coarse: nesting.Bins, fine: nesting.Bins, class_of: NDArray[np.uint8]
) -> tuple[Tables, Floats]:
    """Tables of one refinement, and the bits of each channel in all."""
    frames, channels, height, width = coarse.shape
    classes = np.tile(class_of.astype(np.uint16), frames)
    table = nesting.refinement_tables(coarse.reshape(-1, height, width), classes)
    table = table.reshape(frames, channels, -1).astype(np.int64)
    part = nesting.parts_of(coarse, fine).reshape(frames, channels, -1)
    counts = _counts(table, part, nesting.REFINEMENT_TABLES, nesting.PARTS)
    counts = counts.reshape(nesting.CLASSES, -1, nesting.LEANINGS, nesting.PARTS)
    of_bin = counts.sum(axis=(0, 2), keepdims=True)
    of_leaning = _believed(counts.sum(axis=0, keepdims=True), of_bin)
    tables = Tables.of(_believed(counts, of_leaning).reshape(-1, nesting.PARTS))
    return tables, _bits(tables, table, part)


def _counts(table: NDArray[np.int64], entry: NDArray[np.uint8], tables: int, entries: int) -> Floats:
    index = (table * entries + entry).reshape(-1)
    return np.bincount(index, minlength=tables * entries).reshape(tables, entries).astype(np.float64)


def _believed(counts: Floats, coarser: Floats) -> Floats:
    """Shares of entries, leaning on a coarser table where little was seen."""
    coarser = coarser + 0.02
    coarser = coarser / coarser.sum(axis=-1, keepdims=True)
    found: Floats = (counts + _SMOOTHING * coarser) / (
        counts.sum(axis=-1, keepdims=True) + _SMOOTHING
    )
    return found


def _bits(tables: Tables, table: NDArray[np.int64], entry: NDArray[np.uint8]) -> Floats:
    """By channel."""
    cost = -np.log2(tables.frequencies / TOTAL)
    found: Floats = cost.reshape(-1)[table * tables.entries + entry].sum(axis=(0, 2))
    return found


def _middles(
    values: NDArray[np.int16], bins: nesting.Bins, alphabet: int, zero: int, depth: int
) -> NDArray[np.int16]:
    """The whole number nearest to the mean of each bin; for the one around zero, zero."""
    low, high = nesting.ends(alphabet, zero, depth)
    index = (bins - np.int16(low)).reshape(-1)
    seen = np.bincount(index, minlength=high - low + 1)
    total = np.bincount(index, values.reshape(-1).astype(np.float64), minlength=high - low + 1)
    found = np.empty(high - low + 1, np.int16)
    for bin_ in range(low, high + 1):
        first, last = nesting.span(bin_, alphabet, zero, depth)
        middle = total[bin_ - low] / seen[bin_ - low] if seen[bin_ - low] else (first + last) / 2 - zero
        found[bin_ - low] = min(max(round(middle), first - zero), last - zero) if bin_ else 0
    return found


def _groups(bits: Floats, layers: int) -> tuple[int, ...]:
    """Channels in groups of about equal cost, by the bits of each channel in its order."""
    wanted = int(min(MOST_GROUPS, bits.size, max(1, bits.sum() / 8 / layers // _CHUNK_BYTES)))
    total = np.cumsum(bits + bits.sum() * 1e-6 + 1e-9)
    of_channel = np.minimum((total - 1e-12) * wanted // total[-1], wanted - 1)
    _, sizes = np.unique(of_channel, return_counts=True)
    return tuple(sizes.tolist())


def _order(cost: Floats, gain: Floats) -> list[tuple[int, int]]:
    """Group and layer of each chunk: always the one that takes away most error per bit."""
    layers, groups = cost.shape
    worth = gain / (cost + 8 * 4)
    following = [0] * groups
    found = []
    while len(found) < layers * groups:
        left = [group for group in range(groups) if following[group] < layers]
        best = max(left, key=lambda group: worth[following[group], group])
        found.append((best, following[best]))
        following[best] += 1
    return found


def _lanes(size_bytes: float) -> int:
    lanes = max(1, int(size_bytes) // _BYTES_A_LANE)
    return min(MOST_LANES, 1 << (lanes.bit_length() - 1))
