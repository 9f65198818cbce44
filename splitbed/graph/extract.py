"""Making the two parts of a cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import msgspec
import onnx
from onnx import helper

from splitbed.errors import CutUnknown
from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.cuts import CutPoint
from splitbed.graph.detach import with_length
from splitbed.graph.file import OnnxFile, frame_of
from splitbed.graph.reading import reads, writes
from splitbed.pair import PairId
from splitbed.quantiser import Quantiser
from splitbed.tensor import Cut, Part, Partition, TensorSpec, canonical_json

_DATA_NAMES: Final[dict[Part, str]] = {
    "first": "part1.data",
    "second": "part2.data",
    "whole": "whole.data",
}


class ExtractedPart:
    """One part: what it is, and its file, which is made when it is asked for."""

    def __init__(
        self,
        model: CanonicalModel,
        cut: Cut,
        part: Part,
        nodes: Sequence[onnx.NodeProto],
        initialisers: Sequence[onnx.TensorProto],
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        quantisers: tuple[Quantiser, ...] = (),
        own: Mapping[str, TensorSpec] | None = None,
        pair: PairId | None = None,
        frame: onnx.ModelProto | None = None,
        held_bytes: int = 0,
    ) -> None:
        self.model, self._cut, self._part = model, cut, part
        self.nodes = tuple(nodes)
        """In topological order."""
        self.initialisers = tuple(initialisers)
        """Weights that the part holds."""
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        """Names, in the file's order."""
        self._quantisers, self._own = quantisers, dict(own or {})
        self._pair, self._frame = pair, frame or model.proto
        self.held_bytes = held_bytes
        """Weights that are in memory, and in none of the model's files."""

    def with_quantisers(
        self,
        quantisers: tuple[Quantiser, ...],
        nodes: Sequence[onnx.NodeProto],
        constants: Sequence[onnx.TensorProto],
        inputs: Sequence[str],
        outputs: Sequence[str],
        own: Iterable[TensorSpec],
    ) -> ExtractedPart:
        """This part with other nodes and ends; `own` are those that the model does not have."""
        return self._changed(
            nodes,
            constants,
            inputs,
            outputs,
            quantisers=quantisers,
            own=self._own | {spec.name: spec for spec in own},
            pair=self._pair,
            frame=self._frame,
            held_bytes=self.held_bytes,
        )

    def with_pair(
        self,
        pair: PairId,
        frame: onnx.ModelProto,
        nodes: Sequence[onnx.NodeProto],
        constants: Sequence[onnx.TensorProto],
        inputs: Sequence[str],
        outputs: Sequence[str],
        own: Iterable[TensorSpec],
        held_bytes: int,
    ) -> ExtractedPart:
        """The same with a learned codec's network in it, whose operators `frame` imports too."""
        return self._changed(
            nodes,
            constants,
            inputs,
            outputs,
            own={spec.name: spec for spec in own},
            pair=pair,
            frame=frame,
            held_bytes=held_bytes,
        )

    def _changed(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: Sequence[onnx.TensorProto],
        inputs: Sequence[str],
        outputs: Sequence[str],
        **others: Any,
    ) -> ExtractedPart:
        held = [*self.initialisers, *constants]
        return ExtractedPart(
            self.model, self._cut, self._part, nodes, held, inputs, outputs, **others
        )

    @cached_property
    def file(self) -> OnnxFile:
        """The file, ready to be written."""
        model = self.model
        return OnnxFile(
            model.source,
            self._frame,
            self.nodes,
            self.initialisers,
            map(self._value_info, self.inputs),
            map(self._value_info, self.outputs),
            doc=_doc(self._cut, self._part, self._quantisers, self._pair),
            graph_name=_graph_name(model, self._part),
            data_name=_DATA_NAMES[self._part],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtractedPart) and self.partition == other.partition

    def __hash__(self) -> int:
        return hash(self.partition.sha256)

    @property
    def content(self) -> bytes:
        """The whole file, the weights included."""
        return self.file.content

    @cached_property
    def partition(self) -> Partition:
        """What the part is. Its digest reads every weight once."""
        return Partition(
            model=self.model.id,
            cut=self._cut,
            part=self._part,
            sha256=self.file.sha256,
            file_bytes=self.file.nbytes,
            inputs=self._specs(self.inputs),
            outputs=self._specs(self.outputs),
            quantisers=self._quantisers,
            pair=self._pair,
        )

    def _value_info(self, name: str) -> onnx.ValueInfoProto:
        if name not in self._own:
            return self.model.value_info(name)
        spec = self._own[name]
        element = helper.np_dtype_to_tensor_dtype(spec.numpy_dtype)
        # Each has a size of its own that follows the batch, so each a dimension of its own name.
        # With a pair none does: that has its own shapes.
        is_open = self.model.batch_free and self._pair is None and spec.shape
        shape = [name] if is_open else spec.shape
        return helper.make_tensor_value_info(name, element, shape)

    def _specs(self, names: Iterable[str]) -> tuple[TensorSpec, ...]:
        """Outputs without a fixed shape have none."""
        known = {**self.model.specs, **self._own}
        return tuple(known[name] for name in names if name in known)


