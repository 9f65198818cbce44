"""Coding entries whose tables whoever calls has chosen, in as many steps as that takes.

A stream is four bytes for each lane, then words of two bytes (see `model`); its length is not in it.
In C where it was built, else in numpy: the same bytes.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy import native, vectorised
from splitbed.codec.entropy.coder import library
from splitbed.codec.entropy.model import LOWEST
from splitbed.codec.entropy.tables import Tables
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer

DAMAGED: Final = "an entropy-coded chunk ends too early, or does not end where it should"


class Reader(Protocol):
    """Takes the entries of one stream."""

    def take(self, table: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """The next entries, one for each table; PayloadInvalid where the stream ends before."""

    def end(self) -> None:
        """Raise PayloadInvalid unless the stream is used up and ends as it should."""


class GivenCoder:
    """Codes streams of at most `most` entries, in at most `lanes` lanes.

    Not safe for use by two threads at once.
    """

    def __init__(self, tables: Tables, most: int, lanes: int) -> None:
        self._tables = tables
        found = library()
        self._native = None if found is None else native.NativeGiven(found, tables, most, lanes)

    def encode(self, table: NDArray[np.uint16], entry: NDArray[np.uint8], lanes: int) -> bytes:
        """One stream; `table` and `entry` are flat and of one length."""
        table, entry = np.ascontiguousarray(table), np.ascontiguousarray(entry)
        if self._native is not None:
            return self._native.encode(table, entry, lanes)
        return vectorised.encode_given(self._tables, table, entry, lanes)

    def reader(self, stream: Buffer, lanes: int) -> Reader:
        """For one stream; PayloadInvalid where it cannot be one."""
        if self._native is not None:
            return _NativeReader(self._native, stream, lanes)
        return vectorised.GivenReader(self._tables, stream, lanes)


class _NativeReader:
    def __init__(self, coder: native.NativeGiven, stream: Buffer, lanes: int) -> None:
        data = np.frombuffer(stream, np.uint8)
        if data.size < 4 * lanes or data.size % 2:
            raise PayloadInvalid(DAMAGED)
        self._coder, self._lane = coder, 0
        # A copy at an even address, which C changes.
        self._states = np.frombuffer(data[: 4 * lanes].tobytes(), "<u4").astype(np.uint32)
        self._words = np.ascontiguousarray(data[4 * lanes :])
        if int(self._states.min()) < LOWEST:
            raise PayloadInvalid(DAMAGED)

    def take(self, table: NDArray[np.uint16]) -> NDArray[np.uint8]:
        table = np.ascontiguousarray(table)
        taken = self._coder.take(table, self._states, self._lane, self._words)
        if taken is None:
            raise PayloadInvalid(DAMAGED)
        found, size = taken
        self._words = self._words[size:]
        self._lane = (self._lane + table.size) % self._states.size
        return found

    def end(self) -> None:
        if self._words.size or bool(np.any(self._states != LOWEST)):
            raise PayloadInvalid(DAMAGED)
