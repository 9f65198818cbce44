"""The canonical form of a model: the one that is cut, and the uncut anchor it is compared with.

A gain from canonicalising must never be booked as a gain from splitting, so the anchor is this
form and not the file as given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec
import onnx
from onnx import helper

from splitbed.errors import ModelError
from splitbed.graph.batch import batch_is_free
from splitbed.graph.cleaning import (
    drop_dead,
    drop_identities,
    drop_unread_outputs,
    free_outputs,
    keep,
)
from splitbed.graph.file import ModelFile
from splitbed.graph.fold import fold
from splitbed.graph.reading import label, reads, writes
from splitbed.graph.shapes import Specs, contradiction, infer
from splitbed.graph.source import SourceModel
from splitbed.tensor import ModelId, TensorSpec

CANONICALISER: Final = 2
"""Version of the rules below; part of every model's identity."""

Shape = tuple[int, ...]


class CanonicalModel(msgspec.Struct, frozen=True):
    """A cleaned model with fixed input shapes."""

    source: SourceModel
    proto: onnx.ModelProto
    input_shapes: tuple[tuple[str, Shape], ...]
    """As they were bound, by name."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    specs: Specs
    """Every value with a known type and fixed shape."""
    unusable: dict[str, str]
    """Every other value, with the reason why it cannot cross a cut."""
    aliases: dict[str, str]
    """Names of the file that cleaning removed, with the value that stands for each now."""
    batch_free: bool
    """Whether the file left the batch open and every value still follows it: then the parts leave
    it open too, although the specifications here are of the bound batch."""

    @property
    def id(self) -> ModelId:
        """Identity. The first time it is asked for, the file's digest reads all of it."""
        return ModelId(
            source_sha256=self.source.sha256,
            canonicaliser=CANONICALISER,
            input_shapes=self.input_shapes,
        )

    def file(self) -> ModelFile:
        """The uncut canonical model, ready to be written."""
        graph = self.proto.graph
        return ModelFile(
            self.source,
            self.proto,
            list(graph.node),
            list(graph.initializer),
            [self.value_info(spec) for spec in self.inputs],
            [self.value_info(spec) for spec in self.outputs],
            doc="canonical form of a model",
            graph_name=graph.name or "model",
        )

    def value_info(self, spec: TensorSpec) -> onnx.ValueInfoProto:
        """`spec` as a part's input or output, its batch left open where it may be."""
        element = helper.np_dtype_to_tensor_dtype(spec.numpy_dtype)
        shape: list[int | str] = list(spec.shape)
        if self.batch_free and shape:
            shape[0] = "batch"
        return helper.make_tensor_value_info(spec.name, element, shape)


