"""Where a window (a convolution's kernel, a pool) stands on a map: padding and output size."""

from __future__ import annotations

import math
from typing import Literal

Size = int | tuple[int, int]
"""Of a square, or height and width."""
Padding = Size | Literal["same"]
"""On both sides alike; `same` is TensorFlow's, which puts the odd one at the bottom right."""
Shape = tuple[int, ...]


def pair(size: Size) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else size


def pads(
    size: Shape, kernel: tuple[int, int], stride: int, padding: Padding, dilation: int = 1
) -> list[int]:
    """What is put around a map of this size, as ONNX has it: top, left, bottom, right."""
    if padding != "same":
        return [*pair(padding)] * 2
    begin: list[int] = []
    end: list[int] = []
    for length, side in zip(size, kernel, strict=True):
        covered = (math.ceil(length / stride) - 1) * stride + (side - 1) * dilation + 1
        total = max(0, covered - length)
        begin.append(total // 2)
        end.append(total - total // 2)
    return begin + end


def slide(
    size: Shape,
    kernel: tuple[int, int],
    stride: int,
    edges: list[int],
    dilation: int = 1,
    *,
    ceil: bool = False,
) -> Shape:
    """Height and width after a window has slid over a map."""
    sizes = []
    for axis in (0, 1):
        room = size[axis] + edges[axis] + edges[axis + 2] - (kernel[axis] - 1) * dilation - 1
        steps = math.ceil(room / stride) if ceil else room // stride
        # A window that would start in the padding at the end does not count.
        if ceil and steps * stride >= size[axis] + edges[axis]:
            steps -= 1
        sizes.append(steps + 1)
    return tuple(sizes)
