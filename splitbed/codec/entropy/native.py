"""The entropy coder in C, called through ctypes: built when splitbed is installed, if it can be."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy.layered import Chunk, LayeredModel
from splitbed.codec.entropy.model import ChannelModel, ContextModel
from splitbed.codec.entropy.nesting import (
    FURTHEST,
    FURTHEST_BIN,
    LEANING_OF,
    LEANINGS,
    Bins,
)
from splitbed.codec.entropy.tables import Tables
from splitbed.codec.entropy.vectorised import DAMAGED
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer

FILE: Final = Path(__file__).with_name(
    "libentropy.dll" if sys.platform == "win32" else "libentropy.so"
)


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
        ("dense", ctypes.c_void_p),
        ("sources", ctypes.c_int32),
        ("levels", ctypes.c_int32),
        ("tables", _Tables),
    )


def load() -> ctypes.CDLL | None:
    """The library, None where it was not built or is another machine's."""
    try:
        found = ctypes.CDLL(str(FILE))
        for coded in ("channel", "context", "chunk"):
            for way in ("encode", "decode"):
                getattr(found, f"splitbed_{coded}_{way}").restype = ctypes.c_int64
        found.splitbed_diffuse.restype = found.splitbed_shape.restype = None
    except (OSError, AttributeError):
        return None
    return found


class _Workspace(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            "values",
            "residuals",
            "predicted",
            "spread",
            "intervals",
            "states",
            "words",
            "escapes",
        )
    )


class _Coder:
    """What both models share. The arrays that C reads and writes are kept as long as this is."""

    def __init__(self, library: ctypes.CDLL, lanes: int, count: int, field: int, row: int) -> None:
        self._library, self._lanes = library, ctypes.c_int32(lanes)
        self._kept: list[NDArray[Any]] = []
        kinds = (*(np.int16,) * 2, *(np.int32,) * 2, *(np.uint32,) * 2, *(np.uint8,) * 2)
        sizes = (field, field, row, row, count, lanes, 2 * count, count)
        taken = [np.zeros(size, kind) for size, kind in zip(sizes, kinds, strict=True)]
        self._workspace = _Workspace(*(self._at(array, array.dtype) for array in taken))
        # No symbol takes more than one word, and one byte if it goes as itself.
        self._room = np.empty(3 * count + 4 * lanes + 16, np.uint8)

    def _at(self, array: NDArray[Any], kind: Any) -> int:
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

    def _encoded(self, function: Any, model: tuple[Any, ...], symbols: NDArray[np.uint8]) -> bytes:
        symbols = np.ascontiguousarray(symbols)
        size = function(
            *model,
            ctypes.byref(self._workspace),
            ctypes.c_void_p(symbols.ctypes.data),
            self._lanes,
            ctypes.c_void_p(self._room.ctypes.data),
            ctypes.c_int64(self._room.size),
        )
        assert size >= 0
        return self._room[:size].tobytes()

    def _decoded(
        self, function: Any, model: tuple[Any, ...], payload: Buffer, shape: tuple[int, ...]
    ) -> NDArray[np.uint8]:
        found = np.empty(shape, np.uint8)
        data = np.frombuffer(payload, np.uint8)
        damaged = function(
            *model,
            ctypes.byref(self._workspace),
            ctypes.c_void_p(data.ctypes.data),
            ctypes.c_int64(data.size),
            self._lanes,
            ctypes.c_void_p(found.ctypes.data),
        )
        if damaged:
            raise PayloadInvalid(DAMAGED)
        return found


class NativeChannels(_Coder):
    """Symbols [channels, each] by a ChannelModel."""

    def __init__(self, library: ctypes.CDLL, model: ChannelModel, each: int, lanes: int) -> None:
        super().__init__(library, lanes, model.channels * each, 0, 0)
        self._shape = (model.channels, each)
        self._model = (
            ctypes.byref(self._tables(model.tables)),
            ctypes.c_void_p(self._at(model.table_of, np.uint8)),
            ctypes.c_int64(model.channels),
            ctypes.c_int64(each),
        )

    def encode(self, symbols: NDArray[np.uint8]) -> bytes:
        """Symbols, all below the alphabet, to bytes."""
        return self._encoded(self._library.splitbed_channel_encode, self._model, symbols)

    def decode(self, payload: Buffer) -> NDArray[np.uint8]:
        """The symbols again; PayloadInvalid."""
        function = self._library.splitbed_channel_decode
        return self._decoded(function, self._model, payload, self._shape)


