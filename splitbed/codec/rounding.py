"""Rounding a tensor to symbols with each error handed on: to later channels, and to neighbours.

In C where it was built, else in numpy: the same symbols, for every operation is one of single
precision, in the same order. Only encoders round, so no decoder depends on it.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from splitbed.codec.entropy import native_rounding
from splitbed.codec.entropy.coder import library
from splitbed.codec.layout import wavefronts

Singles = NDArray[np.float32]

WEIGHT_ONE: Final = 64
MOST_SHIFT: Final = 4.0
"""Steps that a value may be moved by what others hand on."""
_MOST_KEPT: Final = 2.0
"""Steps of an error that are handed on: at the range's ends it would grow without end."""


class ShapingTables(msgspec.Struct, frozen=True):
    """All that rounding takes, for channels in their order."""

    steps: Singles
    """[channels]."""
    passed: NDArray[np.int8]
    """[channels, channels], in 64ths: row j says what the error of j takes off each later channel;
    zero elsewhere."""
    taps: tuple[float, float, float, float]
    low: float
    high: float
    zero: int
    levels: int
    costs: Singles | None
    """[channels, levels]: added to squared errors, in steps; None: the nearest symbol is taken."""


class Shaper:
    """Rounds fields [channels, height, width] of one shape."""

    def __init__(self, tables: ShapingTables, channels: int, height: int, width: int) -> None:
        self._tables, self._shape = tables, (channels, height, width)
        blocks = -(-channels // 8)
        passed = np.zeros((8 * blocks, 8 * blocks), np.float32)
        passed[:channels, :channels] = tables.passed
        self._passed = np.ascontiguousarray(passed.reshape(blocks, 8, -1).transpose(0, 2, 1))

    def symbols(self, field: Singles) -> NDArray[np.uint8]:
        """uint8 [channels, height, width]; `field` has no NaN."""
        t = self._tables
        low, high = np.float32(t.low), np.float32(t.high)
        # Channels of one place side by side: they are done one after the other.
        values = np.array(np.moveaxis(field, 0, 2), order="C")
        np.clip(values, low, high, out=values)
        c = library()
        if c is not None:
            found = native_rounding.shape(
                c, values, t.steps, self._passed, t.taps, t.zero, t.levels, t.costs, _LIMITS
            )
        else:
            found = self._by_wavefronts(values)
        return np.ascontiguousarray(np.moveaxis(found, 2, 0))

    def _by_wavefronts(self, values: Singles) -> NDArray[np.uint8]:
        """Places with one x + 2 y together: what they take from neighbours came before."""
        t, (channels, height, width) = self._tables, self._shape
        one = np.float32
        taps = [one(tap) for tap in t.taps]
        inverse = one(1) / t.steps
        most_shift, most_kept = one(MOST_SHIFT) * t.steps, one(_MOST_KEPT) * t.steps
        passed = t.passed.astype(np.float32)
        errors = np.zeros((height + 1, width + 2, channels), np.float32)
        found = np.empty((height, width, channels), np.uint8)
        for y, x in wavefronts(height, width):
            value = values[y, x]
            beside = (errors[y + 1, x], errors[y, x + 1], errors[y, x], errors[y, x + 2])
            own = taps[0] * beside[0]
            for tap, error in zip(taps[1:], beside[1:], strict=True):
                own = own + tap * error
            own = -own
            taken = np.zeros_like(value)
            for k in range(channels):
                shift = own[:, k] - taken[:, k]
                shift = np.clip(shift, -most_shift[k], most_shift[k])
                scaled = (value[:, k] + shift) * inverse[k] + one(t.zero)
                symbol = self._chosen(scaled, k)
                found[y, x, k] = symbol
                error = (symbol - one(t.zero)) * t.steps[k] - value[:, k]
                new = error - own[:, k]
                errors[y + 1, x + 1, k] = np.clip(error, -most_kept[k], most_kept[k])
                new = np.clip(new, -most_kept[k], most_kept[k]) * one(1 / WEIGHT_ONE)
                taken[:, k + 1 :] += new[:, None] * passed[k, k + 1 :]
        return found

    def _chosen(self, scaled: Singles, k: int) -> Singles:
        last = np.float32(self._tables.levels - 1)
        costs = self._tables.costs
        if costs is None:
            nearest: Singles = np.clip(np.floor(scaled + np.float32(0.5)), 0, last)
            return nearest
        lower = np.clip(np.floor(scaled), 0, last)
        upper = np.minimum(lower + np.float32(1), last)
        cost = [
            (scaled - near) * (scaled - near) + costs[k, near.astype(np.intp)]
            for near in (lower, upper)
        ]
        return np.where(cost[1] < cost[0], upper, lower)


_LIMITS: Final = (MOST_SHIFT, _MOST_KEPT)
