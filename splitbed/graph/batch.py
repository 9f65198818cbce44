"""Whether the batch of a model can be left open in its parts, and what stands in the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import onnx
from onnx import numpy_helper

from splitbed.errors import ModelError
from splitbed.graph.reading import attribute, is_onnx
from splitbed.graph.shapes import Specs
from splitbed.graph.weights import is_detached
from splitbed.tensor import TensorSpec


class Bound(Protocol):
    """A canonical model, as far as it matters here."""

    @property
    def proto(self) -> onnx.ModelProto:
        """Its graph."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Its inputs, their batch bound."""

    @property
    def specs(self) -> Specs:
        """Its values with a fixed shape."""


FACTORS = (2, 3)
"""The batch is tried this many times as large."""


def batch_is_free(one: Bound, larger: Callable[[int], Bound]) -> bool:
    """Whether the same graph serves every batch.

    `larger(factor)` is the model with a batch that many times as large. It must have the very same
    nodes and weights (what was folded at one batch would be wrong at another), and every value's
    first dimension, and no other, must follow that of the inputs. Values that depend on no input
    do not change.
    """
    if not one.inputs or any(not spec.shape for spec in one.inputs):
        return False
    reached = {value.name for value in one.proto.graph.input}
    for node in one.proto.graph.node:
        if not reached.isdisjoint(node.input):
            reached.update(name for name in node.output if name)
    # Values whose shape is unknown could hide anything.
    if not reached <= one.specs.keys():
        return False
    for factor in FACTORS:
        try:
            other = larger(factor)
        except ModelError:
            return False
        if list(other.proto.graph.node) != list(one.proto.graph.node):
            return False
        if list(other.proto.graph.initializer) != list(one.proto.graph.initializer):
            return False
        for name in reached:
            shape = one.specs[name].shape
            if name not in other.specs or not shape:
                return False
            if other.specs[name].shape != (factor * shape[0], *shape[1:]):
                return False
    return True


def keep_batch(graph: onnx.GraphProto, specs: Specs) -> None:
    """Let reshapes to a folded shape take the batch from their input, where that is the same.

    What an exporter wrote as `x.reshape(x.shape[0], -1)` was folded to the batch at hand; 0 in a
    target means the input's own size at that place.
    """
    held = {tensor.name: tensor for tensor in graph.initializer}
    batches = {specs[value.name].shape[:1] for value in graph.input if value.name in specs}
    for node in graph.node:
        if node.op_type != "Reshape" or not is_onnx(node) or len(node.input) < 2:
            continue
        target, spec = held.get(node.input[1]), specs.get(node.input[0])
        if target is None or is_detached(target) or spec is None or not spec.shape:
            continue
        sizes = numpy_helper.to_array(target).tolist()
        first = spec.shape[:1]
        fits = (
            not attribute(node, "allowzero", 0)
            and isinstance(sizes, list)
            and sizes[:1] == [*first]
            and first in batches
            and _rest_follows(sizes, spec.shape)
        )
        if fits:
            name = f"{node.input[1]}.of_batch"
            if name not in held:
                array = numpy_helper.to_array(target).copy()
                array[0] = 0
                graph.initializer.append(numpy_helper.from_array(array, name))
                held[name] = graph.initializer[-1]
            node.input[1] = name


def _rest_follows(sizes: Sequence[int], shape: tuple[int, ...]) -> bool:
    """Whether the other sizes take up what the input has beside its batch."""
    rest = sizes[1:]
    return -1 in rest or math.prod(rest) == math.prod(shape[1:])
