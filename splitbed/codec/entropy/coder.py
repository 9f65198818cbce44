"""Coders for tensors of one shape: in C where it was built, else in numpy."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy import layer_vectorised, native, vectorised
from splitbed.codec.entropy.layered import Chunk, LayeredModel
from splitbed.codec.entropy.model import ChannelModel, ContextModel
from splitbed.codec.entropy.nesting import Bins, Plane
from splitbed.session import Buffer

Implementation = Literal["C", "numpy"]

CHOICE: Final = "SPLITBED_ENTROPY"
"""Environment: `numpy` takes the coder in numpy though the other one is there."""

_loaded = cache(native.load)


def library() -> ctypes.CDLL | None:
    """The coder in C, None where numpy does it."""
    return None if os.environ.get(CHOICE, "") == "numpy" else _loaded()


def implementation() -> Implementation:
    """Which of the two codes here."""
    return "numpy" if library() is None else "C"


class ChannelCoder:
    """uint8 symbols [channels, each], all below the model's alphabet. Lossless.

    Not safe for use by two threads at once.
    """

    def __init__(self, model: ChannelModel, each: int, lanes: int) -> None:
        self._model, self._each, self._lanes = model, each, lanes
        found = library()
        self._native = None if found is None else native.NativeChannels(found, model, each, lanes)

    def encode(self, symbols: NDArray[np.uint8]) -> bytes:
        """The payload."""
        if self._native is not None:
            return self._native.encode(symbols)
        return vectorised.encode_channels(self._model, symbols, self._lanes)

    def decode(self, payload: Buffer) -> NDArray[np.uint8]:
        """The symbols again; PayloadInvalid for bytes that no encoder made."""
        if self._native is not None:
            return self._native.decode(payload)
        return vectorised.decode_channels(self._model, payload, self._each, self._lanes)


class ContextCoder:
    """uint8 symbols [channels, height, width], all below the model's alphabet. Lossless.

    Not safe for use by two threads at once.
    """

    def __init__(self, model: ContextModel, height: int, width: int, lanes: int) -> None:
        self._model, self._height, self._width, self._lanes = model, height, width, lanes
        found = library()
        self._native = (
            None if found is None else native.NativeContexts(found, model, height, width, lanes)
        )

    def encode(self, symbols: NDArray[np.uint8]) -> bytes:
        """The payload."""
        if self._native is not None:
            return self._native.encode(symbols)
        return vectorised.encode_contexts(self._model, symbols, self._lanes)

    def decode(self, payload: Buffer) -> NDArray[np.uint8]:
        """The symbols again; PayloadInvalid for bytes that no encoder made."""
        if self._native is not None:
            return self._native.decode(payload)
        return vectorised.decode_contexts(
            self._model, payload, self._height, self._width, self._lanes
        )


class ChunkCoder:
    """Chunks of symbols that go coarse to fine, of [channels, height, width]. Lossless.

    Not safe for use by two threads at once.
    """

    def __init__(self, model: LayeredModel, height: int, width: int) -> None:
        self._plane = Plane.of(height, width)
        found = library()
        self._native = None if found is None else native.NativeChunks(found, model, height, width)

    def encode(self, chunk: Chunk, symbols: NDArray[np.uint8]) -> bytes:
        """The stream of a group's symbols, [channels, places]."""
        if self._native is not None:
            return self._native.encode(chunk, symbols)
        return layer_vectorised.encode_chunk(self._plane, chunk, symbols)

    def decode(self, chunk: Chunk, stream: Buffer, coarse: Bins | None) -> Bins:
        """A group's bins, framed, from its coarser ones; PayloadInvalid for other bytes."""
        if self._native is not None:
            return self._native.decode(chunk, stream, coarse)
        return layer_vectorised.decode_chunk(self._plane, chunk, stream, coarse)
