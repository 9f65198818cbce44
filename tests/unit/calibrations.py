"""Calibrations for tests, from made-up frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.trial import calibration_of
from splitbed.tensor import Array

__all__ = ["calibration_of", "maps", "smooth"]


def smooth(rng: np.random.Generator, shape: tuple[int, ...], rectified: bool = False) -> Array:
    """Floats that are like their neighbours along every axis, as feature maps are."""
    found = rng.normal(0.0, 1.0, shape)
    for axis, size in enumerate(shape):
        if size > 2:
            found = (found + np.roll(found, 1, axis) + np.roll(found, 2, axis)) / 1.7
    return np.asarray(np.maximum(found, 0) if rectified else found).astype(np.float32)


def maps(
    seed: int, frames: int, shape: tuple[int, int, int], step: float, rectified: bool
) -> tuple[NDArray[np.uint8], int, int]:
    """Symbols of feature maps, their alphabet and the symbol of zero."""
    rng = np.random.default_rng(seed)
    values: Any = np.stack([smooth(rng, shape, rectified) for _ in range(frames)])
    found = np.clip(np.rint(values / step).astype(int), -128, 127)
    low, high = min(0, int(found.min())), max(1, int(found.max()))
    return (found - low).astype(np.uint8), high - low + 1, -low
