"""What is known of a tensor's symbols that go coarse to fine, in integers only."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy.model import MOST_CHANNELS, MOST_LANES, Reading, little
from splitbed.codec.entropy.nesting import (
    CLASSES,
    COARSEST_KINDS,
    FINER_TABLES,
    MOST_LAYERS,
    PARTS,
    Bins,
    Nesting,
    Symbols,
    first_finer,
)
from splitbed.codec.entropy.tables import MOST_ALPHABET, Tables
from splitbed.errors import UsageError

MOST_GROUPS: Final = 16
LENGTH_BYTES: Final = 5
"""Of a chunk's number of words, at most."""

_HEADER: Final = struct.Struct("<6H")


@dataclass(frozen=True, eq=False)
class Chunk:
    """What codes one layer of one group of channels."""

    group: int
    layer: int
    these: slice
    """The group among the ordered channels."""
    lanes: int
    tables: Tables
    first: NDArray[np.uint16]
    """[2, channels of the group]: the first of the tables of each pass."""
    coarse: Bins | None
    """[256]: twice the coarser bin of each symbol; None in the first layer."""
    fine: Bins
    """[256]: the bin of each symbol."""
    entry: Symbols
    """[256]: what is coded of each symbol."""
    bins: Bins
    """The bin of each entry; in later layers of each entry of each coarser bin."""
    low: int
    """The lowest coarser bin."""


