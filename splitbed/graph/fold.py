"""Evaluating what does not depend on the input: constants and arithmetic on shapes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from splitbed.errors import ModelError
from splitbed.graph.reading import is_onnx, is_random, subgraphs, writes
from splitbed.graph.shapes import Specs
from splitbed.graph.weights import is_detached

FOLDED_ELEMENTS: Final = 4096
"""Nothing larger is folded: shapes are small, and weights stay as the file has them."""

_NEVER: Final = frozenset(
    {
        # Quantised weights, which folding would blow up to floating point.
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
    }
)

Constant = NDArray[np.generic]


def fold(model: onnx.ModelProto, specs: Specs) -> bool:
    """Replace every node whose value is known by initialisers; whether anything was replaced."""
    graph = model.graph
    small = {
        tensor.name: tensor
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= FOLDED_ELEMENTS and not is_detached(tensor)
    }
    known: dict[str, Constant] = {}
    outputs = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        moved = _constant_tensor(node)
        if moved is not None and node.output[0] not in outputs:
            # Of any size: it only changes its place in the file.
            graph.initializer.append(moved)
            if math.prod(moved.dims) <= FOLDED_ELEMENTS and not is_detached(moved):
                known[moved.name] = _array(moved, moved.name)
            changed = True
            continue
        values = _evaluate(node, small, known, specs, model)
        if values is None or outputs & set(node.output):
            kept.append(node)
            continue
        changed = True
        known |= values
        for name, value in values.items():
            graph.initializer.append(numpy_helper.from_array(value, name))
    if changed:
        del graph.node[:]
        graph.node.extend(kept)
    return changed


def _evaluate(
    node: onnx.NodeProto,
    small: Mapping[str, onnx.TensorProto],
    known: dict[str, Constant],
    specs: Specs,
    model: onnx.ModelProto,
) -> dict[str, Constant] | None:
    if not is_onnx(node) or node.op_type in _NEVER or is_random(node):
        return None
    if node.op_type in ("Shape", "Size"):
        if not node.input:
            return None
        spec = specs.get(node.input[0])
        return None if spec is None else {node.output[0]: _shape_value(node, spec.shape)}
    if any(True for _ in subgraphs(node)):
        return None
    inputs: dict[str, Constant] = {}
    for name in filter(None, node.input):
        if name not in known:
            if name not in small:
                return None
            known[name] = _array(small[name], name)
        inputs[name] = known[name]
    for name in writes(node):
        if name in specs and specs[name].elements > FOLDED_ELEMENTS:
            return None
    if sum(value.size for value in inputs.values()) > FOLDED_ELEMENTS:
        return None
    return _run(node, inputs, model)


def _constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node holds, named as its output; None for any other node."""
    if node.op_type != "Constant" or not is_onnx(node):
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
            return tensor
    return None


def _array(tensor: onnx.TensorProto, name: str) -> Constant:
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the data of '{name}' are broken: {error}") from error


def _shape_value(node: onnx.NodeProto, shape: tuple[int, ...]) -> Constant:
    if node.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    bounds = {a.name: a.i for a in node.attribute}
    return np.asarray(shape[bounds.get("start", 0) : bounds.get("end")], np.int64)


def _run(
    node: onnx.NodeProto, inputs: Mapping[str, Constant], model: onnx.ModelProto
) -> dict[str, Constant] | None:
    """The node's outputs by ONNX's own reference; None where the reference cannot do it."""
    names = writes(node)
    graph = helper.make_graph(
        [node],
        "fold",
        [],
        [onnx.ValueInfoProto(name=name) for name in names],
        [numpy_helper.from_array(value, name) for name, value in inputs.items()],
    )
    single = helper.make_model(graph, opset_imports=list(model.opset_import))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(single).run(names, {})
    except Exception:  # whatever it raises, the node simply stays in the graph
        return None
    values = {name: np.asarray(value) for name, value in zip(names, results, strict=True)}
    if any(value.size > FOLDED_ELEMENTS for value in values.values()):
        return None
    return values
