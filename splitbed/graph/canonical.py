"""The canonical form of a model: the one that is cut, and the uncut anchor it is compared with.

A gain from canonicalising must never be booked as a gain from splitting, so the anchor is this
form and not the file as given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec
import onnx
from onnx import helper

from splitbed.errors import EngineError, ModelError
from splitbed.graph.batch import batch_is_free, keep_batch
from splitbed.graph.cleaning import (
    drop_dead,
    drop_identities,
    drop_unread_outputs,
    free_outputs,
    keep,
    take_branches,
)
from splitbed.graph.dimensions import Bound, leaves_batch_open
from splitbed.graph.file import OnnxFile
from splitbed.graph.fold import fold
from splitbed.graph.functions import prepared, random_functions
from splitbed.graph.reading import KNOWN_DOMAINS, is_random, reads, writes
from splitbed.graph.shapes import Specs, contradiction, element_types, foreign_values, infer
from splitbed.graph.source import SourceModel
from splitbed.tensor import ModelId, TensorSpec

CANONICALISER: Final = 2
"""Version of the rules below; part of every model's identity."""

Shape = tuple[int, ...]


class CanonicalModel(msgspec.Struct, frozen=True, dict=True):
    """A cleaned model with fixed input shapes."""

    source: SourceModel
    proto: onnx.ModelProto
    input_shapes: tuple[tuple[str, Shape], ...]
    """As they were bound, by name."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """Those with a fixed shape."""
    open_outputs: dict[str, str]
    """The others, with the reason: such a model can be cut and verified, but not run over a link,
    whose replies have the shapes that were agreed on."""
    specs: Specs
    """Every value with a known type and fixed shape."""
    unusable: dict[str, str]
    """Every other value, with the reason why it cannot cross a cut."""
    aliases: dict[str, str]
    """Names of the file that cleaning removed, with the value that stands for each now."""
    batch_free: bool
    """Whether the file left the batch open and every value still follows it: then the parts leave
    it open too, although the specifications here are of the bound batch."""

    @cached_property
    def constants(self) -> frozenset[str]:
        """Initialisers and every value computed from nothing else: they never cross a cut.

        What is drawn at random is none of them: it is drawn once. Nor is what an operator makes of
        which nobody here knows whether it draws.
        """
        graph = self.proto.graph
        drawn = random_functions(self.proto)
        local = {(function.domain, function.name) for function in self.proto.functions}
        constant = {tensor.name for tensor in graph.initializer}
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            if (
                constant.issuperset(reads(node))
                and not outputs.intersection(node.output)
                and not is_random(node, drawn)
                and (node.domain in KNOWN_DOMAINS or (node.domain, node.op_type) in local)
            ):
                constant.update(writes(node))
        return frozenset(constant)

    @cached_property
    def order(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes that are no constants, in topological order: what positions count."""
        return tuple(
            node for node in self.proto.graph.node if not self.constants.issuperset(writes(node))
        )

    @property
    def id(self) -> ModelId:
        """Identity. The first time it is asked for, the file's digest reads all of it."""
        return ModelId(
            source_sha256=self.source.sha256,
            canonicaliser=CANONICALISER,
            input_shapes=self.input_shapes,
        )

    def file(self) -> OnnxFile:
        """The uncut canonical model, ready to be written."""
        graph = self.proto.graph
        return OnnxFile(
            self.source,
            self.proto,
            list(graph.node),
            list(graph.initializer),
            [self.value_info(spec.name) for spec in self.inputs],
            [self.value_info(value.name) for value in graph.output],
            doc="canonical form of a model",
            graph_name=graph.name or "model",
            data_name="model.data",
        )

    def require_fixed_outputs(self) -> None:
        """Raise ModelError where a reply would have no shape to agree on."""
        for name, reason in self.open_outputs.items():
            raise ModelError(
                f"{self.source.path} can be cut but not run over a link, because its output "
                f"'{name}' has no fixed shape ({reason}): export it without what makes that output"
            )

    def value_info(self, name: str) -> onnx.ValueInfoProto:
        """A value as a part's input or output, its batch left open where it may be."""
        if name in self.open_outputs:
            return next(value for value in self.proto.graph.output if value.name == name)
        spec = self.specs[name]
        element = helper.np_dtype_to_tensor_dtype(spec.numpy_dtype)
        shape: list[int | str] = list(spec.shape)
        if self.batch_free and shape:
            shape[0] = "batch"
        return helper.make_tensor_value_info(spec.name, element, shape)


Observer = Callable[[bytes | Path], Iterable[TensorSpec]]
"""Tells the outputs of a model, as the runtime knows them: those with a fixed shape."""


def canonicalise(
    source: SourceModel,
    input_shapes: Mapping[str, Shape] | None = None,
    observer: Observer | None = None,
) -> CanonicalModel:
    """Clean `source` and bind its input shapes. The source's own graph is left as it is.

    Initialisers leave the graph's inputs; local functions and branches that are always taken become
    nodes of the graph; Constant and Identity nodes and all arithmetic on known shapes are folded;
    nodes that nothing depends on go, and so do optional outputs that nobody reads. An open first
    dimension is bound to 1 (the batch), unless its name has a size in another input; any other open
    dimension must be given in `input_shapes`, where the name "" stands for the only input of a
    model. Of what ONNX does not know, operators of the runtime's own for instance, `observer` is
    asked, and what the file states counts. Raises ModelError.
    """
    bound = _canonical(source, input_shapes or {}, observer)
    if not bound.batch_free:
        return bound

    def larger(factor: int) -> CanonicalModel:
        shapes = {name: (factor * shape[0], *shape[1:]) for name, shape in bound.input_shapes}
        return _canonical(source, shapes, observer)

    return msgspec.structs.replace(bound, batch_free=batch_is_free(bound, larger))


