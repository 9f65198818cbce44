"""Which values come straight out of a ReLU: never negative, and many of them exactly zero."""

from __future__ import annotations

import math

import onnx
from onnx import numpy_helper

from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.reading import attribute, is_onnx
from splitbed.graph.weights import is_detached


def rectified(model: CanonicalModel) -> frozenset[str]:
    """Values made by a ReLU, by a clip whose lower bound is zero (ReLU6), or fused with a ReLU."""
    bounds = {
        tensor.name: float(numpy_helper.to_array(tensor).reshape(()))
        for tensor in model.proto.graph.initializer
        if math.prod(tensor.dims) == 1 and not is_detached(tensor)
    }
    return frozenset(node.output[0] for node in model.order if _rectifies(node, bounds))


def _rectifies(node: onnx.NodeProto, bounds: dict[str, float]) -> bool:
    if not is_onnx(node):
        return bool(attribute(node, "activation", b"") == b"Relu")
    if node.op_type != "Clip":
        return node.op_type == "Relu"
    # Since operator set 11 the bounds are inputs.
    if len(node.input) > 1:
        return bounds.get(node.input[1]) == 0
    low: float | None = attribute(node, "min", None)
    return low == 0
