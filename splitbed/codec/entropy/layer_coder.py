"""Coding a tensor's symbols in layers: a payload whose every beginning decodes.

A payload is chunks, one after the other; a chunk is the number of its words, seven bits a byte, the
lowest first, then states and words (see `model`). What an encoder left out, or a link cut off, is
at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from splitbed.codec.entropy.coder import ChunkCoder
from splitbed.codec.entropy.counts import count_at, counted
from splitbed.codec.entropy.layered import LENGTH_BYTES, Chunk, LayeredModel
from splitbed.codec.entropy.nesting import Bins, Symbols
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer

_NO_CHUNK: Final = "a payload in layers has a chunk of a length that no encoder makes"


class LayeredCoder:
    """uint8 symbols [channels, height, width], all below the model's alphabet.

    Not safe for use by two threads at once.
    """

    def __init__(self, model: LayeredModel, height: int, width: int) -> None:
        self._model, self._height, self._width = model, height, width
        self._channel = model.channel.astype(np.intp)
        self._coder = ChunkCoder(model, height, width)

    def encode(self, symbols: Symbols, budget_bytes: int | None = None) -> bytes:
        """As many chunks as fit the budget."""
        taken, left = [], budget_bytes
        ordered = self._ordered(symbols)
        for chunk in self._model.chunks:
            coded = self._coded(ordered, chunk)
            if left is not None:
                left -= len(coded)
                if left < 0:
                    break
            taken.append(coded)
        return b"".join(taken)

    def first_bytes(self, symbols: Symbols) -> int:
        """Length of the first chunk."""
        return len(self._coded(self._ordered(symbols), self._model.chunks[0]))

    def _ordered(self, symbols: Symbols) -> Symbols:
        return symbols.reshape(self._model.channels, -1)[self._channel]

    def _coded(self, ordered: Symbols, chunk: Chunk) -> bytes:
        stream = self._coder.encode(chunk, ordered[chunk.these])
        return counted((len(stream) - 4 * chunk.lanes) // 2) + stream

    def decode(self, payload: Buffer) -> Symbols:
        """The symbols, or what stands for them where the payload ends early; PayloadInvalid for
        bytes that no encoder made.
        """
        model = self._model
        known: list[tuple[Bins, int] | None] = [None] * len(model.groups)
        for chunk, stream, _ in self._whole(payload):
            before = known[chunk.group]
            bins = self._coder.decode(chunk, stream, None if before is None else before[0])
            known[chunk.group] = bins, chunk.layer
        found = np.empty((model.channels, self._height, self._width), np.uint8)
        for group, these in zip(known, model.slices, strict=True):
            if group is None:
                found[self._channel[these]] = model.mean[these, None, None]
            else:
                found[self._channel[these]] = self._standing(*group)
        return found

    def _standing(self, near: Bins, layer: int) -> Symbols:
        """The symbols that stand for framed bins."""
        bins = near.reshape(-1, self._height + 2, self._width + 2)[:, 1:-1, 1:-1]
        model = self._model
        if layer == model.layers - 1:
            return (bins + np.int16(model.zero)).astype(np.uint8)
        low, _ = model.nesting.ends(model.depth(layer))
        found: Symbols = model.middles[layer][bins - np.int16(low)]
        return found

    def cuts(self, payload: Buffer) -> tuple[int, ...]:
        """Lengths at which a payload ends with a whole chunk, from 0 on; PayloadInvalid."""
        return 0, *(stop for _, _, stop in self._whole(payload))

    def _whole(self, payload: Buffer) -> Iterator[tuple[Chunk, memoryview, int]]:
        """Each chunk that is there, its stream, and where that stops; PayloadInvalid for lengths
        that no chunk has, or for more than the last one.
        """
        view, at = memoryview(payload).cast("B"), 0
        for chunk in self._model.chunks:
            try:
                found = count_at(view, at, LENGTH_BYTES)
            except ValueError as error:
                raise PayloadInvalid(_NO_CHUNK) from error
            if found is None:
                return
            words, at = found
            if words > self._model.groups[chunk.group] * self._height * self._width:
                raise PayloadInvalid(_NO_CHUNK)
            stop = at + 4 * chunk.lanes + 2 * words
            if stop > len(view):
                return
            yield chunk, view[at:stop], stop
            at = stop
        if at != len(view):
            raise PayloadInvalid("a payload in layers goes on after its last chunk")
