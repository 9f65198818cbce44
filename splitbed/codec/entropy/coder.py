"""Coders for tensors of one shape: in C where it was built, else in numpy."""

from __future__ import annotations

import os
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy import native, vectorised
from splitbed.codec.entropy.model import ChannelModel, ContextModel
from splitbed.session import Buffer

Implementation = Literal["C", "numpy"]

CHOICE: Final = "SPLITBED_ENTROPY"
"""Environment: `numpy` takes the coder in numpy though the other one is there."""

_library = cache(native.load)


def implementation() -> Implementation:
    """Which of the two codes here."""
    wanted_numpy = os.environ.get(CHOICE, "") == "numpy"
    return "numpy" if wanted_numpy or _library() is None else "C"


class ChannelCoder:
    """uint8 symbols [channels, each], all below the model's alphabet. Lossless.

    Not safe for use by two threads at once.
    """

    def __init__(self, model: ChannelModel, each: int, lanes: int) -> None:
        self._model, self._each, self._lanes = model, each, lanes
        library = _library()
        self._native = (
            native.NativeChannels(library, model, each, lanes)
            if library is not None and implementation() == "C"
            else None
        )

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
        library = _library()
        self._native = (
            native.NativeContexts(library, model, height, width, lanes)
            if library is not None and implementation() == "C"
            else None
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