@dataclass(frozen=True, eq=False)
class LayeredModel:
    """Symbols in layers: the coarsest bins first, each later layer one depth finer.

    Channels are in groups; a chunk is one layer of one group. `order` names the group of each chunk
    in a payload, and its layer is how often the group was named before.
    """

    alphabet: int
    zero: int
    layers: int
    groups: tuple[int, ...]
    """Number of channels of each group."""
    channel: NDArray[np.uint16]
    """[channels]: the channels of the first group, then those of the next."""
    order: NDArray[np.uint8]
    """[groups x layers]."""
    lanes: tuple[int, ...]
    """Of each chunk."""
    mean: NDArray[np.uint8]
    """[channels], in the order of `channel`: the symbol of all elements of a channel that is
    missing."""
    middles: tuple[NDArray[np.uint8], ...]
    """For each layer but the last: the symbol that stands for a bin, by bin."""
    table_of: NDArray[np.uint8]
    """[channels], in the order of `channel`: the table of coarsest bins at even places."""
    class_of: NDArray[np.uint8]
    """[channels], in the order of `channel`."""
    coarsest: Tables
    """[even places' tables + 2 classes x 63, coarsest bins]."""
    finer: Tables
    """[(layers - 1) x 2 passes x 2 classes x 105, 3], or one table where there is one layer."""

    def __post_init__(self) -> None:
        channels, groups = self.channel.size, len(self.groups)
        if not (
            1 <= channels <= MOST_CHANNELS
            and 2 <= self.alphabet <= MOST_ALPHABET
            and 0 <= self.zero < self.alphabet
            and 1 <= self.layers <= MOST_LAYERS
            and 1 <= groups <= MOST_GROUPS
            and all(size >= 1 for size in self.groups)
            and sum(self.groups) == channels
            and np.array_equal(np.sort(self.channel), np.arange(channels))
            and self.order.size == groups * self.layers
            and np.array_equal(
                np.bincount(self.order, minlength=groups), np.full(groups, self.layers)
            )
            and len(self.lanes) == self.order.size
            and all(1 <= lanes <= MOST_LANES and not lanes & (lanes - 1) for lanes in self.lanes)
            and self.mean.shape == self.table_of.shape == self.class_of.shape == (channels,)
            and int(self.mean.max()) < self.alphabet
            and len(self.middles) == self.layers - 1
            and all(self._stands(layer) for layer in range(self.layers - 1))
            and int(self.class_of.max()) < CLASSES
            and self.coarsest.entries == self.nesting.width(self.layers - 1)
            and self.even_tables > int(self.table_of.max())
            and self.finer.entries == PARTS
            and self.finer.frequencies.shape[0] == max(1, (self.layers - 1) * FINER_TABLES)
        ):
            raise UsageError("a model of layers that contradicts itself")

    def _stands(self, layer: int) -> bool:
        """Whether each bin is stood for by a symbol of its own, and the one of zero by zero."""
        depth, middles = self.depth(layer), self.middles[layer]
        low, high = self.nesting.ends(depth)
        if middles.shape != (high - low + 1,) or int(middles[-low]) != self.zero:
            return False
        spans = (self.nesting.span(found, depth) for found in range(low, high + 1))
        return all(
            first <= int(symbol) <= last
            for (first, last), symbol in zip(spans, middles, strict=True)
        )

    @cached_property
    def nesting(self) -> Nesting:
        """The bins of the alphabet."""
        return Nesting(self.alphabet, self.zero)

    @property
    def even_tables(self) -> int:
        """How many tables there are of coarsest bins at even places: they come first."""
        return int(self.coarsest.frequencies.shape[0]) - CLASSES * COARSEST_KINDS

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.channel.size)

    def depth(self, layer: int) -> int:
        """How coarse a layer's bins are."""
        return self.layers - 1 - layer

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunks of a payload in their order."""
        seen = [0] * len(self.groups)
        found = []
        for group, lanes in zip(self.order.tolist(), self.lanes, strict=True):
            found.append(self._chunk(group, seen[group], lanes))
            seen[group] += 1
        return tuple(found)

    def _chunk(self, group: int, layer: int, lanes: int) -> Chunk:
        these, nesting, depth = self.slices[group], self.nesting, self.depth(layer)
        fine, class_of = nesting.bins(depth), self.class_of[these].astype(np.uint16)
        if not layer:
            (low, high), even = nesting.ends(depth), self.table_of[these].astype(np.uint16)
            odd = class_of * np.uint16(COARSEST_KINDS) + np.uint16(self.even_tables)
            bins = np.arange(low, high + 1, dtype=np.int16)
            entry = (fine - np.int16(low)).astype(np.uint8)
            first = np.stack([even, odd])
            return Chunk(group, 0, these, lanes, self.coarsest, first, None, fine, entry, bins, 0)
        row = (layer - 1) * FINER_TABLES
        first = np.stack([first_finer(class_of, odd) + np.uint16(row) for odd in (False, True)])
        return Chunk(
            group,
            layer,
            these,
            lanes,
            self.finer,
            first,
            nesting.bins(depth + 1) * np.int16(2),
            fine,
            nesting.parts(depth),
            nesting.refined(depth),
            nesting.ends(depth + 1)[0],
        )

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Which of the ordered channels a group has."""
        last = np.cumsum(self.groups).tolist()
        return tuple(slice(end - size, end) for end, size in zip(last, self.groups, strict=True))

    def most_bytes(self, plane: int) -> int:
        """No payload of planes of so many places is longer: a word for each symbol of each layer,
        and the number of words.
        """
        return sum(
            2 * self.groups[group] * plane + 4 * lanes + LENGTH_BYTES
            for group, lanes in zip(self.order.tolist(), self.lanes, strict=True)
        )

    def packed(self) -> bytes:
        """All of it as bytes, for `unpacked`."""
        head = _HEADER.pack(
            self.channels,
            self.alphabet,
            self.zero,
            self.layers,
            len(self.groups),
            self.coarsest.frequencies.shape[0],
        )
        arrays: tuple[NDArray[Any], ...] = (
            np.array(self.groups, np.uint16),
            self.channel,
            self.order,
            np.array([lanes.bit_length() - 1 for lanes in self.lanes], np.uint8),
            self.mean,
            *self.middles,
            self.table_of,
            self.class_of,
            self.coarsest.frequencies,
            self.finer.frequencies,
        )
        return head + b"".join(little(array) for array in arrays)

    @classmethod
    def unpacked(cls, data: bytes) -> LayeredModel:
        """What `packed` made; UsageError for anything else."""
        reading = Reading(data)
        channels, alphabet, zero, layers, groups, rows = reading.header(_HEADER)
        if not (
            1 <= layers <= MOST_LAYERS
            and 1 <= groups <= MOST_GROUPS
            and 1 <= channels <= MOST_CHANNELS
            and 2 <= alphabet <= MOST_ALPHABET
            and zero < alphabet
        ):
            raise UsageError("a model of layers that contradicts itself")
        sizes = tuple(reading.array(np.uint16, groups).tolist())
        channel = reading.array(np.uint16, channels)
        order = reading.array(np.uint8, groups * layers)
        lanes = tuple(1 << power for power in reading.array(np.uint8, groups * layers).tolist())
        mean = reading.array(np.uint8, channels)
        nesting = Nesting(alphabet, zero)
        widths = [nesting.width(depth) for depth in range(layers - 1, -1, -1)]
        middles = tuple(reading.array(np.uint8, width) for width in widths[:-1])
        table_of = reading.array(np.uint8, channels)
        class_of = reading.array(np.uint8, channels)
        coarsest = reading.array(np.uint16, rows, widths[0])
        finer = reading.array(np.uint16, max(1, (layers - 1) * FINER_TABLES), PARTS)
        reading.end()
        return cls(
            alphabet,
            zero,
            layers,
            sizes,
            channel,
            order,
            lanes,
            mean,
            middles,
            table_of,
            class_of,
            Tables(coarsest),
            Tables(finer),
        )
