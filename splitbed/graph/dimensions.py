"""Giving a graph's open dimensions their sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import onnx

from splitbed.errors import ModelError

Shape = tuple[int, ...]

MOST_ELEMENTS: Final = 1 << 44
"""Of any tensor: more than memory holds, and less than overflows."""

BATCH: Final = 1
"""What an open first dimension is bound to where nobody says."""


class Bound:
    """Shapes of the inputs, and sizes of the dimensions that the file has names for."""

    def __init__(self, graph: onnx.GraphProto, given: Mapping[str, Shape], where: str) -> None:
        self._where = where
        self.sizes: dict[str, int] = {}
        """By the dimension's name (dim_param)."""
        self.opened = any(
            not dim.HasField("dim_value")
            for value in graph.input
            for dim in value.type.tensor_type.shape.dim
        )
        """Whether the file left any dimension open."""
        wanted = self._wanted(graph, dict(given))
        for value in graph.input:
            if value.name in wanted:
                self._take(value, wanted[value.name])
        self.shapes: dict[str, Shape] = {}
        """By input."""
        for value in graph.input:
            self.shapes[value.name] = shape = self._shape(value, wanted.get(value.name))
            self._take(value, shape)
            dims = value.type.tensor_type.shape.dim
            del dims[:]
            value.type.tensor_type.shape.SetInParent()
            for size in shape:
                dims.add().dim_value = size

    def __str__(self) -> str:
        return ", ".join(f"{name}={_text(shape)}" for name, shape in self.shapes.items())

    def stated(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto | None:
        """What the file says of a value, its named dimensions bound; None where that is not all."""
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.elem_type:
            return None
        if not value.type.tensor_type.HasField("shape"):
            return None
        found = onnx.ValueInfoProto()
        found.CopyFrom(value)
        for dim in found.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                if dim.dim_param not in self.sizes:
                    return None
                dim.dim_value = self.sizes[dim.dim_param]
        return found

    def _wanted(self, graph: onnx.GraphProto, given: dict[str, Shape]) -> dict[str, Shape]:
        found = {}
        for value in graph.input:
            if not value.type.HasField("tensor_type"):
                raise ModelError(f"{self._where}: input '{value.name}' is no tensor")
            shape = given.pop(value.name, None)
            if shape is None and len(graph.input) == 1:
                shape = given.pop("", None)
            if shape is not None:
                if math.prod(max(1, size) for size in shape) > MOST_ELEMENTS:
                    raise ModelError(
                        f"{self._where}: no memory holds input '{value.name}' of shape "
                        f"{_text(shape)}"
                    )
                found[value.name] = shape
        if given:
            known = ", ".join(value.name for value in graph.input)
            raise ModelError(
                f"{self._where} has no input '{next(iter(given))}' to bind; it has {known}"
            )
        return found

    def _take(self, value: onnx.ValueInfoProto, shape: Shape) -> None:
        """Learn the sizes of named dimensions; ModelError where the shape does not fit."""
        if not value.type.tensor_type.HasField("shape"):
            return
        dims = value.type.tensor_type.shape.dim
        fits = len(dims) == len(shape)
        for dim, size in zip(dims, shape, strict=False):
            if dim.HasField("dim_value"):
                fits = fits and dim.dim_value in (size, -1)
            elif dim.dim_param and self.sizes.setdefault(dim.dim_param, size) != size:
                raise ModelError(
                    f"{self._where}: shape {_text(shape)} does not bind to input '{value.name}' of "
                    f"shape {_shape_text(value)}: '{dim.dim_param}' is {self.sizes[dim.dim_param]} "
                    "in another input"
                )
        if not fits:
            raise ModelError(
                f"{self._where}: shape {_text(shape)} does not bind to input '{value.name}' of "
                f"shape {_shape_text(value)}"
            )

    def _shape(self, value: onnx.ValueInfoProto, wanted: Shape | None) -> Shape:
        if wanted is not None and min(wanted, default=0) >= 0:
            return wanted
        sizes = [
            dim.dim_value
            if dim.HasField("dim_value")
            else self.sizes.get(dim.dim_param, BATCH if axis == 0 else -1)
            for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        ]
        if (
            wanted is not None
            or min(sizes, default=0) < 0
            or not value.type.tensor_type.HasField("shape")
        ):
            raise ModelError(
                f"{self._where}: input '{value.name}' leaves dimensions open "
                f"({_shape_text(value)}): bind them, as in --shape {value.name}={_example(value)}"
            )
        return tuple(sizes)


def leaves_batch_open(value: onnx.ValueInfoProto) -> bool:
    """Whether an input's first dimension has no size."""
    dims = value.type.tensor_type.shape.dim
    return len(dims) > 0 and not dims[0].HasField("dim_value")


def _example(value: onnx.ValueInfoProto) -> str:
    """A shape that fits: what is fixed as it is, a batch of one, picture sides, else a length."""
    dims = value.type.tensor_type.shape.dim
    side = 224 if len(dims) == 4 else 128
    sizes = [
        dim.dim_value if dim.HasField("dim_value") else BATCH if axis == 0 else side
        for axis, dim in enumerate(dims)
    ]
    return _text(tuple(sizes)) if sizes else "1x3x224x224"


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _shape_text(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return "x".join(
        str(d.dim_value) if d.HasField("dim_value") else (d.dim_param or "?") for d in dims
    )
