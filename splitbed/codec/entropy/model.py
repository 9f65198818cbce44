"""What is known of a tensor's symbols before a frame comes, in integers only.

Symbols are whole numbers from 0 to `alphabet - 1`, laid out as channels x height x width. They are
coded by asymmetric numeral systems (Duda, arXiv:1311.2540) with 14 bits of probability, states of
32 bits and words of 16, in `lanes` states that take turns: a frame carries four bytes a lane, of
which two are what a lane costs. Two models choose the table that codes a symbol:

`ChannelModel`: one of up to 256 tables for each channel.

`ContextModel`: each symbol is predicted from six neighbours in its own channel and from other
channels at the same place (up to four, or all that came before, whichever the calibration's frames
favour), and so is the spread around that; the difference from the rounded prediction is coded with
a table for that spread, for the quarter into which the prediction fell, and for its distance from
the lowest symbol (where rectified values pile up). So that the coder can be written without a loop
over single symbols, what a symbol looks at never lies on its own wavefront, x + 2 y = const, but
for channels of an earlier level (4 to 16 equal parts of the channels, in order).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy.tables import MOST_ALPHABET, Tables
from splitbed.errors import UsageError

Whole = TypeVar("Whole", bound=np.integer)

LOWEST: Final = 1 << 16
"""A state between two symbols is at least this."""
MOST_LANES: Final = 256
MOST_CHANNELS: Final = 4096

NEAR: Final = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))
"""Neighbours (rows, columns) in the same channel: W, N, NW, NE, WW, NN."""
PARENTS: Final = 4
LEVELS: Final = 4
"""Where symbols are predicted from single channels."""
MOST_LEVELS: Final = 16
"""Where they are predicted from all channels before: later ones then know more. With 4 instead, 64
channels take 20 % less time and 1 % more bytes, 16 channels 5 % more bytes."""
_MOST_SOURCES: Final = 512
_MOST_WEIGHTS: Final = 1 << 19
DENSE_SHIFT: Final = 2
"""Weights of all channels are in 256ths: there are many, and most are small."""
MOST_DENSE: Final = 511
ONE: Final = 64
"""Predicted values are in 64ths of a symbol."""
RESIDUAL_SHIFT: Final = 2
RESIDUAL_MOST: Final = 1023
"""How far a symbol was from its prediction is kept in 16ths, up to this."""
PHASES: Final = 4
FLOORS: Final = 3
SPREAD_ONE: Final = 256
"""The spread is in 256ths of a kept residual."""
MOST_CLASSES: Final = 24
MOST_WINDOW: Final = 48

_HEADER: Final = struct.Struct("<8H4h")


@dataclass(frozen=True, eq=False)
class ChannelModel:
    """A table for each channel: `table_of` is uint8 [channels], entries are the alphabet."""

    tables: Tables
    table_of: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if not 1 <= self.table_of.size <= MOST_CHANNELS or self.table_of.dtype != np.uint8:
            raise UsageError(f"a channel model is of 1 to {MOST_CHANNELS} channels")
        if int(self.table_of.max()) >= self.tables.frequencies.shape[0]:
            raise UsageError("a channel is given a table that does not exist")

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.table_of.size)

    @property
    def alphabet(self) -> int:
        """Number of different symbols."""
        return self.tables.entries

    def packed(self) -> bytes:
        """All of it as bytes, for `unpacked`."""
        rows, entries = self.tables.frequencies.shape
        head = struct.pack("<3H", self.channels, rows, entries)
        return head + little(self.table_of) + little(self.tables.frequencies)

    @classmethod
    def unpacked(cls, data: bytes) -> ChannelModel:
        """What `packed` made; UsageError for anything else."""
        reading = Reading(data)
        channels, rows, entries = reading.header(struct.Struct("<3H"))
        table_of = reading.array(np.uint8, channels)
        frequencies = reading.array(np.uint16, rows, entries)
        reading.end()
        return cls(Tables(frequencies), table_of)


@dataclass(frozen=True, eq=False)
class ContextModel:
    """See the module. Weights are in 64ths; `zero` is the symbol of the value 0."""

    alphabet: int
    zero: int
    window: int
    """Differences up to this have an entry; others go as themselves, after the last entry."""
    first_class: int
    """Half-octave of the spread of the first class."""
    scale_weights: tuple[int, int, int, int]
    """Of the residuals W and N, NW and NE, of the parents, and of the predicted magnitude."""
    bias: NDArray[np.int32]
    """[channels], in 64ths of a symbol."""
    scale: NDArray[np.int32]
    """[channels], as the spread."""
    near: NDArray[np.int16]
    """[6, channels]."""
    parents: NDArray[np.int16]
    """[channels, 4]: channels of earlier levels; the number of channels names none."""
    parent_weights: NDArray[np.int16]
    """[channels, 4]."""
    dense: NDArray[np.int16]
    """[channels, sources]: weights of the first channels, in 256ths, zero for those that are not of
    an earlier level. Without sources there are the parents alone."""
    levels: int
    tables: Tables
    """[classes x 4 x 3, 2 x window + 2]."""

    def __post_init__(self) -> None:
        channels, sources = self.channels, self.sources
        if not 1 <= self.levels <= MOST_LEVELS:
            raise UsageError("a context model that contradicts itself")
        first_of_level = firsts(channels, self.levels)
        known = self.parents < channels
        if not (
            1 <= channels <= MOST_CHANNELS
            and 2 <= self.alphabet <= MOST_ALPHABET
            and 0 <= self.zero < self.alphabet
            and 1 <= self.window <= MOST_WINDOW
            and 0 <= self.first_class <= 64
            and all(abs(weight) <= 4096 for weight in self.scale_weights)
            and self.scale.shape == (channels,)
            and self.near.shape == (len(NEAR), channels)
            and self.parents.shape == self.parent_weights.shape == (channels, PARENTS)
            and _within(self.bias, 1 << 20)
            and _within(self.scale, 1 << 26)
            and _within(self.near, 127)
            and _within(self.parent_weights, 127)
            and int(self.parents.min()) >= 0
            and int(self.parents.max()) <= channels
            and bool(np.all(~known | (self.parents < first_of_level[:, None])))
            and self.dense.shape == (channels, sources)
            and sources <= most_sources(channels)
            and (not sources or _within(self.dense, MOST_DENSE))
            and not bool(np.any(self.dense[np.arange(sources) >= first_of_level[:, None]]))
            and self.tables.entries == 2 * self.window + 2
            and self.tables.frequencies.shape[0] == self.classes * PHASES * FLOORS
            and 1 <= self.classes <= MOST_CLASSES
        ):
            raise UsageError("a context model that contradicts itself")

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.bias.size)

    @property
    def sources(self) -> int:
        """Number of channels that all later ones are predicted from."""
        return int(self.dense.shape[1])

    @property
    def classes(self) -> int:
        """Number of classes of spread."""
        return int(self.tables.frequencies.shape[0]) // (PHASES * FLOORS)

    def packed(self) -> bytes:
        """All of it as bytes, for `unpacked`."""
        head = _HEADER.pack(
            self.channels,
            self.alphabet,
            self.zero,
            self.window,
            self.first_class,
            self.classes,
            self.sources,
            self.levels,
            *self.scale_weights,
        )
        return head + b"".join(
            little(array)
            for array in (
                self.bias,
                self.scale,
                self.near.astype(np.int8),
                self.parents,
                self.parent_weights.astype(np.int8),
                self.dense,
                self.tables.frequencies,
            )
        )

    @classmethod
    def unpacked(cls, data: bytes) -> ContextModel:
        """What `packed` made; UsageError for anything else."""
        reading = Reading(data)
        channels, alphabet, zero, window, first, classes, sources, levels, *weights = (
            reading.header(_HEADER)
        )
        if not 1 <= classes <= MOST_CLASSES or not 1 <= window <= MOST_WINDOW:
            raise UsageError("a context model that contradicts itself")
        bias = reading.array(np.int32, channels)
        scale = reading.array(np.int32, channels)
        near = reading.array(np.int8, len(NEAR), channels).astype(np.int16)
        parents = reading.array(np.int16, channels, PARENTS)
        parent_weights = reading.array(np.int8, channels, PARENTS).astype(np.int16)
        dense = reading.array(np.int16, channels, sources)
        frequencies = reading.array(np.uint16, classes * PHASES * FLOORS, 2 * window + 2)
        reading.end()
        first_weights = (weights[0], weights[1], weights[2], weights[3])
        return cls(
            alphabet,
            zero,
            window,
            first,
            first_weights,
            bias,
            scale,
            near,
            parents,
            parent_weights,
            dense,
            levels,
            Tables(frequencies),
        )


def most_sources(channels: int) -> int:
    """Channels that others are predicted from: more cost time and memory for little."""
    return min(channels, _MOST_SOURCES, _MOST_WEIGHTS // channels)


def firsts(channels: int, levels: int) -> NDArray[np.int64]:
    """[channels]: the first channel of each one's level. A level is an equal part, in order."""
    begins = np.arange(levels + 1) * channels // levels
    return np.repeat(begins[:-1], np.diff(begins))


def _within(array: NDArray[Any], most: int) -> bool:
    return bool(array.size) and -most <= int(array.min()) and int(array.max()) <= most


def little(array: NDArray[Any]) -> bytes:
    """Elements in little-endian order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


class Reading:
    """Arrays from bytes of another machine: sizes are checked before anything is taken."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = memoryview(data), 0

    def header(self, kind: struct.Struct) -> tuple[int, ...]:
        """The next few numbers; UsageError where the bytes end."""
        return kind.unpack(self._take(kind.size))

    def array(self, dtype: type[Whole], *shape: int) -> NDArray[Whole]:
        """The next array; UsageError where the bytes end."""
        kind = np.dtype(dtype)
        flat = np.frombuffer(self._take(kind.itemsize * math.prod(shape)), kind.newbyteorder("<"))
        return flat.astype(kind).reshape(shape)

    def end(self) -> None:
        """Raise UsageError unless all bytes were taken."""
        if self._at != len(self._data):
            raise UsageError("an entropy model with bytes left over")

    def _take(self, size: int) -> memoryview:
        if len(self._data) - self._at < size:
            raise UsageError("an entropy model that ends too early")
        self._at += size
        return self._data[self._at - size : self._at]
