"""Symbols of a few bits side by side."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from splitbed.session import Buffer

WHOLE_SYMBOLS: Final = (2, 4, 8)
"""Symbol widths of which a whole number fills a byte."""


def pack(symbols: NDArray[np.uint8], bits: int) -> Buffer:
    """Symbols of `bits` bits side by side, first symbol in the highest bits."""
    if bits == 8:
        return symbols.data if symbols.size else b""
    if bits in WHOLE_SYMBOLS:
        per_byte = 8 // bits
        short = -symbols.size % per_byte
        if short:
            symbols = np.concatenate([symbols, np.zeros(short, np.uint8)])
        columns = symbols.reshape(-1, per_byte)
        packed = columns[:, 0] << (8 - bits)
        for column in range(1, per_byte):
            packed |= columns[:, column] << (8 - bits * (column + 1))
        return packed.data if packed.size else b""
    plane = np.unpackbits(symbols[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(plane).data if symbols.size else b""


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The first `count` symbols that `pack` put side by side."""
    if bits == 8:
        return packed[:count]
    if bits in WHOLE_SYMBOLS:
        per_byte = 8 // bits
        symbols = np.empty((packed.size, per_byte), np.uint8)
        for column in range(per_byte):
            symbols[:, column] = (packed >> (8 - bits * (column + 1))) & ((1 << bits) - 1)
        return symbols.reshape(-1)[:count]
    plane = np.zeros((count, 8), np.uint8)
    plane[:, 8 - bits :] = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    return np.packbits(plane, axis=1).reshape(-1)
