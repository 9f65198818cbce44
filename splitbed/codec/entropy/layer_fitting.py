"""Learning a model of layers from the symbols of calibration frames."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy.fitting import fit_channels
from splitbed.codec.entropy.layered import MOST_GROUPS, LayeredModel
from splitbed.codec.entropy.model import MOST_LANES
from splitbed.codec.entropy.nesting import (
    BINS,
    CLASSES,
    COARSEST_KINDS,
    FINER_TABLES,
    LEANINGS,
    MOST_LAYERS,
    PARTS,
    Bins,
    Nesting,
    Plane,
    Symbols,
    first_finer,
)
from splitbed.codec.entropy.tables import TOTAL, Tables

Floats = NDArray[np.float64]

_SMOOTHING: Final = 4.0
"""Entries' worth of belief in a coarser table where a finer one has seen little."""
_REACH: Final = 1.7
"""To how many standard deviations the coarsest bin around zero reaches: so the first layer takes a
quarter to a third of the bytes (MobileNetV2's 64x14x14, steps of 0.4 and 1)."""
_CHUNK_BYTES: Final = 256
"""A chunk is at least about so long: it costs some 4 bytes."""
_BYTES_A_LANE: Final = 320


def layers_for(symbols: Symbols, alphabet: int, zero: int) -> int:
    """How many layers suit these symbols."""
    values = symbols.astype(np.float32) - zero
    reach = _REACH * float(np.sqrt(np.square(values).mean()))
    layers = 1 + round(math.log2(max(1.0, reach)))
    return min(layers, most_layers(alphabet, zero))


def most_layers(alphabet: int, zero: int) -> int:
    """With more, the coarsest bins would all be one."""
    layers, nesting = MOST_LAYERS, Nesting(alphabet, zero)
    while layers > 1 and nesting.width(layers - 1) < 2:
        layers -= 1
    return layers


def fit_layers(symbols: Symbols, alphabet: int, zero: int, layers: int) -> LayeredModel:
    """A model from symbols [frames, channels, height, width]."""
    channels, nesting = symbols.shape[1], Nesting(alphabet, zero)
    values = symbols.astype(np.int16) - np.int16(zero)
    class_of = np.empty(channels, np.uint8)
    size = np.abs(values).mean(axis=(0, 2, 3))
    class_of[np.argsort(size, kind="stable")] = np.arange(channels) * CLASSES // channels
    field = _Field(symbols, nesting, class_of)
    coarsest, table_of, bits = field.coarsest(layers - 1)
    finer = [field.finer(depth) for depth in range(layers - 2, -1, -1)]
    cost = np.stack([bits, *(found for _, found in finer)])
    mean = np.clip(np.rint(values.mean(axis=(0, 2, 3))), -zero, alphabet - 1 - zero)
    errors = [_squared(values - mean[:, None, None].astype(np.int16))]
    middles = []
    for depth in range(layers - 1, 0, -1):
        bins = nesting.bins(depth)[symbols] - np.int16(nesting.ends(depth)[0])
        middles.append(_middles(values, bins, nesting, depth))
        errors.append(_squared(values - middles[-1][bins]))
    gain = -np.diff(np.stack([*errors, np.zeros(channels)]), axis=0)
    channel = np.argsort(-gain.sum(axis=0), kind="stable")
    groups = _groups(cost.sum(axis=0)[channel] / symbols.shape[0], layers)
    starts = np.cumsum([0, *groups[:-1]])
    cost, gain = (
        np.add.reduceat(found[:, channel], starts, axis=1) / symbols.shape[0]
        for found in (cost, gain)
    )
    order = _order(cost, gain)
    none = Tables.of(np.ones((1, PARTS))).frequencies
    return LayeredModel(
        alphabet=alphabet,
        zero=zero,
        layers=layers,
        groups=groups,
        channel=channel.astype(np.uint16),
        order=np.array([group for group, _ in order], np.uint8),
        lanes=tuple(_lanes(cost[layer, group] / 8) for group, layer in order),
        mean=(mean + zero).astype(np.uint8)[channel],
        middles=tuple((middle + zero).astype(np.uint8) for middle in middles),
        table_of=table_of[channel],
        class_of=class_of[channel],
        coarsest=coarsest,
        finer=Tables(np.concatenate([table.frequencies for table, _ in finer] or [none])),
    )


def _squared(error: NDArray[Any]) -> Floats:
    """By channel."""
    found: Floats = np.square(error, dtype=np.float64).sum(axis=(0, 2, 3))
    return found


