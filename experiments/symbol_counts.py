"""How few bits an ideal order-0 coder would need for what a codec decodes to."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from splitbed.tensor import Array, TensorSpec

_MOST_VALUES: Final = 256
"""A tensor that decodes to more distinct values than this has no symbols worth counting."""


class SymbolCounts:
    """Counts each distinct value of one float tensor, in every channel, over a fold's pictures.

    Values stand for symbols: a quantised tensor decodes to one value for each of them. Channels are
    the second dimension of a tensor with three or more; others have one.
    """

    def __init__(self, spec: TensorSpec) -> None:
        channels = spec.shape[1] if len(spec.shape) > 2 else 1
        self._channels = channels
        self._shape = (self._channels, -1)
        self._values: Array | None = None
        self._counts = np.zeros((self._channels, 0), np.int64)
        self._is_countable = spec.is_float and spec.elements > 0

    def add(self, array: Array) -> None:
        """Count one picture's tensor."""
        if not self._is_countable:
            return
        # The batch is one, or counts as part of each channel.
        flat = (np.moveaxis(array, 1, 0) if array.ndim > 2 else array).reshape(self._shape)
        places = self._places(flat)
        if places is None:
            self._grow(np.unique(flat))
            places = self._places(flat)
            if places is None:
                return
        width = self._counts.shape[1]
        places += np.arange(self._channels)[:, None] * width
        found = np.bincount(places.reshape(-1), minlength=self._counts.size)
        self._counts += found.reshape(self._counts.shape)

    def _places(self, flat: Array) -> NDArray[np.intp] | None:
        """Which value each element is; None where there is a new one."""
        if self._values is None:
            return None
        places = np.minimum(np.searchsorted(self._values, flat), len(self._values) - 1)
        return places if bool((self._values[places] == flat).all()) else None

    def _grow(self, found: Array) -> None:
        values = found if self._values is None else np.union1d(self._values, found)
        # NaN is no symbol, and equal to nothing.
        if len(values) > _MOST_VALUES or bool((values != values).any()):
            self._is_countable, self._values = False, None
            return
        counts = np.zeros((self._channels, len(values)), np.int64)
        if self._values is not None:
            counts[:, np.searchsorted(values, self._values)] = self._counts
        self._values, self._counts = values, counts

    def bits(self, *, by_channel: bool) -> float | None:
        """Bits for all that was counted, with one table for the tensor or one for each channel.

        The tables are fitted to what was counted, and their own bytes are in no figure. None where
        the values are too many.
        """
        if not self._is_countable:
            return None
        counts = self._counts if by_channel else self._counts.sum(axis=0, keepdims=True)
        whole = counts.sum(axis=1)
        return float(_length(whole) - _length(counts))


def _length(counts: NDArray[np.int64]) -> float:
    """Sum of n log2 n."""
    found = counts[counts > 0].astype(np.float64)
    return float(np.dot(found, np.log2(found)))
