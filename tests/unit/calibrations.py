"""Calibrations for tests, from made-up frames."""

from __future__ import annotations

import numpy as np

from splitbed.codec import Calibration
from splitbed.codec.calibration import FrameCollector
from splitbed.codec.statistics import StatisticsCollector
from splitbed.tensor import Array, TensorSpec


def calibration_of(spec: TensorSpec, *arrays: Array) -> Calibration | None:
    """As `splitbed calibrate` makes it from frames of one tensor; None where it has no elements."""
    if not spec.elements or not spec.is_float:
        return None
    statistics, frames = StatisticsCollector(spec), FrameCollector(spec)
    for array in arrays:
        statistics.add(array)
        frames.add(array)
    kept = frames.frames()
    assert kept is not None
    return Calibration(
        model_digest="0" * 64,
        cut="cut",
        inputs=(),
        tensors={spec.name: statistics.statistics()},
        frames={spec.name: kept},
    )


def smooth(rng: np.random.Generator, shape: tuple[int, ...], rectified: bool = False) -> Array:
    """Floats that are like their neighbours along every axis, as feature maps are."""
    found = rng.normal(0.0, 1.0, shape)
    for axis, size in enumerate(shape):
        if size > 2:
            found = (found + np.roll(found, 1, axis) + np.roll(found, 2, axis)) / 1.7
    return np.asarray(np.maximum(found, 0) if rectified else found).astype(np.float32)
