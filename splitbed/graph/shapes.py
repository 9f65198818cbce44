"""Types and shapes of every value, inferred without carrying the weights through the inference."""

from __future__ import annotations

import math
from typing import Final, get_args

import onnx
from onnx import TensorProto, helper, shape_inference

from splitbed.errors import ModelError
from splitbed.graph.reading import label, subgraphs
from splitbed.graph.weights import is_detached, is_hollow, tensors
from splitbed.tensor import DType, TensorSpec

KEPT_ELEMENTS: Final = 4096
"""Initialisers up to this size stay in the inference: shapes may depend on their values."""

_DTYPES: Final[frozenset[str]] = frozenset(get_args(DType))

Specs = dict[str, TensorSpec]


def infer(model: onnx.ModelProto) -> tuple[Specs, dict[str, str]]:
    """Specifications of all values with a known type and fixed shape, and why others have none.

    The second dictionary holds a clause for each value that was inferred but cannot cross a cut.
    Raises ModelError where the graph contradicts itself.
    """
    specs: Specs = {}
    unusable: dict[str, str] = {}
    graph = _inferred(model).graph
    for value in [*graph.input, *graph.value_info, *graph.output]:
        spec, why_not = _spec_of(value)
        if spec is None:
            unusable[value.name] = why_not
        else:
            specs[value.name] = spec
    for tensor in model.graph.initializer:
        specs.pop(tensor.name, None)
        unusable.pop(tensor.name, None)
    return specs, unusable


def all_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every value and weight that has a fixed one, those inside subgraphs included.

    Raises ModelError where the graph contradicts itself.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    _collect(_inferred(model).graph, shapes)
    # Weights that inference was not given, at any depth.
    for tensor in tensors(model.graph):
        shapes[tensor.name] = tuple(tensor.dims)
    return shapes


def _collect(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> None:
    for value in [*graph.input, *graph.value_info, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    for node in graph.node:
        for inner in subgraphs(node):
            _collect(inner, shapes)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(
            _without_weights(model), check_type=False, strict_mode=False, data_prop=True
        )
    except Exception as error:  # onnx raises InferenceError and plain RuntimeError
        raise ModelError(
            f"shapes cannot be inferred: {' '.join(str(error).split())[:300]}"
        ) from error


def contradiction(model: onnx.ModelProto) -> str:
    """What strict inference says against the model; "" for nothing."""
    light = _without_weights(model)
    version = {opset.domain: opset.version for opset in model.opset_import}
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(
            node.op_type, max_inclusive_version=version.get(node.domain, 1)
        ):
            return f"node '{label(node)}' is a {node.op_type}, which this version of ONNX has not"
    try:
        shape_inference.infer_shapes(light, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        return " ".join(str(error).split())[:300]
    return ""


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto(ir_version=max(4, model.ir_version))
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph, source = light.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    for tensor in source.initializer:
        small = math.prod(tensor.dims) <= KEPT_ELEMENTS
        if small and not is_detached(tensor) and not is_hollow(tensor):
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return light


def _spec_of(value: onnx.ValueInfoProto) -> tuple[TensorSpec | None, str]:
    if not value.type.HasField("tensor_type"):
        return None, f"'{value.name}' is no tensor"
    tensor = value.type.tensor_type
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except (KeyError, TypeError):
        dtype = "undefined"
    if dtype not in _DTYPES or tensor.elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return None, f"'{value.name}' has elements of type {dtype}"
    if not tensor.HasField("shape"):
        return None, f"the shape of '{value.name}' depends on the data"
    sizes = []
    for axis, dim in enumerate(tensor.shape.dim):
        if not dim.HasField("dim_value"):
            return None, f"dimension {axis} of '{value.name}' depends on the data"
        sizes.append(dim.dim_value)
    return TensorSpec(value.name, dtype, tuple(sizes)), ""  # type: ignore[arg-type]
