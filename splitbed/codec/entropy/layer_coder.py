"""Coding a tensor's symbols in layers: a payload whose every beginning decodes.

A payload is chunks, one after the other; a chunk is the number of its words, seven bits a byte, the
lowest first, and a stream (see `given`). What an encoder left out, or a link cut off, is at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy import nesting
from splitbed.codec.entropy.given import DAMAGED, GivenCoder
from splitbed.codec.entropy.layered import LENGTH_BYTES, LayeredModel
from splitbed.codec.entropy.nesting import Bins
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer

Symbols = NDArray[np.uint8]

_NO_BIN: Final = np.int16(0x4000)


class LayeredCoder:
    """uint8 symbols [channels, height, width], all below the model's alphabet.

    Not safe for use by two threads at once.
    """

    def __init__(self, model: LayeredModel, height: int, width: int) -> None:
        self._model, self._plane = model, (height, width)
        self._even, self._odd = nesting.places(height, width)
        self._order = model.channel.astype(np.intp)
        most, lanes = max(model.groups) * height * width, max(model.lanes)
        self._coarsest = GivenCoder(model.coarsest, most, lanes)
        self._finer = GivenCoder(model.finer, most, lanes)
        self._even_tables, self._odd_tables = model.even_tables(), model.odd_tables()
        depths = range(model.layers)
        values = np.arange(256, dtype=np.int16) - np.int16(model.zero)
        # By depth: the bin of each symbol, and which part of its bin of the next depth that is.
        self._bins = [nesting.bins_of(values, depth) for depth in depths]
        self._parts = [
            nesting.parts_of(coarse, fine)
            for fine, coarse in zip(self._bins, self._bins[1:], strict=False)
        ]
        self._refined = [self._refining(depth) for depth in depths[1:]]

    def _refining(self, depth: int) -> Bins:
        """[bins x 3]: the finer bin of each part of a bin, _NO_BIN for what is none."""
        low, high = nesting.ends(self._model.alphabet, self._model.zero, depth)
        coarse = np.repeat(np.arange(low, high + 1, dtype=np.int16), nesting.PARTS)
        part = np.tile(np.arange(nesting.PARTS, dtype=np.uint8), high - low + 1)
        fine = nesting.refined(coarse, part)
        first, last = nesting.ends(self._model.alphabet, self._model.zero, depth - 1)
        known = (fine >= first) & (fine <= last) & ((coarse == 0) | (part < 2))
        return np.where(known, fine, _NO_BIN)

    def encode(self, symbols: Symbols, budget_bytes: int | None = None) -> bytes:
        """As many chunks as fit the budget."""
        ordered, taken, left = symbols[self._order], [], budget_bytes
        for number in range(len(self._model.chunks)):
            chunk = self._chunk(ordered, number)
            if left is not None:
                left -= len(chunk)
                if left < 0:
                    break
            taken.append(chunk)
        return b"".join(taken)

    def first_bytes(self, symbols: Symbols) -> int:
        """Length of the first chunk."""
        return len(self._chunk(symbols[self._order], 0))

    def _chunk(self, ordered: Symbols, number: int) -> bytes:
        group, layer, lanes = self._model.chunks[number]
        these = self._model.slices[group]
        stream = self._stream(ordered[these], these, layer, lanes)
        return _length((len(stream) - 4 * lanes) // 2) + stream

    def _stream(self, symbols: Symbols, these: slice, layer: int, lanes: int) -> bytes:
        depth = self._model.depth(layer)
        if layer:
            table = self._finer_tables(self._bins[depth + 1][symbols], these, layer)
            part = self._parts[depth][symbols]
            return self._finer.encode(table.reshape(-1), part.reshape(-1), lanes)
        bins = self._bins[depth][symbols]
        low, _ = nesting.ends(self._model.alphabet, self._model.zero, depth)
        entry = (bins - np.int16(low)).astype(np.uint8).reshape(symbols.shape[0], -1)
        table = np.concatenate([self._at_even(these), self._at_odd(bins, these)])
        flat = [entry[:, self._even].reshape(-1), entry[:, self._odd].reshape(-1)]
        return self._coarsest.encode(table, np.concatenate(flat), lanes)

    def _at_even(self, these: slice) -> NDArray[np.uint16]:
        return np.repeat(self._even_tables[these], self._even.size)

    def _at_odd(self, known: Bins, these: slice) -> NDArray[np.uint16]:
        kinds = nesting.coarsest_kinds(known).reshape(known.shape[0], -1)[:, self._odd]
        return (kinds + self._odd_tables[these, None]).reshape(-1)

    def _finer_tables(self, coarse: Bins, these: slice, layer: int) -> NDArray[np.uint16]:
        found = nesting.refinement_tables(coarse, self._model.class_of[these].astype(np.uint16))
        found += np.uint16((layer - 1) * nesting.REFINEMENT_TABLES)
        return found

    def decode(self, payload: Buffer) -> Symbols:
        """The symbols, or what stands for them where the payload ends early; PayloadInvalid for
        bytes that no encoder made."""
        model = self._model
        known: list[Bins | None] = [None] * len(model.groups)
        layer_of = [0] * len(model.groups)
        whole = zip(model.chunks, self._whole(payload), strict=False)
        for (group, layer, lanes), (stream, _) in whole:
            known[group] = self._taken(stream, known[group], model.slices[group], layer, lanes)
            layer_of[group] = layer
        found = np.empty((model.channels, *self._plane), np.uint8)
        for bins, layer, these in zip(known, layer_of, model.slices, strict=True):
            channels = self._order[these]
            if bins is None:
                found[channels] = model.mean[these, None, None]
            else:
                found[channels] = self._standing(bins, layer)
        return found

    def cuts(self, payload: Buffer) -> tuple[int, ...]:
        """Lengths at which a payload ends with a whole chunk, from 0 on; PayloadInvalid."""
        return 0, *(stop for _, stop in self._whole(payload))

    def _whole(self, payload: Buffer) -> Iterator[tuple[memoryview, int]]:
        """The stream of each chunk that is there, and where it stops; PayloadInvalid for lengths
        that no chunk has, or for more than the last one."""
        view, at = memoryview(payload).cast("B"), 0
        plane = self._plane[0] * self._plane[1]
        for group, _, lanes in self._model.chunks:
            words = shift = 0
            while True:
                if at == len(view):
                    return
                byte = view[at]
                at += 1
                words |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    break
                if shift == 7 * LENGTH_BYTES:
                    raise PayloadInvalid(DAMAGED)
            if words > self._model.groups[group] * plane:
                raise PayloadInvalid(DAMAGED)
            stop = at + 4 * lanes + 2 * words
            if stop > len(view):
                return
            yield view[at:stop], stop
            at = stop
        if at != len(view):
            raise PayloadInvalid("a payload in layers goes on after its last chunk")

    def _taken(
        self, stream: memoryview, coarse: Bins | None, these: slice, layer: int, lanes: int
    ) -> Bins:
        """The bins of one chunk."""
        model, depth = self._model, self._model.depth(layer)
        if coarse is not None:
            reader = self._finer.reader(stream, lanes)
            part = reader.take(self._finer_tables(coarse, these, layer).reshape(-1))
            reader.end()
            low, _ = nesting.ends(model.alphabet, model.zero, depth + 1)
            index = (coarse - np.int16(low)) * np.int16(nesting.PARTS)
            index += part.reshape(coarse.shape)
            found = self._refined[depth][index]
            if int(found.max()) == _NO_BIN:
                raise PayloadInvalid(DAMAGED)
            return found
        low, _ = nesting.ends(model.alphabet, model.zero, depth)
        channels = these.stop - these.start
        bins = np.zeros((channels, self._even.size + self._odd.size), np.int16)
        reader = self._coarsest.reader(stream, lanes)
        entry = reader.take(self._at_even(these)).reshape(channels, -1)
        bins[:, self._even] = entry + np.int16(low)
        known = bins.reshape(channels, *self._plane)
        entry = reader.take(self._at_odd(known, these)).reshape(channels, -1)
        bins[:, self._odd] = entry + np.int16(low)
        reader.end()
        return known

    def _standing(self, bins: Bins, layer: int) -> Symbols:
        """The symbols that stand for bins."""
        model = self._model
        if layer == model.layers - 1:
            return (bins + np.int16(model.zero)).astype(np.uint8)
        low, _ = nesting.ends(model.alphabet, model.zero, model.depth(layer))
        return model.middles[layer][bins - np.int16(low)]


def _length(words: int) -> bytes:
    found = bytearray()
    while words >= 128:
        found.append(words & 127 | 128)
        words >>= 7
    found.append(words)
    return bytes(found)