def canonicalise(
    source: SourceModel, input_shapes: Mapping[str, Shape] | None = None
) -> CanonicalModel:
    """Clean `source` and bind its input shapes. The source's own graph is left as it is.

    Initialisers leave the graph's inputs; Constant and Identity nodes and all arithmetic on known
    shapes are folded; nodes that nothing depends on go. An open first dimension is bound to 1 (the
    batch); any other open dimension must be given in `input_shapes`, where the name "" stands for
    the only input of a model. Raises ModelError.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source.proto)
    graph = model.graph
    # IR versions below 4 demand that initialisers are inputs too.
    model.ir_version = max(4, model.ir_version)
    _check(model, str(source.path))
    held = {tensor.name for tensor in graph.initializer}
    keep(graph.input, lambda value: value.name not in held)
    open_batch = all(_leaves_batch_open(value) for value in graph.input)
    shapes = _bind(graph, dict(input_shapes or {}), str(source.path))
    del graph.value_info[:]
    for value in graph.output:
        given = next((v for v in graph.input if v.name == value.name), None)
        if given is not None:
            value.type.CopyFrom(given.type)
        elif value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    free_outputs(graph)
    aliases = drop_identities(graph)
    try:
        specs, unusable = infer(model)
        while fold(model, specs):
            specs, unusable = infer(model)
    except ModelError as error:
        raise ModelError(f"{source.path} is no valid graph: {error}") from error
    drop_dead(graph)
    drop_unread_outputs(graph)
    outputs = []
    for value in graph.output:
        if value.name not in specs:
            reason = contradiction(model) or unusable.get(
                value.name, f"the shape of '{value.name}' is not known"
            )
            raise ModelError(f"{source.path} cannot be used with fixed shapes: {reason}")
        outputs.append(specs[value.name])
    for value in graph.input:
        if value.name not in specs:
            raise ModelError(f"{source.path} cannot be cut: {unusable[value.name]}")
    inputs = tuple(specs[value.name] for value in graph.input)
    free = open_batch and batch_is_free(model, inputs, specs)
    bound = tuple(sorted(shapes.items()))
    return CanonicalModel(
        source, model, bound, inputs, tuple(outputs), specs, unusable, aliases, free
    )


def _leaves_batch_open(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return len(dims) > 0 and not dims[0].HasField("dim_value")


def _check(model: onnx.ModelProto, where: str) -> None:
    """The few rules without which nothing below makes sense."""
    graph = model.graph
    for what, field in (
        ("inputs", graph.input),
        ("outputs", graph.output),
        ("initialisers", graph.initializer),
    ):
        for name, times in Counter(item.name for item in field).items():
            if times > 1:
                raise ModelError(f"{where} is no valid graph: '{name}' is twice among its {what}")
    if not graph.output:
        raise ModelError(f"{where} is no valid graph: it has no output")
    known = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    if any(True for _ in graph.sparse_initializer):
        raise ModelError(f"{where} has sparse initialisers, which splitbed cannot cut")
    made: set[str] = set()
    for node in graph.node:
        for name in reads(node):
            if name not in known:
                raise ModelError(
                    f"{where} is no valid graph: node '{label(node)}' reads '{name}', which "
                    "nothing before it makes (a cycle, or nodes out of order)"
                )
        for name in writes(node):
            if name in known or name in made:
                raise ModelError(f"{where} is no valid graph: '{name}' is made twice")
            made.add(name)
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            raise ModelError(f"{where} is no valid graph: nothing makes its output '{value.name}'")


def _bind(graph: onnx.GraphProto, given: dict[str, Shape], where: str) -> dict[str, Shape]:
    bound: dict[str, Shape] = {}
    for value in graph.input:
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"{where}: input '{value.name}' is no tensor")
        dims = value.type.tensor_type.shape.dim
        wanted = given.pop(value.name, None)
        if wanted is None and len(graph.input) == 1:
            wanted = given.pop("", None)
        if wanted is not None and value.type.tensor_type.HasField("shape"):
            fixed = [
                d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in dims
            ]
            if len(fixed) != len(wanted) or any(
                f is not None and f != w for f, w in zip(fixed, wanted, strict=True)
            ):
                raise ModelError(
                    f"{where}: shape {'x'.join(map(str, wanted))} does not bind to input "
                    f"'{value.name}' of shape {_shape_text(value)}"
                )
        if wanted is None and value.type.tensor_type.HasField("shape"):
            wanted = tuple(
                d.dim_value if d.HasField("dim_value") else 1 if axis == 0 else -1
                for axis, d in enumerate(dims)
            )
        if wanted is None or -1 in wanted:
            raise ModelError(
                f"{where}: input '{value.name}' leaves dimensions open ({_shape_text(value)}): "
                f"bind them, as in --shape {value.name}=1x3x224x224"
            )
        del dims[:]
        dims = value.type.tensor_type.shape.dim
        for size in wanted:
            dims.add().dim_value = size
        bound[value.name] = wanted
    if given:
        known = ", ".join(bound)
        raise ModelError(f"{where} has no input '{next(iter(given))}' to bind; it has {known}")
    return bound


def _shape_text(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return "x".join(
        str(d.dim_value) if d.HasField("dim_value") else (d.dim_param or "?") for d in dims
    )
