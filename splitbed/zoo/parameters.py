"""The initialisers of a network: its parameters, with batch norms merged where wanted."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from splitbed.tensor import Array
from splitbed.zoo.naming import Naming
from splitbed.zoo.weights import Draw, Floats, Shape, Weights, he, near, normal

_SMALL: float = 0.02
"""Deviation of random biases, shifts and means: enough to be noticed, too little to matter."""


class Norm(NamedTuple):
    """A batch norm that follows a convolution."""

    path: str
    epsilon: float = 1e-5
    gain: float = 1.0
    """Centre of its random scales. Small at the end of a residual branch: the sum of many branches
    would grow otherwise."""


class Parameters:
    """Draws or looks up what the layers ask for and writes it, in order, into a graph.

    Asking twice for one path gives the same initialisers: that layer is used twice.
    """

    def __init__(
        self, graph: onnx.GraphProto, weights: Weights, naming: Naming, *, fold: bool
    ) -> None:
        self.fold = fold
        self._graph = graph
        self._known: set[str] = set()
        self._weights = weights
        self._naming = naming

    def conv(
        self, path: str, shape: Shape, *, depthwise: bool, bias: bool, norm: Norm | None
    ) -> list[str]:
        """Names of a convolution's weight and, where it has one, bias.

        A `norm` to be folded is merged into both; otherwise it is left to `norm`.
        """
        weight_name = self._naming.parameter(path, "depthwise" if depthwise else "weight")
        bias_name = self._naming.parameter(path, "bias")
        merged = norm if self.fold else None
        names = [weight_name, bias_name] if bias or merged else [weight_name]
        if weight_name in self._known:
            return names
        weight = self._weights.array(weight_name, shape, he(math.prod(shape[1:])))
        # Trained arrays may have the batch norm merged already: PoseNet's are published so only.
        if merged and not self._weights.has(bias_name):
            factor, offset = self._line(merged, shape[0])
            if weight is not None:
                weight = weight * factor.reshape(-1, *[1] * (len(shape) - 1))
            self._store(weight_name, shape, weight)
            self._store(bias_name, offset.shape, offset)
        else:
            self._store(weight_name, shape, weight)
            if len(names) > 1:
                self._draw(bias_name, shape[:1], normal(_SMALL))
        return names

    def linear(self, path: str, shape: Shape) -> list[str]:
        """Names of a fully connected layer's weight, outputs first, and bias."""
        names = [self._naming.parameter(path, "weight"), self._naming.parameter(path, "bias")]
        self._draw(names[0], shape, he(shape[1]))
        self._draw(names[1], shape[:1], normal(_SMALL))
        return names

    def norm(self, norm: Norm, channels: int) -> list[str]:
        """Names of a batch norm's scale, shift, mean and variance, in ONNX's order."""
        arrays = self._statistics(norm, channels)
        for name, array in arrays.items():
            self._store(name, (channels,), array)
        return list(arrays)

    def constant(self, name: str, array: Array | np.generic) -> str:
        """The name of an initialiser that is no parameter; one name is one constant."""
        if name not in self._known:
            self._known.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def finish(self) -> None:
        """Say that all is there; UsageError where trained arrays are left over."""
        self._weights.finish()

    def _draw(self, name: str, shape: Shape, draw: Draw) -> None:
        self._store(name, shape, self._weights.array(name, shape, draw))

    def _store(self, name: str, shape: Shape, array: Floats | None) -> None:
        # Written in place: a copy of a model's tensors can be half a gigabyte.
        tensor = self._graph.initializer.add(
            name=name, dims=shape, data_type=onnx.TensorProto.FLOAT
        )
        if array is not None:
            tensor.raw_data = array.astype("<f4", copy=False).tobytes()
        self._known.add(name)

    def _statistics(self, norm: Norm, channels: int) -> dict[str, Floats | None]:
        draws = {
            self._naming.parameter(norm.path, "scale"): near(norm.gain),
            self._naming.parameter(norm.path, "shift"): normal(_SMALL),
            self._naming.parameter(norm.path, "mean"): normal(_SMALL),
            self._naming.parameter(norm.path, "variance"): near(1.0),
        }
        return {name: self._weights.array(name, (channels,), d) for name, d in draws.items()}

    def _line(self, norm: Norm, channels: int) -> tuple[Floats, Floats]:
        """A batch norm as y = factor * x + offset, computed in double precision."""
        given = self._statistics(norm, channels).values()
        scale, shift, mean, variance = (np.asarray(array, np.float64) for array in given)
        factor = scale / np.sqrt(variance + norm.epsilon)
        return factor.astype(np.float32), (shift - mean * factor).astype(np.float32)