class Parts(msgspec.Struct, frozen=True):
    """Both parts of one cut; None for a part without nodes."""

    cut: Cut
    point: CutPoint
    first: ExtractedPart | None
    second: ExtractedPart | None


def extract(model: CanonicalModel, point: CutPoint, *, expose: bool = False) -> Parts:
    """Cut the model. Every node lands in exactly one part, constants in each that needs them.

    `expose` makes every value of a part its output, to look for where something goes wrong. Raises
    CutUnknown where the point is not legal.
    """
    if point.cut is None:
        raise CutUnknown(f"the model cannot be cut at '{point.name}': {point.why_not}")
    order = model.order
    in_head = point.head
    upstream = [node for index, node in enumerate(order) if index in in_head]
    downstream = [node for index, node in enumerate(order) if index not in in_head]
    boundary = [spec.name for spec in point.cut.boundary]
    made = {name for node in upstream for name in writes(node)}
    head = _part(
        model,
        point.cut,
        "first" if downstream else "whole",
        upstream,
        _exposed(model, upstream) if expose else [name for name in boundary if name in made],
    )
    made = {name for node in downstream for name in writes(node)}
    tail = _part(
        model,
        point.cut,
        "second" if upstream else "whole",
        downstream,
        _exposed(model, downstream)
        if expose
        else [value.name for value in model.proto.graph.output if value.name in made],
    )
    return Parts(point.cut, point, head, tail)


def _exposed(model: CanonicalModel, nodes: Sequence[onnx.NodeProto]) -> list[str]:
    return [name for node in nodes for name in writes(node) if name in model.specs]


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
    constant = model.constants
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
    inputs = [name for name in needed if name not in held]
    return ExtractedPart(model, cut, part, [*helpers, *nodes], weights, inputs, outputs)


def file_bytes(
    model: CanonicalModel,
    cut: Cut,
    part: Part,
    content_bytes: int,
) -> int:
    """Size of a part's file whose nodes, ends and weights take `content_bytes`, not made for it."""
    graph = content_bytes + _field_bytes(len(_graph_name(model, part).encode()))
    frame = frame_of(model.proto, _doc(cut, part)).ByteSize()
    return frame + _field_bytes(graph)


def end_bytes(model: CanonicalModel, name: str) -> int:
    """What a value takes in a part's file as its input or output."""
    return _field_bytes(model.value_info(name).ByteSize())


def _field_bytes(nbytes: int) -> int:
    # All field numbers used here are below 16: their tag takes one byte.
    return len(with_length(1, nbytes)) + nbytes


def _doc(
    cut: Cut, part: Part, quantisers: tuple[Quantiser, ...] = (), pair: PairId | None = None
) -> str:
    doc = f"{part} part of a model cut at {cut.name}"
    if pair is not None:
        # Both halves: a head is of no use with the tail of another decoder.
        doc += f", learned {pair.digest}"
    if not quantisers:
        return doc
    # Two of them may round to the same constants; their parts are two all the same.
    return f"{doc}, quantised {hashlib.sha256(canonical_json(quantisers)).hexdigest()}"


def _graph_name(model: CanonicalModel, part: Part) -> str:
    return f"{model.proto.graph.name or 'model'}.{part}"