class NativeContexts(_Coder):
    """Symbols [channels, height, width] by a ContextModel."""

    def __init__(
        self, library: ctypes.CDLL, model: ContextModel, height: int, width: int, lanes: int
    ) -> None:
        channels = model.channels
        field = (height + 2) * (width + 3) * (channels + 1)
        super().__init__(library, lanes, channels * height * width, field, height * channels)
        self._shape = (channels, height, width)
        described = _ContextModel(
            channels,
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
            self._at(model.dense, np.int16),
            model.sources,
            model.levels,
            self._tables(model.tables),
        )
        self._model = (ctypes.byref(described),)

    def encode(self, symbols: NDArray[np.uint8]) -> bytes:
        """Symbols, all below the alphabet, to bytes."""
        return self._encoded(self._library.splitbed_context_encode, self._model, symbols)

    def decode(self, payload: Buffer) -> NDArray[np.uint8]:
        """The symbols again; PayloadInvalid."""
        function = self._library.splitbed_context_decode
        return self._decoded(function, self._model, payload, self._shape)


class _Nesting(ctypes.Structure):
    _fields_ = (
        ("channels", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("first", ctypes.c_void_p),
        ("leanings", ctypes.c_void_p),
        ("furthest", ctypes.c_int32),
        ("kinds", ctypes.c_int32),
        ("leaning_kinds", ctypes.c_int32),
        ("near", ctypes.c_void_p),
        ("totals", ctypes.c_void_p),
    )


class NativeChunks(_Coder):
    """Chunks of symbols that go coarse to fine."""

    def __init__(self, library: ctypes.CDLL, model: LayeredModel, height: int, width: int) -> None:
        largest = max(model.groups)
        super().__init__(library, max(model.lanes), largest * height * width, 0, 0)
        self._frame = (height + 2) * (width + 2)
        # Frames stay zeros; what they hold is written anew by every chunk.
        self._near = np.zeros(largest * self._frame, np.int16)
        near = self._at(self._near, np.int16)
        totals = self._at(np.zeros((height + 1) * (width + 2), np.int16), np.int16)
        leanings = self._at(LEANING_OF, np.uint16)
        tables = {id(found): self._tables(found) for found in (model.coarsest, model.finer)}
        self._given: dict[tuple[int, int], tuple[tuple[Any, ...], tuple[Any, ...]]] = {}
        for chunk in model.chunks:
            nesting = _Nesting(
                chunk.first.shape[1],
                height,
                width,
                self._at(chunk.first, np.uint16),
                leanings,
                FURTHEST,
                FURTHEST_BIN,
                LEANINGS,
                near,
                totals,
            )
            model_of = (ctypes.byref(tables[id(chunk.tables)]), ctypes.byref(nesting))
            coarse = None if chunk.coarse is None else self._at(chunk.coarse, np.int16)
            given = (coarse, self._at(chunk.fine, np.int16), self._at(chunk.entry, np.uint8))
            self._given[chunk.group, chunk.layer] = (
                (*model_of, *map(ctypes.c_void_p, given)),
                (*model_of, ctypes.c_void_p(self._at(chunk.bins, np.int16))),
            )

    def encode(self, chunk: Chunk, symbols: NDArray[np.uint8]) -> bytes:
        """The stream of a group's symbols, [channels, places]."""
        symbols = np.ascontiguousarray(symbols)
        size = self._library.splitbed_chunk_encode(
            *self._given[chunk.group, chunk.layer][0],
            ctypes.c_void_p(symbols.ctypes.data),
            ctypes.byref(self._workspace),
            ctypes.c_int32(chunk.lanes),
            ctypes.c_void_p(self._room.ctypes.data),
            ctypes.c_int64(self._room.size),
        )
        assert size >= 1
        return self._room[1:size].tobytes()

    def decode(self, chunk: Chunk, stream: Buffer, coarse: Bins | None) -> Bins:
        """A group's bins, framed, from its coarser ones; PayloadInvalid."""
        data = np.frombuffer(stream, np.uint8)
        size = chunk.first.shape[1] * self._frame
        if coarse is None:
            self._near[:size] = 0
        else:
            np.multiply(coarse.reshape(-1), 2, out=self._near[:size])
        damaged = self._library.splitbed_chunk_decode(
            *self._given[chunk.group, chunk.layer][1],
            ctypes.c_int32(coarse is not None),
            ctypes.c_int32(chunk.low),
            ctypes.byref(self._workspace),
            ctypes.c_int32(chunk.lanes),
            ctypes.c_void_p(data.ctypes.data),
            ctypes.c_int64(data.size),
        )
        if damaged:
            raise PayloadInvalid(DAMAGED)
        return self._near[:size].reshape(-1, self._frame).copy()
