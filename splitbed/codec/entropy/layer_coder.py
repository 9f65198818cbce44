"""Coding a tensor's symbols in layers: a payload whose every beginning decodes.

A payload is chunks, one after the other; a chunk is the number of its words, seven bits a byte, the
lowest first, and a stream (see `given`). What an encoder left out, or a link cut off, is at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from splitbed.codec.entropy.given import DAMAGED, GivenCoder, Reader
from splitbed.codec.entropy.layered import LENGTH_BYTES, LayeredModel
from splitbed.codec.entropy.nesting import PARTS, Bins, Numbers, Plane, Symbols
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer

_NOTHING: Final = 0x4000
"""No bin is as large."""


class LayeredCoder:
    """uint8 symbols [channels, height, width], all below the model's alphabet.

    Not safe for use by two threads at once.
    """

    def __init__(self, model: LayeredModel, height: int, width: int) -> None:
        self._model, self._plane = model, Plane.of(height, width)
        self._channel = model.channel.astype(np.intp)
        most, lanes = max(model.groups) * self._plane.places, max(model.lanes)
        self._coarsest = GivenCoder(model.coarsest, most, lanes)
        self._finer = GivenCoder(model.finer, most, lanes)
        nesting, depths = model.nesting, range(model.layers)
        # By depth, for each symbol; and for each part of each bin of the next depth.
        self._bins = [nesting.bins(depth) for depth in depths]
        self._parts = [nesting.parts(depth) for depth in depths[:-1]]
        self._refined = [nesting.refined(depth, _NOTHING) for depth in depths[:-1]]

    def encode(self, symbols: Symbols, budget_bytes: int | None = None) -> bytes:
        """As many chunks as fit the budget."""
        taken, left = [], budget_bytes
        passes = self._passes(symbols)
        for number in range(len(self._model.chunks)):
            chunk = self._chunk(passes, number)
            if left is not None:
                left -= len(chunk)
                if left < 0:
                    break
            taken.append(chunk)
        return b"".join(taken)

    def first_bytes(self, symbols: Symbols) -> int:
        """Length of the first chunk."""
        return len(self._chunk(self._passes(symbols), 0))

    def _passes(self, symbols: Symbols) -> tuple[Symbols, Symbols]:
        """Those at even places and those at odd ones, channels in their order."""
        ordered = symbols.reshape(self._model.channels, -1)[self._channel]
        even, odd = self._plane.at
        return ordered[:, even], ordered[:, odd]

    def _chunk(self, passes: tuple[Symbols, Symbols], number: int) -> bytes:
        group, layer, lanes = self._model.chunks[number]
        these = self._model.slices[group]
        even, odd = (symbols[these] for symbols in passes)
        stream = (self._finer_stream if layer else self._first_stream)(even, odd, these, layer, lanes)
        return _length((len(stream) - 4 * lanes) // 2) + stream

    def _first_stream(
        self, even: Symbols, odd: Symbols, these: slice, layer: int, lanes: int
    ) -> bytes:
        model = self._model
        bins = self._bins[model.depth(layer)]
        low, _ = model.nesting.ends(model.depth(layer))
        near = self._plane.frame(even.shape[0])
        near[:, self._plane.framed[0]] = bins[even]
        tables = [self._at_even(these), self._at_odd(near, these)]
        entry = (bins - np.int16(low)).astype(np.uint8)
        entries = entry[np.concatenate([even.reshape(-1), odd.reshape(-1)])]
        return self._coarsest.encode(np.concatenate(tables), entries, lanes)

    def _finer_stream(
        self, even: Symbols, odd: Symbols, these: slice, layer: int, lanes: int
    ) -> bytes:
        plane, depth, class_of = self._plane, self._model.depth(layer), self._model.class_of[these]
        doubled = self._bins[depth + 1] * np.int16(2)
        near = plane.frame(even.shape[0])
        near[:, plane.framed[0]] = doubled[even]
        near[:, plane.framed[1]] = doubled[odd]
        tables = [plane.finer_tables(near, False, class_of, layer)]
        near[:, plane.framed[0]] = self._bins[depth][even]
        tables.append(plane.finer_tables(near, True, class_of, layer))
        parts = self._parts[depth][np.concatenate([even.reshape(-1), odd.reshape(-1)])]
        return self._finer.encode(np.concatenate(tables), parts, lanes)

    def _at_even(self, these: slice) -> Numbers:
        return np.repeat(self._model.table_of[these].astype(np.uint16), self._plane.at[0].size)

    def _at_odd(self, near: Bins, these: slice) -> Numbers:
        model = self._model
        return self._plane.coarsest_tables(near, model.class_of[these], model.even_tables)

    def decode(self, payload: Buffer) -> Symbols:
        """The symbols, or what stands for them where the payload ends early; PayloadInvalid for
        bytes that no encoder made."""
        model, plane = self._model, self._plane
        known: list[tuple[Bins, int] | None] = [None] * len(model.groups)
        whole = zip(model.chunks, self._whole(payload), strict=False)
        for (group, layer, lanes), (stream, _) in whole:
            these, before = model.slices[group], known[group]
            if before is None:
                near = self._first_bins(self._coarsest.reader(stream, lanes), these)
            else:
                reader = self._finer.reader(stream, lanes)
                near = self._finer_bins(reader, before[0], these, layer)
            known[group] = near, layer
        found = np.empty((model.channels, plane.height, plane.width), np.uint8)
        for group, these in zip(known, model.slices, strict=True):
            if group is None:
                found[self._channel[these]] = model.mean[these, None, None]
            else:
                found[self._channel[these]] = self._standing(*group)
        return found

    def cuts(self, payload: Buffer) -> tuple[int, ...]:
        """Lengths at which a payload ends with a whole chunk, from 0 on; PayloadInvalid."""
        return 0, *(stop for _, stop in self._whole(payload))

    def _whole(self, payload: Buffer) -> Iterator[tuple[memoryview, int]]:
        """The stream of each chunk that is there, and where it stops; PayloadInvalid for lengths
        that no chunk has, or for more than the last one."""
        view, at = memoryview(payload).cast("B"), 0
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
            if words > self._model.groups[group] * self._plane.places:
                raise PayloadInvalid(DAMAGED)
            stop = at + 4 * lanes + 2 * words
            if stop > len(view):
                return
            yield view[at:stop], stop
            at = stop
        if at != len(view):
            raise PayloadInvalid("a payload in layers goes on after its last chunk")

    def _first_bins(self, reader: Reader, these: slice) -> Bins:
        """The coarsest bins of a group, framed."""
        channels = these.stop - these.start
        low = np.int16(self._model.nesting.ends(self._model.layers - 1)[0])
        even, odd = self._plane.framed
        near = self._plane.frame(channels)
        near[:, even] = reader.take(self._at_even(these)).reshape(channels, -1) + low
        near[:, odd] = reader.take(self._at_odd(near, these)).reshape(channels, -1) + low
        reader.end()
        return near

    def _finer_bins(self, reader: Reader, coarse: Bins, these: slice, layer: int) -> Bins:
        """The bins of a group one depth finer, framed."""
        depth = self._model.depth(layer)
        low = np.int16(self._model.nesting.ends(depth + 1)[0])
        near = coarse * np.int16(2)
        for odd, places in enumerate(self._plane.framed):
            tables = self._plane.finer_tables(near, bool(odd), self._model.class_of[these], layer)
            index = (coarse[:, places] - low) * np.int16(PARTS)
            index += reader.take(tables).reshape(index.shape)
            found = self._refined[depth][index]
            if int(found.max(initial=0)) == _NOTHING:
                raise PayloadInvalid(DAMAGED)
            near[:, places] = found
        reader.end()
        return near

    def _standing(self, near: Bins, layer: int) -> Symbols:
        """The symbols that stand for framed bins."""
        plane, model = self._plane, self._model
        bins = near.reshape(-1, plane.height + 2, plane.width + 2)[:, 1:-1, 1:-1]
        if layer == model.layers - 1:
            return (bins + np.int16(model.zero)).astype(np.uint8)
        low, _ = model.nesting.ends(model.depth(layer))
        return model.middles[layer][bins - np.int16(low)]


def _length(words: int) -> bytes:
    found = bytearray()
    while words >= 128:
        found.append(words & 127 | 128)
        words >>= 7
    found.append(words)
    return bytes(found)
