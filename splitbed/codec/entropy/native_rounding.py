"""Rounding with errors handed on, in C: in the entropy coder's library, called through ctypes."""

from __future__ import annotations

import ctypes
from typing import Final

import numpy as np
from numpy.typing import NDArray


def diffuse(
    library: ctypes.CDLL, scaled: NDArray[np.float32], share: float, levels: int
) -> NDArray[np.uint8]:
    """`splitbed.codec.uniform` rounds so with errors handed on: [channels, height, width]."""
    scaled = np.ascontiguousarray(scaled)
    found = np.empty(scaled.shape, np.uint8)
    above = np.empty(scaled.shape[2], np.float32)
    library.splitbed_diffuse(
        ctypes.c_void_p(scaled.ctypes.data),
        *map(ctypes.c_int64, scaled.shape),
        ctypes.c_float(share / 2),
        ctypes.c_int32(levels),
        ctypes.c_void_p(above.ctypes.data),
        ctypes.c_void_p(found.ctypes.data),
    )
    return found


_ROWS: Final = 8
"""That rounding works on at once."""


class _Shaping(ctypes.Structure):
    _fields_ = (
        ("channels", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("padded", ctypes.c_int64),
        ("steps", ctypes.c_void_p),
        ("passed", ctypes.c_void_p),
        ("costs", ctypes.c_void_p),
        ("taps", ctypes.c_float * 4),
        ("most_shift", ctypes.c_float),
        ("most_kept", ctypes.c_float),
        ("zero", ctypes.c_int32),
        ("levels", ctypes.c_int32),
    )


def shape(
    library: ctypes.CDLL,
    values: NDArray[np.float32],
    steps: NDArray[np.float32],
    passed: NDArray[np.float32],
    taps: tuple[float, float, float, float],
    zero: int,
    levels: int,
    costs: NDArray[np.float32] | None,
    limits: tuple[float, float],
) -> NDArray[np.uint8]:
    """`splitbed.codec.rounding` rounds so: [height, width, channels], all arrays contiguous.

    `passed` is [blocks, 8 x blocks, 8]: eight channels that pass on, and what to each channel.
    """
    height, width, channels = values.shape
    blocks, padded, _ = passed.shape
    assert passed.shape == (-(-channels // 8), 8 * blocks, 8)
    described = _Shaping(
        channels,
        height,
        width,
        padded,
        steps.ctypes.data,
        passed.ctypes.data,
        None if costs is None else costs.ctypes.data,
        taps,
        *limits,
        zero,
        levels,
    )
    found = np.empty(values.shape, np.uint8)
    errors = np.empty((height + 1, width + 2, channels), np.float32)
    inverse = np.empty(channels, np.float32)
    places = np.empty((5 * padded + 1) * _ROWS, np.float32)
    aligned = places[-(places.ctypes.data // 4) % _ROWS :]
    library.splitbed_shape(
        ctypes.byref(described),
        *(ctypes.c_void_p(a.ctypes.data) for a in (values, errors, inverse, aligned, found)),
    )
    return found
