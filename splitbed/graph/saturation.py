"""What a tail can still tell apart: values that its first operators clip away need no bits."""

from __future__ import annotations

import math
from typing import Final

import onnx
from onnx import numpy_helper

from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.cuts import CutPoint
from splitbed.graph.reading import is_onnx, reads

_MOVED_ONLY: Final = frozenset(
    {"DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "SpaceToDepth", "Squeeze"}
    | {"Slice", "Split", "Transpose", "Unsqueeze"}
)
"""Operators after which a clip is the same as before them, for their first input."""

Range = tuple[float, float]
EVERYTHING: Final[Range] = (-math.inf, math.inf)


def seen_range(model: CanonicalModel, point: CutPoint, name: str) -> Range:
    """The range outside which values of a boundary tensor change nothing downstream.

    A ReLU sees nothing below zero, a clip nothing beyond its ends: head and tail give the same
    answer when what crosses is clipped to the hull of all that reads it. `EVERYTHING` where it is
    an output of the model, or where some reader is not known to clip.
    """
    downstream = [node for at, node in enumerate(model.order) if at not in point.head]
    outputs = {value.name for value in model.proto.graph.output}
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    pending, seen = [name], set[str]()
    low, high = math.inf, -math.inf
    while pending:
        value = pending.pop()
        seen.add(value)
        readers = [node for node in downstream if value in reads(node)]
        if value in outputs or not readers:
            return EVERYTHING
        for node in readers:
            if is_onnx(node) and node.op_type in _MOVED_ONLY and node.input[0] == value:
                pending += [made for made in node.output if made and made not in seen]
                continue
            ends = _ends(node, value, constants)
            low, high = min(low, ends[0]), max(high, ends[1])
    return low, high


def _ends(node: onnx.NodeProto, value: str, constants: dict[str, onnx.TensorProto]) -> Range:
    """What one operator sees of its first input."""
    if not is_onnx(node) or list(node.input).count(value) != 1 or node.input[0] != value:
        return EVERYTHING
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type:
        case "Relu":
            return 0.0, math.inf
        case "Clip" if "min" in attributes or "max" in attributes:
            return attributes.get("min", -math.inf), attributes.get("max", math.inf)
        case "Clip":
            low, high = (_scalar(node, slot, constants) for slot in (1, 2))
            if low is None or high is None:
                return EVERYTHING
            return low, high
        case "HardSwish":
            return -3.0, math.inf
        case "HardSigmoid":
            slope, offset = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
            if slope > 0:
                return -offset / slope, (1 - offset) / slope
        case "ThresholdedRelu" if attributes.get("alpha", 1.0) >= 0:
            return 0.0, math.inf
    return EVERYTHING


def _scalar(
    node: onnx.NodeProto, slot: int, constants: dict[str, onnx.TensorProto]
) -> float | None:
    """One end of a Clip: infinite where left out, None where it is computed."""
    if len(node.input) <= slot or not node.input[slot]:
        return -math.inf if slot == 1 else math.inf
    found = constants.get(node.input[slot])
    return None if found is None else float(numpy_helper.to_array(found).reshape(-1)[0])