class _Field:
    """Symbols of all frames, each channel of each frame a plane of its own, in two passes."""

    def __init__(self, symbols: Symbols, nesting: Nesting, class_of: Symbols) -> None:
        self._frames, self._channels, height, width = symbols.shape
        self._nesting, self._class_of = nesting, class_of
        self._plane = Plane.of(height, width)
        flat = symbols.reshape(-1, height * width)
        self._passes = [flat[:, places] for places in self._plane.at]
        self._classes = np.tile(class_of.astype(np.uint16), self._frames)

    def coarsest(self, depth: int) -> tuple[Tables, Symbols, Floats]:
        """Tables of coarsest bins, which one a channel has at even places, each channel's bits."""
        bins, (low, high) = self._nesting.bins(depth), self._nesting.ends(depth)
        entries = high - low + 1
        near = self._plane.frame(self._classes.size)
        near[:, self._plane.framed[0]] = bins[self._passes[0]]
        even, odd = ((bins[symbols] - np.int16(low)).astype(np.uint8) for symbols in self._passes)
        at_even = fit_channels(even.reshape(self._frames, self._channels, -1), entries)
        first = self._classes * np.uint16(COARSEST_KINDS)
        table = self._plane.coarsest_tables(near, first).reshape(odd.shape)
        counts = _counts(table, odd, CLASSES * COARSEST_KINDS, entries)
        counts = counts.reshape(CLASSES, COARSEST_KINDS, entries)
        believed = _believed(counts, _believed(counts.sum(axis=0), counts.sum(axis=(0, 1))))
        at_odd = Tables.of(believed.reshape(-1, entries))
        rows = np.tile(at_even.table_of, self._frames)[:, None]
        bits = self._bits(at_even.tables, rows, even) + self._bits(at_odd, table, odd)
        both = np.concatenate([at_even.tables.frequencies, at_odd.frequencies])
        return Tables(both), at_even.table_of, bits

    def finer(self, depth: int) -> tuple[Tables, Floats]:
        """Tables of the refinement to a depth, and each channel's bits."""
        coarse, fine = self._nesting.bins(depth + 1) * np.int16(2), self._nesting.bins(depth)
        near = self._plane.frame(self._classes.size)
        for places, symbols in zip(self._plane.framed, self._passes, strict=True):
            near[:, places] = coarse[symbols]
        tables, parts = [], [self._nesting.parts(depth)[symbols] for symbols in self._passes]
        for odd, part in enumerate(parts):
            first = first_finer(self._classes, bool(odd))
            found = self._plane.finer_tables(near, bool(odd), first)
            tables.append(found.reshape(part.shape))
            near[:, self._plane.framed[0]] = fine[self._passes[0]]
        counts = sum(
            _counts(table, part, FINER_TABLES, PARTS)
            for table, part in zip(tables, parts, strict=True)
        )
        counts = np.asarray(counts).reshape(2, CLASSES, BINS, LEANINGS, PARTS)
        of_bin = counts.sum(axis=(0, 1, 3))[:, None]
        of_leaning = _believed(counts.sum(axis=1, keepdims=True), of_bin)
        shared = Tables.of(_believed(counts, of_leaning).reshape(-1, PARTS))
        bits = [self._bits(shared, *pair) for pair in zip(tables, parts, strict=True)]
        return shared, bits[0] + bits[1]

    def _bits(self, tables: Tables, table: NDArray[Any], entry: Symbols) -> Floats:
        """By channel."""
        cost = -np.log2(tables.frequencies / TOTAL).astype(np.float32)
        by_plane = cost[table, entry].sum(axis=1, dtype=np.float64)
        found: Floats = by_plane.reshape(self._frames, self._channels).sum(axis=0)
        return found


def _counts(table: NDArray[Any], entry: Symbols, tables: int, entries: int) -> Floats:
    index = (table.astype(np.int64) * entries + entry).reshape(-1)
    return np.bincount(index, minlength=tables * entries).reshape(tables, entries).astype(float)


def _believed(counts: Floats, coarser: Floats) -> Floats:
    """Shares of entries, leaning on a coarser table where little was seen."""
    coarser = coarser + 0.02
    coarser = coarser / coarser.sum(axis=-1, keepdims=True)
    found: Floats = (counts + _SMOOTHING * coarser) / (
        counts.sum(axis=-1, keepdims=True) + _SMOOTHING
    )
    return found


def _middles(
    values: NDArray[np.int16], bins: Bins, nesting: Nesting, depth: int
) -> NDArray[np.int16]:
    """The whole number nearest to the mean of each bin (the lowest is 0); around zero, zero."""
    low, high = nesting.ends(depth)
    seen = np.bincount(bins.reshape(-1), minlength=high - low + 1)
    total = np.bincount(bins.reshape(-1), values.reshape(-1), minlength=high - low + 1)
    found = np.zeros(high - low + 1, np.int16)
    for bin_ in range(low, high + 1):
        first, last = (end - nesting.zero for end in nesting.span(bin_, depth))
        nearest = min(abs(first), abs(last)) * (1 if bin_ > 0 else -1)
        middle = total[bin_ - low] / seen[bin_ - low] if seen[bin_ - low] else nearest
        found[bin_ - low] = min(max(round(middle), first), last) if bin_ else 0
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
    found: list[tuple[int, int]] = []
    while len(found) < layers * groups:
        left = [group for group in range(groups) if following[group] < layers]
        best = max(left, key=lambda group: worth[following[group], group])
        found.append((best, following[best]))
        following[best] += 1
    return found


def _lanes(size_bytes: float) -> int:
    lanes = max(1, int(size_bytes) // _BYTES_A_LANE)
    return min(MOST_LANES, 1 << (lanes.bit_length() - 1))
