"""Symbols that are there already, because a graph made them."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.packing import pack, unpack
from splitbed.codec.raw import array_of
from splitbed.codec.stage import SymbolSource
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec


class Symbols(SymbolSource, frozen=True):
    """Symbols of `bits` bits, packed: what is left of quantising where a graph makes them.

    Lossless. Nobody writes it; `quantize` with `where=graph` leaves it.
    """

    id: ClassVar[str] = "symbols"
    lossless: ClassVar[bool] = True

    bits: int
    packing: Literal["bits", "bytes"]
    highest: int

    @property
    def alphabet(self) -> int:
        """Number of symbols."""
        return self.highest + 1

    def max_bytes(self, spec: TensorSpec) -> int:
        """All encodings have this length."""
        if self.packing == "bytes":
            return spec.elements
        return (spec.elements * self.bits + 7) // 8

    def symbols(self, array: Array) -> NDArray[np.uint8]:
        """They are symbols already, one uint8 each."""
        return array.astype(np.uint8, copy=False)

    def values(self, symbols: NDArray[np.uint8], spec: TensorSpec) -> NDArray[np.uint8]:
        """The same; a byte that is no symbol becomes the last one."""
        return np.minimum(symbols, self.alphabet - 1, dtype=np.uint8).reshape(spec.shape)

    def encode(self, array: Array) -> Buffer:
        """Symbols, flat, packed."""
        symbols = self.symbols(array)
        return symbols.data if self.packing == "bytes" else pack(symbols, self.bits)

    def decode(self, payload: Buffer, spec: TensorSpec) -> NDArray[np.uint8]:
        """As many symbols as `spec` has elements."""
        size = TensorSpec(spec.name, "uint8", (self.max_bytes(spec),))
        packed = array_of(payload, np.dtype(np.uint8), size).astype(np.uint8, copy=False)
        if self.packing == "bits":
            packed = unpack(packed, self.bits, spec.elements)
        every = self.packing == "bits" and self.alphabet == 1 << self.bits
        return packed if every else self.values(packed, spec)