def _canonical(
    source: SourceModel, input_shapes: Mapping[str, Shape], observer: Observer | None
) -> CanonicalModel:
    """The canonical model, `batch_free` if the file leaves the batch open at all."""
    where = str(source.path)
    model = prepared(source.proto, where)
    graph = model.graph
    held = {tensor.name for tensor in graph.initializer}
    keep(graph.input, lambda value: value.name not in held)
    open_batch = all(map(leaves_batch_open, graph.input))
    bound = Bound(graph, input_shapes, where)
    stated = _stated(graph, bound)
    free_outputs(graph)
    aliases = drop_identities(graph)
    try:
        inference = _Inference(source, model, stated, observer)
        specs, unusable = inference.run()
        while True:
            changed = fold(model, specs)
            if take_branches(graph):
                renamed = drop_identities(graph)
                aliases = {old: renamed.get(new, new) for old, new in aliases.items()} | renamed
                changed = True
            if not changed:
                break
            specs, unusable = inference.run()
        said = contradiction(model)
    except ModelError as error:
        raise ModelError(f"{where} is no valid graph: {error}") from error
    if said and bound.opened:
        raise ModelError(f"{where} does not fit the input shapes {bound}: {said}")
    if said:
        raise ModelError(f"{where} is no valid graph: {said}")
    if open_batch:
        keep_batch(graph, specs)
    drop_dead(graph)
    drop_unread_outputs(model)
    open_outputs = {}
    missing = [value for value in graph.output if value.name not in specs]
    types = element_types(model) if missing else {}
    foreign = foreign_values(model) if missing else {}
    for value in missing:
        reason = unusable.get(value.name, f"the shape of '{value.name}' is not known")
        if value.name not in types or value.name in foreign:
            raise ModelError(f"{where} cannot be used with fixed shapes: {reason}")
        value.type.tensor_type.elem_type = types[value.name]
        open_outputs[value.name] = reason
    for value in graph.input:
        if value.name not in specs:
            raise ModelError(f"{where} cannot be cut: {unusable[value.name]}")
    return CanonicalModel(
        source=source,
        proto=model,
        input_shapes=tuple(sorted(bound.shapes.items())),
        inputs=tuple(specs[value.name] for value in graph.input),
        outputs=tuple(specs[value.name] for value in graph.output if value.name in specs),
        open_outputs=open_outputs,
        specs=specs,
        unusable=unusable,
        aliases=aliases,
        batch_free=open_batch,
    )


class _Inference:
    """Inference, helped where it knows nothing. What helped stays in the graph for the next one."""

    def __init__(
        self,
        source: SourceModel,
        model: onnx.ModelProto,
        stated: dict[str, onnx.ValueInfoProto],
        observer: Observer | None,
    ) -> None:
        self._source, self._model = source, model
        self._stated, self._observer = stated, observer
        self._asked: set[str] = set()

    def run(self) -> tuple[Specs, dict[str, str]]:
        """As `infer`, of the model as it is now."""
        model = self._model
        specs, unusable = infer(model)
        helpful = [self._stated.pop(name) for name in unusable if name in self._stated]
        if helpful:
            _state(model.graph, helpful)
            specs, unusable = infer(model)
        foreign = foreign_values(model)
        names = [name for name in unusable if name in foreign and name not in self._asked]
        if names and self._observer is not None:
            # Asked once for each name: every time, the runtime loads the model.
            self._asked.update(names)
            _state(model.graph, _observed(self._source, model, names, self._observer))
            specs, unusable = infer(model)
        return specs, unusable


def _state(graph: onnx.GraphProto, values: Sequence[onnx.ValueInfoProto]) -> None:
    """Let the graph say what these values look like."""
    outputs = {value.name: value for value in graph.output}
    for value in values:
        if value.name in outputs:
            outputs[value.name].CopyFrom(value)
        else:
            graph.value_info.append(value)


def _observed(
    source: SourceModel, model: onnx.ModelProto, names: Sequence[str], observer: Observer
) -> list[onnx.ValueInfoProto]:
    """What the runtime knows of some values; nothing where it cannot load the model."""
    graph = model.graph
    file = OnnxFile(
        source,
        model,
        list(graph.node),
        list(graph.initializer),
        graph.input,
        [onnx.ValueInfoProto(name=name) for name in names],
        doc="a model whose values are looked at",
        graph_name="observed",
        data_name="model.data",
    )
    try:
        specs = file.opened(observer)
    except (EngineError, ModelError):
        return []
    return [
        helper.make_tensor_value_info(
            spec.name, helper.np_dtype_to_tensor_dtype(spec.numpy_dtype), list(spec.shape)
        )
        for spec in specs
    ]


def _stated(graph: onnx.GraphProto, bound: Bound) -> dict[str, onnx.ValueInfoProto]:
    """Shapes that the file states, taken out of it; only where inference has none do they count."""
    found = {}
    for value in [*graph.value_info, *graph.output]:
        stated = bound.stated(value)
        if stated is not None:
            found[value.name] = stated
    del graph.value_info[:]
    given = {value.name: value for value in graph.input}
    for value in graph.output:
        if value.name in given:
            value.type.CopyFrom(given[value.name].type)
        elif value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return found
