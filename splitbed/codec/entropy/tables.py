"""Tables of frequencies: what entries cost, in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from splitbed.errors import UsageError

PRECISION: Final = 14
"""Bits of a probability."""
TOTAL: Final = 1 << PRECISION
MOST_ALPHABET: Final = 256

_COARSE: Final = 6


@dataclass(frozen=True, eq=False)
class Tables:
    """Frequencies of entries, uint16 [tables, entries]: each at least 1, each row of sum 2**14."""

    frequencies: NDArray[np.uint16]

    def __post_init__(self) -> None:
        found = self.frequencies
        if (
            found.ndim != 2
            or found.dtype != np.uint16
            or not 2 <= found.shape[1] <= MOST_ALPHABET
            or not found.shape[0]
            or int(found.min()) < 1
            or not bool(np.all(found.sum(axis=1, dtype=np.int64) == TOTAL))
        ):
            raise UsageError("a table of frequencies whose rows do not sum up to 16384")

    @property
    def entries(self) -> int:
        """Entries of each table."""
        return int(self.frequencies.shape[1])

    @cached_property
    def cumulative(self) -> NDArray[np.uint16]:
        """uint16 [tables, entries + 1], from 0 to 2**14."""
        rows = self.frequencies.shape[0]
        found = np.zeros((rows, self.entries + 1), np.uint16)
        np.cumsum(self.frequencies, axis=1, dtype=np.uint16, out=found[:, 1:])
        return found

    @cached_property
    def coarse(self) -> NDArray[np.uint8]:
        """uint8 [tables, 64]: the entry in which each 64th part of the slots begins."""
        slots = np.arange(1 << _COARSE) << (PRECISION - _COARSE)
        return np.stack(
            [np.searchsorted(row[1:], slots, side="right") for row in self.cumulative]
        ).astype(np.uint8)

    @classmethod
    def of(cls, weights: NDArray[np.float64]) -> Tables:
        """Frequencies nearest to weights [tables, entries], of any positive sum."""
        shares = weights / weights.sum(axis=1, keepdims=True)
        found = np.maximum(np.rint(shares * TOTAL), 1).astype(np.int64)
        for row in found:  # a few tables; what rounding left over is taken where it costs least
            excess = int(row.sum()) - TOTAL
            while excess:
                at = int(row.argmax())
                change = max(-excess, -(int(row[at]) // 2)) if excess > 0 else -excess
                row[at] += change
                excess += change
        return cls(found.astype(np.uint16))
