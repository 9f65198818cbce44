"""The distribution of one tensor's elements over the calibration inputs."""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from splitbed.errors import CodecError, UsageError
from splitbed.tensor import Array, TensorSpec

BINS: Final = 1024
"""Histogram bins at most; bins are as wide as a power of two, at multiples of their width."""


class TensorStatistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A histogram, and what it cannot tell: the ends, and how many elements are exactly zero."""

    low: float
    """Smallest element seen."""
    high: float
    """Largest element seen."""
    zeros: int
    """Elements that were exactly zero."""
    exponent: int
    """A bin is 2**exponent wide."""
    first: int
    """Bin i covers [(first + i), (first + i + 1)) * 2**exponent."""
    counts: Annotated[tuple[int, ...], Meta(max_length=BINS)]

    def __post_init__(self) -> None:
        total = sum(self.counts)
        if (
            min(self.counts, default=-1) < 0
            or not 0 <= self.zeros <= total
            or total == 0
            or abs(self.exponent) > 1000
            or not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high)
        ):
            raise UsageError("statistics that contradict themselves")

    @property
    def elements(self) -> int:
        """Number of elements seen."""
        return sum(self.counts)

    @property
    def deviation(self) -> float:
        """Standard deviation, exact to a bin."""
        centres, counts = self.centres(), np.asarray(self.counts, np.float64)
        mean = float(np.average(centres, weights=counts))
        return math.sqrt(float(np.average(np.square(centres - mean), weights=counts)))

    def centres(self) -> NDArray[np.float64]:
        """Middle of every bin; exactly zero for the bin that holds a ReLU's zeros."""
        width = 2.0**self.exponent
        centres = (np.arange(len(self.counts), dtype=np.float64) + self.first + 0.5) * width
        if self.low >= 0 and self.zeros and self.first == 0 and len(centres):
            centres[0] *= 1 - self.zeros / max(1, self.counts[0])
        return centres

    def quantile(self, share: float) -> float:
        """Value below which `share` of the elements lie, exact to a bin."""
        if self.low >= 0 and self.zeros and self.zeros >= share * self.elements:
            return 0.0  # a ReLU's zeros alone reach the share
        reached = np.cumsum(self.counts)
        index = int(np.searchsorted(reached, share * reached[-1]))
        edge = (self.first + min(index, len(self.counts) - 1) + 1) * 2.0**self.exponent
        return float(np.clip(edge, self.low, self.high))


class StatisticsCollector:
    """Gathers TensorStatistics over any number of arrays, in one pass and little memory."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._low, self._high, self._zeros = np.inf, -np.inf, 0
        self._exponent: int | None = None
        self._first = 0
        self._counts = np.zeros(0, np.int64)

    def add(self, array: Array) -> None:
        """Take one more array into account; CodecError if it has NaN or infinities."""
        values = array.reshape(-1).astype(np.float64)
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(high - low):
            raise CodecError(
                f"tensor '{self._spec.name}' has NaN or infinite elements, or a range too wide for "
                "any step, on a calibration input: only raw can carry it"
            )
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._zeros += int(np.count_nonzero(values == 0))
        span = max(self._high - self._low, abs(self._high), abs(self._low), 1e-30) * (1 + 1e-9)
        # Half the bins at most, so that alignment to multiples of the width always fits.
        wanted = int(np.ceil(np.log2(span / (BINS // 2))))
        if self._exponent is None:
            self._exponent = wanted
        while self._exponent < wanted:
            self._widen()
        width = 2.0**self._exponent
        first = int(np.floor(self._low / width))
        last = int(np.floor(self._high / width))
        grown = np.zeros(last - first + 1, np.int64)
        if self._counts.size:
            at = self._first - first
            grown[at : at + self._counts.size] = self._counts
        index = np.floor(values / width).astype(np.int64) - first
        grown += np.bincount(index, minlength=grown.size)
        self._first, self._counts = first, grown

    def _widen(self) -> None:
        """Double the bins' width by adding neighbours."""
        assert self._exponent is not None
        self._exponent += 1
        if self._counts.size:
            lead = self._first % 2
            padded = np.concatenate([np.zeros(lead, np.int64), self._counts])
            padded = np.concatenate([padded, np.zeros(padded.size % 2, np.int64)])
            self._counts = padded.reshape(-1, 2).sum(axis=1)
            self._first = (self._first - lead) // 2

    def statistics(self) -> TensorStatistics:
        """What was gathered; CodecError if nothing was."""
        if self._exponent is None:
            raise CodecError(f"tensor '{self._spec.name}' was never seen with any element")
        return TensorStatistics(
            low=self._low,
            high=self._high,
            zeros=self._zeros,
            exponent=self._exponent,
            first=self._first,
            counts=tuple(self._counts.tolist()),
        )
