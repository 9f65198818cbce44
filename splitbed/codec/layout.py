"""Where a tensor has its channels: any shape as channels x height x width."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

MOST_CHANNELS: Final = 4096
"""Statistics are kept for each channel: a tensor with more is taken as one channel."""


def planes_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of a tensor.

    Four axes and more are a batch, channels, and places (ONNX's order for pictures); two and three
    end with the channels (a sequence of vectors); a single axis is one row of places.
    """
    if math.prod(shape) == 0:
        return 1, 0, 0
    if len(shape) >= 4:
        channels, width = shape[1], shape[-1]
    else:
        channels, width = (shape[-1] if len(shape) > 1 else 1), math.prod(shape[:-1]) or 1
        if len(shape) < 2:
            width = math.prod(shape)
    if channels > MOST_CHANNELS:
        return 1, 1, math.prod(shape)
    return channels, math.prod(shape) // (channels * width), width


def planes(array: NDArray[T]) -> NDArray[T]:
    """The same elements as channels x height x width; a view where the memory allows it."""
    wanted = planes_shape(array.shape)
    if len(array.shape) >= 4 and wanted[0] == array.shape[1]:
        return np.moveaxis(array, 1, 0).reshape(wanted)
    if wanted[0] > 1:
        return np.moveaxis(array.reshape(-1, wanted[0]), 1, 0).reshape(wanted)
    return array.reshape(wanted)


def from_planes(field: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """What `planes` took apart, in the tensor's own shape and order."""
    if len(shape) >= 4 and field.shape[0] == shape[1] and field.size:
        batch_first = field.reshape(shape[1], shape[0], *shape[2:])
        return np.ascontiguousarray(np.moveaxis(batch_first, 0, 1))
    if field.shape[0] > 1:
        return np.ascontiguousarray(field.reshape(field.shape[0], -1).T).reshape(shape)
    return np.ascontiguousarray(field).reshape(shape)


def wavefronts(height: int, width: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows and columns of the places with one x + 2 y, one such set after the other, top row first.

    What a place takes from W, N, NW or NE of it came with an earlier one.
    """
    for front in range(width + 2 * (height - 1)):
        rows = np.arange(max(0, (front - width + 2) // 2), min(height - 1, front // 2) + 1)
        if rows.size:  # a column alone has every other one only
            yield rows, front - 2 * rows
