"""Student's t: how far a mean of few values may lie from the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Final

Z95: Final = 1.959963984540054
"""The 97.5 % point of the normal distribution."""

_T95: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


def student95(degrees: float) -> float:
    """The factor of a two-sided 95 % interval; of two whole degrees of freedom the fewer count.

    From a table, and beyond it by the expansion of Abramowitz and Stegun, 26.7.5.
    """
    whole = max(1, math.floor(degrees))
    if whole <= len(_T95):
        return _T95[whole - 1]
    z = Z95
    return z + (z**3 + z) / (4 * whole) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * whole**2)


def spread95(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of at least two independent values."""
    middle = fmean(values)
    half = student95(len(values) - 1) * math.sqrt(variance(values) / len(values))
    return middle, middle - half, middle + half
