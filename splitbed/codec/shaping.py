"""What only an encoder needs to put errors where the tail looks least; it does not travel."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from splitbed.codec.rounding import WEIGHT_ONE, ShapingTables
from splitbed.codec.sensitivity import Taps
from splitbed.codec.zstd import Zstd
from splitbed.errors import PayloadInvalid, UsageError

_COST_ONE: Final = 8


class Shaping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Feedback, range and lengths of symbols, for a stage that knows its steps and levels."""

    low: float
    high: float
    """Range of the values seen."""
    taps: Taps
    passed: bytes
    """int8, in 64ths: the upper triangle of `Feedback.passed`, row by row, as one zstd frame."""
    rate: float = 0.0
    costs: bytes = b""
    """uint8 [channels, levels], in eighths of a bit, as one zstd frame; empty for a rate of 0."""

    def tables(self, steps: NDArray[np.float64], zero: int, levels: int) -> ShapingTables:
        """What rounding takes; UsageError for bytes that hold none of it."""
        channels, costs = steps.size, None
        if self.rate:
            eighths = _unpacked(self.costs, np.uint8, channels * levels)
            costs = (eighths * np.float32(self.rate / _COST_ONE)).reshape(channels, levels)
        passed = np.zeros((channels, channels), np.int8)
        upper = np.triu_indices(channels, 1)
        passed[upper] = _unpacked(self.passed, np.int8, upper[0].size)
        return ShapingTables(
            steps=steps.astype(np.float32),
            passed=passed,
            taps=self.taps,
            low=self.low,
            high=self.high,
            zero=zero,
            levels=levels,
            costs=costs,
        )


def costs_of(symbols: list[NDArray[np.uint8]], channels: int, levels: int) -> bytes:
    """Lengths of the symbols in each channel, by how often they came."""
    counts = np.full((channels, levels), 0.2)
    for field in symbols:
        index = field.reshape(channels, -1) + np.arange(channels)[:, None] * levels
        counts += np.bincount(index.reshape(-1), minlength=counts.size).reshape(counts.shape)
    bits = -np.log2(counts / counts.sum(axis=1, keepdims=True))
    return _zstd(np.minimum(np.rint(bits * _COST_ONE), 255).astype(np.uint8))


def packed(passed: NDArray[np.float64]) -> bytes:
    """Of `Feedback.passed`, as `Shaping` holds it."""
    upper = passed[np.triu_indices(passed.shape[0], 1)]
    return _zstd(np.clip(np.rint(upper * WEIGHT_ONE), -127, 127).astype(np.int8))


def _zstd(array: NDArray[Any]) -> bytes:
    return bytes(Zstd(level=19).encode(array.tobytes()))


def _unpacked(data: bytes, kind: type[np.uint8] | type[np.int8], count: int) -> NDArray[Any]:
    try:
        found = np.frombuffer(Zstd().decode(data, count), kind)
    except PayloadInvalid as error:
        raise UsageError(f"shaped has a shaping that cannot be read ({error})") from error
    if found.size != count:
        raise UsageError(f"shaped has a shaping of {found.size} numbers where {count} are needed")
    return found
