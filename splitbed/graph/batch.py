"""Whether the batch of a canonical model can be left open in its parts."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from splitbed.errors import ModelError
from splitbed.graph.shapes import Specs, infer
from splitbed.tensor import TensorSpec


def batch_is_free(model: onnx.ModelProto, inputs: Sequence[TensorSpec], specs: Specs) -> bool:
    """Whether every value's first dimension, and no other, follows that of the inputs.

    Shapes are inferred again with a batch twice and three times as large. A reshape to a folded
    shape, a transposed batch or a sum over it shows there. Values that depend on no input are left
    out of the question: `specs` holds only what inference knows, and what is constant does not
    change.
    """
    if not inputs or any(not spec.shape for spec in inputs):
        return False
    # Values whose shape is unknown could hide anything.
    produced = {name for node in model.graph.node for name in node.output if name}
    if not produced <= specs.keys():
        return False
    constant = _constants(model.graph)
    for factor in (2, 3):
        larger = onnx.ModelProto()
        larger.CopyFrom(model)
        for value, spec in zip(larger.graph.input, inputs, strict=True):
            value.type.tensor_type.shape.dim[0].dim_value = factor * spec.shape[0]
        for value in larger.graph.output:
            value.type.tensor_type.ClearField("shape")
        try:
            found, _ = infer(larger)
        except ModelError:
            return False
        for name in produced - constant:
            shape = specs[name].shape
            if name not in found or not shape:
                return False
            if found[name].shape != (factor * shape[0], *shape[1:]):
                return False
    return True


def _constants(graph: onnx.GraphProto) -> set[str]:
    reached = {value.name for value in graph.input}
    constant: set[str] = set()
    for node in graph.node:
        if reached.isdisjoint(node.input):
            constant.update(node.output)
        else:
            reached.update(node.output)
    return constant
