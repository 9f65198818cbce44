"""Types and shapes of every value, inferred without carrying the weights through the inference."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Final, get_args

import onnx
from onnx import TensorProto, helper, shape_inference

from splitbed.errors import ModelError
from splitbed.graph.reading import label, reads, writes
from splitbed.graph.weights import is_detached, is_hollow
from splitbed.tensor import DType, TensorSpec

KEPT_ELEMENTS: Final = 4096
"""Initialisers up to this size stay in the inference: shapes may depend on their values."""

_DTYPES: Final[frozenset[str]] = frozenset(get_args(DType))

_COMPLAINT: Final = re.compile(r"\(op_type:(\w+), node name: (.*?)\): (.*?)(?=\(op_type:|$)")
_NO_IMPORT: Final = re.compile(
    r"for node name (.*?)\. No opset import for domain ?(\S*) optype (\S+)"
)
"""How onnx's inference words what is wrong."""

Specs = dict[str, TensorSpec]


def infer(model: onnx.ModelProto) -> tuple[Specs, dict[str, str]]:
    """Specifications of all values with a known type and fixed shape, and why others have none.

    The second dictionary holds a clause for each value that cannot cross a cut. Raises ModelError
    where the graph contradicts itself.
    """
    inferred = _inferred(model)
    values = {
        value.name: value
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    }
    specs: Specs = {}
    unusable: dict[str, str] = {}
    for value in model.graph.input:
        _sort_in(values[value.name], specs, unusable, "")
    foreign = foreign_values(model)
    for node in model.graph.node:
        for name in writes(node):
            value = values.get(name) or onnx.ValueInfoProto(name=name)
            # Behind an unknown operator, nothing depends on the data for all one knows.
            _sort_in(value, specs, unusable, foreign.get(name, ""))
    return specs, unusable


def _sort_in(
    value: onnx.ValueInfoProto, specs: Specs, unusable: dict[str, str], reason: str
) -> None:
    spec, why_not = _spec_of(value)
    if spec is not None:
        specs[value.name] = spec
    else:
        unusable[value.name] = (
            f"the shape of '{value.name}' is not known: {reason}" if reason else why_not
        )


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor of numbers, whatever is known of its shape."""
    inferred = _inferred(model).graph
    found = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        element = value.type.tensor_type.elem_type
        if value.type.HasField("tensor_type") and _dtype_name(element) in _DTYPES:
            found[value.name] = element
    return found


def foreign_values(model: onnx.ModelProto) -> dict[str, str]:
    """Values made by operators that ONNX does not know, or from such values; the first operator."""
    local = {(function.domain, function.name) for function in model.functions}
    found: dict[str, str] = {}
    for node in model.graph.node:
        reason = next((found[name] for name in reads(node) if name in found), "")
        if not reason and not _is_known(node, model, local):
            domain = f" of {node.domain}" if node.domain else ""
            reason = f"node '{label(node)}' is a {node.op_type}{domain}, whose shapes ONNX does "
            reason += "not know"
        if reason:
            found |= dict.fromkeys(writes(node), reason)
    return found


def _is_known(
    node: onnx.NodeProto, model: onnx.ModelProto, local: Collection[tuple[str, str]]
) -> bool:
    """Whether ONNX, or the model's own functions, say what the node's results look like."""
    if (node.domain, node.op_type) in local:
        return True
    versions = [opset.version for opset in model.opset_import if opset.domain == node.domain]
    return bool(versions) and onnx.defs.has(node.op_type, versions[0], node.domain)


def with_shapes(model: onnx.ModelProto) -> onnx.GraphProto:
    """The same nodes in the same order, and value_info for all that is known of their values.

    Subgraphs have their own. Raises ModelError where the graph contradicts itself.
    """
    return _inferred(model).graph


def shapes_in(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shape of every value and weight of a graph that has a fixed one; not of its subgraphs'."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    light = _without_weights(model)
    try:
        return shape_inference.infer_shapes(
            light, check_type=False, strict_mode=False, data_prop=True
        )
    except Exception as error:  # onnx raises InferenceError and plain RuntimeError
        raise ModelError(f"shapes cannot be inferred: {_said(error)}") from error


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
        return _said(error)
    return ""


def _said(error: Exception) -> str:
    """The first complaint of an inference, with its node in front."""
    text = " ".join(str(error).split())
    missing = _NO_IMPORT.search(text)
    if missing is not None:
        name, domain, operator = missing.groups()
        return (
            f"node '{name}' is a {operator} of {domain or 'ai.onnx'}, and the file has no "
            "opset import of that domain"
        )
    for operator, name, complaint in _COMPLAINT.findall(text):
        if not complaint.strip().endswith("error(s):"):  # the node around the one at fault
            return f"node '{name}' ({operator}): {complaint.strip()[:300]}"
    return text[:300]


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto(ir_version=max(4, model.ir_version))
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph, source = light.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    for node in graph.node:
        node.name = label(node)  # what inference says of a node, it says by its name
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
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
    dtype = _dtype_name(tensor.elem_type)
    if dtype not in _DTYPES:
        return None, f"'{value.name}' has elements of type {dtype}"
    if not tensor.HasField("shape"):
        return None, f"the shape of '{value.name}' depends on the data"
    sizes = []
    for axis, dim in enumerate(tensor.shape.dim):
        if not dim.HasField("dim_value"):
            return None, f"dimension {axis} of '{value.name}' depends on the data"
        sizes.append(dim.dim_value)
    return TensorSpec(value.name, dtype, tuple(sizes)), ""  # type: ignore[arg-type]


def _dtype_name(element: int) -> str:
    """Numpy's name of an element type; one that is no DType for what cannot cross."""
    if element in (TensorProto.STRING, TensorProto.UNDEFINED):
        return TensorProto.DataType.Name(element).lower()
    try:
        return str(helper.tensor_dtype_to_np_dtype(element).name)
    except (KeyError, TypeError):
        return "undefined"
