"""Evaluating what does not depend on the input: constants and arithmetic on shapes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from splitbed.errors import ModelError
from splitbed.graph.local_shapes import LocalShapes
from splitbed.graph.reading import is_onnx, writes
from splitbed.graph.shapes import Specs
from splitbed.graph.weights import is_detached
from splitbed.tensor import Array

FOLDED_ELEMENTS: Final = 4096
"""Nothing larger is folded: shapes are small, and weights stay as the file has them."""

_FOLDED: Final = frozenset(
    """
    Abs Add Cast Ceil Div Floor Max Min Mod Mul Neg Pow Range ReduceMax ReduceMin ReduceProd
    ReduceSum Round Sign Sqrt Sub
    And Equal Greater GreaterOrEqual Less LessOrEqual Not Or Where Xor
    Concat Constant ConstantOfShape Expand Flatten Gather GatherElements GatherND NonZero Reshape
    ScatterElements ScatterND Shape Size Slice Split Squeeze Tile Transpose Unsqueeze
    """.split()  # noqa: SIM905 (a list of its own lines would hide what belongs together)
)
"""What shape arithmetic is made of, and what the reference computes as every runtime does."""


def fold(model: onnx.ModelProto, specs: Specs) -> bool:
    """Replace every node whose value is known by initialisers; whether anything was replaced."""
    graph = model.graph
    small = {
        tensor.name: tensor
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= FOLDED_ELEMENTS and not is_detached(tensor)
    }
    local = LocalShapes(model, specs)
    known: dict[str, Array] = {}
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
        values = _evaluate(node, small, known, local.shapes, model)
        if values is None or outputs & set(node.output):
            if local.lacks(node):
                local.learn(node, _read(node, small, known))
            kept.append(node)
            continue
        changed = True
        known |= values
        for name, value in values.items():
            graph.initializer.append(numpy_helper.from_array(value, name))
            local.shapes[name] = value.shape
    if changed:
        del graph.node[:]
        graph.node.extend(kept)
    return changed


def _read(
    node: onnx.NodeProto, small: Mapping[str, onnx.TensorProto], known: dict[str, Array]
) -> dict[str, Array]:
    """Those of a node's inputs whose values are known."""
    for name in node.input:
        if name in small and name not in known:
            known[name] = _array(small[name], name)
    return {name: known[name] for name in node.input if name in known}


def _evaluate(
    node: onnx.NodeProto,
    small: Mapping[str, onnx.TensorProto],
    known: dict[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
    model: onnx.ModelProto,
) -> dict[str, Array] | None:
    if not is_onnx(node) or node.op_type not in _FOLDED:
        return None
    if node.op_type in ("Shape", "Size"):
        if not node.input:
            return None
        shape = shapes.get(node.input[0])
        return None if shape is None else {node.output[0]: _shape_value(node, shape)}
    inputs: dict[str, Array] = {}
    for name in filter(None, node.input):
        if name not in known:
            if name not in small:
                return None
            known[name] = _array(small[name], name)
        inputs[name] = known[name]
    for name in writes(node):
        if math.prod(shapes.get(name, ())) > FOLDED_ELEMENTS:
            return None
    if sum(value.size for value in inputs.values()) > FOLDED_ELEMENTS:
        return None
    if _grown(node, inputs) > FOLDED_ELEMENTS:
        return None
    return _run(node, inputs, model)


def _grown(node: onnx.NodeProto, inputs: Mapping[str, Array]) -> float:
    """Elements of a result whose size is in the values of its inputs and not in their sizes."""
    values = [inputs[name] for name in node.input if name]
    sizes = [value.size for value in values]
    try:
        match node.op_type:
            case "ConstantOfShape":
                return _product(values[0])
            case "Expand" | "Tile":
                return _product(values[1]) * values[0].size
            case "Range":
                if values[0].dtype.kind == "f":
                    return math.inf  # runtimes add up, the reference multiplies
                start, limit, delta = (float(value) for value in values)
                return abs((limit - start) / delta)
            case "NonZero" if not values[0].shape:
                return math.inf  # the reference and the runtime differ in the shape of one
            case "Gather" | "GatherND" | "GatherElements":
                return math.prod(sizes)
            case "Concat":
                return sum(sizes)
            case _:
                # Element by element, whatever does not fit cannot be run either.
                return math.prod(np.broadcast_shapes(*(value.shape for value in values)))
    except (IndexError, TypeError, ZeroDivisionError):
        return math.inf
    except ValueError:  # shapes that are not broadcast: no more than goes in comes out
        return sum(sizes)


def _product(sizes: Array) -> float:
    return float(np.prod(sizes.astype(np.float64)))


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


def _array(tensor: onnx.TensorProto, name: str) -> Array:
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the data of '{name}' are broken: {error}") from error


def _shape_value(node: onnx.NodeProto, shape: tuple[int, ...]) -> Array:
    if node.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    bounds = {a.name: a.i for a in node.attribute}
    return np.asarray(shape[bounds.get("start", 0) : bounds.get("end")], np.int64)


def _run(
    node: onnx.NodeProto, inputs: Mapping[str, Array], model: onnx.ModelProto
) -> dict[str, Array] | None:
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
    values: dict[str, Array] = {}
    for name, value in zip(names, results, strict=True):
        # Lists are sequences; texts are made of numbers in ways that differ.
        if not isinstance(value, (np.ndarray, np.generic)):
            return None
        values[name] = np.asarray(value)
        if values[name].dtype.kind not in "fiub" or values[name].size > FOLDED_ELEMENTS:
            return None
    return values
