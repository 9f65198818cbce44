"""The entropy coder in C, called through ctypes: built when splitbed is installed, if it can be."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy.model import ChannelModel, ContextModel, Tables
from splitbed.errors import CodecError, PayloadInvalid
from splitbed.session import Buffer

FILE: Final = Path(__file__).with_name(
    "libentropy.dll" if sys.platform == "win32" else "libentropy.so"
)
_DAMAGED: Final = -1


class _Tables(ctypes.Structure):
    _fields_ = (
        ("tables", ctypes.c_int32),
        ("entries", ctypes.c_int32),
        ("cumulative", ctypes.c_void_p),
        ("coarse", ctypes.c_void_p),
    )


class _ContextModel(ctypes.Structure):
    _fields_ = (
        ("channels", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("alphabet", ctypes.c_int32),
        ("zero", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("classes", ctypes.c_int32),
        ("first_class", ctypes.c_int32),
        ("scale_weights", ctypes.c_int32 * 4),
        ("bias", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("near", ctypes.c_void_p),
        ("parents", ctypes.c_void_p),
        ("parent_weights", ctypes.c_void_p),
        ("tables", _Tables),
    )


def load() -> ctypes.CDLL | None:
    """The library, None where it was not built or is another machine's."""
    try:
        found = ctypes.CDLL(str(FILE))
        for name in ("channel_encode", "channel_decode", "context_encode", "context_decode"):
            getattr(found, f"splitbed_{name}").restype = ctypes.c_int64
    except (OSError, AttributeError):
        return None
    return found


class _Coder:
    """What both models share. The arrays that C reads are kept as long as this is."""

    def __init__(self, library: ctypes.CDLL, lanes: int, count: int) -> None:
        self._library, self._lanes, self._count = library, ctypes.c_int32(lanes), count
        self._kept: list[NDArray[Any]] = []
        # No symbol takes more than one word, and one byte if it goes as itself.
        self._room = np.empty(3 * count + 4 * lanes + 16, np.uint8)

    def _at(self, array: NDArray[Any], kind: type[Any]) -> int:
        kept = np.ascontiguousarray(array, kind)
        self._kept.append(kept)
        return int(kept.ctypes.data)

    def _tables(self, tables: Tables) -> _Tables:
        return _Tables(
            tables.frequencies.shape[0],
            tables.entries,
            self._at(tables.cumulative, np.uint16),
            self._at(tables.coarse, np.uint8),
        )

    def _payload(self, size: int) -> bytes:
        if size < 0:
            raise CodecError(f"there is no memory to code a tensor of {self._count} elements")
        return self._room[:size].tobytes()

    def _check(self, code: int) -> None:
        if code == _DAMAGED:
            raise PayloadInvalid(
                "an entropy-coded tensor ends too early, or does not end where it should"
            )
        if code:
            raise CodecError(f"there is no memory to decode a tensor of {self._count} elements")


class NativeChannels(_Coder):
    """Symbols [channels, each] by a ChannelModel."""

    def __init__(self, library: ctypes.CDLL, model: ChannelModel, each: int, lanes: int) -> None:
        super().__init__(library, lanes, model.channels * each)
        self._shape = (model.channels, each)
        self._model = (
            ctypes.byref(self._tables(model.tables)),
            ctypes.c_void_p(self._at(model.table_of, np.uint8)),
            ctypes.c_int64(model.channels),
            ctypes.c_int64(each),
        )

    def encode(self, symbols: NDArray[np.uint8]) -> bytes:
        """Symbols, all below the alphabet, to bytes."""
        symbols = np.ascontiguousarray(symbols)
        return self._payload(
            self._library.splitbed_channel_encode(
                *self._model,
                ctypes.c_void_p(symbols.ctypes.data),
                self._lanes,
                ctypes.c_void_p(self._room.ctypes.data),
                ctypes.c_int64(self._room.size),
            )
        )

    def decode(self, payload: Buffer) -> NDArray[np.uint8]:
        """The symbols again; PayloadInvalid."""
        found = np.empty(self._shape, np.uint8)
        data = np.frombuffer(payload, np.uint8)
        self._check(
            self._library.splitbed_channel_decode(
                *self._model,
                ctypes.c_void_p(data.ctypes.data),
                ctypes.c_int64(data.size),
                self._lanes,
                ctypes.c_void_p(found.ctypes.data),
            )
        )
        return found


class NativeContexts(_Coder):
    """Symbols [channels, height, width] by a ContextModel."""

    def __init__(
        self, library: ctypes.CDLL, model: ContextModel, height: int, width: int, lanes: int
    ) -> None:
        super().__init__(library, lanes, model.channels * height * width)
        self._shape = (model.channels, height, width)
        self._model = ctypes.byref(
            _ContextModel(
                model.channels,
                height,
                width,
                model.alphabet,
                model.zero,
                model.window,
                model.classes,
                model.first_class,
                model.scale_weights,
                self._at(model.bias, np.int32),
                self._at(model.scale, np.int32),
                self._at(model.near, np.int16),
                self._at(model.parents, np.int16),
                self._at(model.parent_weights, np.int16),
                self._tables(model.tables),
            )
        )

    def encode(self, symbols: NDArray[np.uint8]) -> bytes:
        """Symbols, all below the alphabet, to bytes."""
        symbols = np.ascontiguousarray(symbols)
        return self._payload(
            self._library.splitbed_context_encode(
                self._model,
                ctypes.c_void_p(symbols.ctypes.data),
                self._lanes,
                ctypes.c_void_p(self._room.ctypes.data),
                ctypes.c_int64(self._room.size),
            )
        )

    def decode(self, payload: Buffer) -> NDArray[np.uint8]:
        """The symbols again; PayloadInvalid."""
        found = np.empty(self._shape, np.uint8)
        data = np.frombuffer(payload, np.uint8)
        self._check(
            self._library.splitbed_context_decode(
                self._model,
                ctypes.c_void_p(data.ctypes.data),
                ctypes.c_int64(data.size),
                self._lanes,
                ctypes.c_void_p(found.ctypes.data),
            )
        )
        return found
