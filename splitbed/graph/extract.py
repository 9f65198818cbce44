"""Making the two parts of a cut as ONNX files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec
import onnx
from onnx import helper

from splitbed.errors import CutUnknown
from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.cuts import CutPoint, constant_values, cuttable_nodes
from splitbed.graph.reading import reads, writes
from splitbed.tensor import Cut, Part, Partition, TensorSpec


class ExtractedPart(msgspec.Struct, frozen=True):
    """One part: what it is, and its file."""

    partition: Partition
    content: bytes


class Parts(msgspec.Struct, frozen=True):
    """Both parts of one cut; None for a part without nodes."""

    cut: Cut
    first: ExtractedPart | None
    second: ExtractedPart | None


def extract(model: CanonicalModel, point: CutPoint) -> Parts:
    """Cut the model. Every node lands in exactly one part, constants in each that needs them.

    Raises CutUnknown where the point is not legal.
    """
    if point.cut is None:
        raise CutUnknown(f"the model cannot be cut at '{point.name}': {point.why_not}")
    order = cuttable_nodes(model)
    upstream, downstream = order[: point.position], order[point.position :]
    boundary = [spec.name for spec in point.cut.boundary]
    made = {name for node in upstream for name in writes(node)}
    head = _part(
        model,
        point.cut,
        "first" if downstream else "whole",
        upstream,
        [name for name in boundary if name in made],
    )
    made = {name for node in downstream for name in writes(node)}
    tail = _part(
        model,
        point.cut,
        "second" if upstream else "whole",
        downstream,
        [value.name for value in model.proto.graph.output if value.name in made],
    )
    return Parts(point.cut, head, tail)


def _part(
    model: CanonicalModel,
    cut: Cut,
    part: Part,
    nodes: list[onnx.NodeProto],
    outputs: list[str],
) -> ExtractedPart | None:
    if not nodes:
        return None
    graph = model.proto.graph
    constant = constant_values(model)
    made = {name for node in nodes for name in writes(node)}
    needed = dict.fromkeys(name for node in nodes for name in reads(node) if name not in made)
    helpers: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if constant.issuperset(writes(node)) and needed.keys() & set(writes(node)):
            helpers.append(node)
            needed |= dict.fromkeys(reads(node))
    helpers.reverse()
    computed = {name for node in helpers for name in writes(node)}
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    held = {tensor.name for tensor in weights} | computed
    inputs = _specs(model, (name for name in needed if name not in held))
    outs = _specs(model, outputs)
    file = onnx.ModelProto(
        ir_version=model.proto.ir_version,
        producer_name="splitbed",
        doc_string=f"{part} part of a model cut at {cut.name}",
    )
    file.opset_import.extend(model.proto.opset_import)
    file.functions.extend(model.proto.functions)
    file.graph.name = f"{graph.name or 'model'}.{part}"
    file.graph.node.extend([*helpers, *nodes])
    file.graph.initializer.extend(weights)
    file.graph.input.extend(_value_info(spec) for spec in inputs)
    file.graph.output.extend(_value_info(spec) for spec in outs)
    content = file.SerializeToString(deterministic=True)
    partition = Partition(
        model=model.id,
        cut=cut,
        part=part,
        sha256=hashlib.sha256(content).hexdigest(),
        file_bytes=len(content),
        inputs=tuple(inputs),
        outputs=tuple(outs),
    )
    return ExtractedPart(partition, content)


def _specs(model: CanonicalModel, names: Iterable[str]) -> list[TensorSpec]:
    return [model.specs[name] for name in names]


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(spec.numpy_dtype)
    return helper.make_tensor_value_info(spec.name, element, list(spec.shape))
