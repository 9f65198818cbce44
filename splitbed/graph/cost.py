"""What each part of a cut weighs: parameters, multiply-accumulates, bytes of its file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec
import numpy as np
import onnx
from onnx import TensorProto

from splitbed.graph import file
from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.cuts import CutPoint
from splitbed.graph.extract import end_bytes, extract, file_bytes
from splitbed.graph.file import beside_bytes, node_bytes
from splitbed.graph.macs import is_counted, node_macs
from splitbed.graph.reading import is_onnx, reads, subgraphs, writes
from splitbed.graph.shapes import shapes_in, with_shapes
from splitbed.graph.weights import stored_bytes, tensor_bytes
from splitbed.tensor import Part

_LEARNED = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E5M2,
    }
)
"""Element types of parameters; wider integers are shapes and indices."""


_BIASES: Final[Mapping[str, tuple[int, ...]]] = {"DequantizeLinear": (0,), "QLinearConv": (8,)}
_QUANTISED: Final = (1, 2, 4, 5, 6, 7)
_SETTINGS: Final[Mapping[str, tuple[int, ...]]] = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "DequantizeLinear": (1, 2),
    "Pad": (2,),
    "QLinearConv": _QUANTISED,
    "QLinearMatMul": _QUANTISED,
    "QuantizeLinear": (1, 2),
    "Resize": (1, 2),
    "Upsample": (1,),
}
"""Inputs that no training makes, by operator."""


class PartCost(msgspec.Struct, frozen=True):
    """The two parts of one cut."""

    head_parameters: int
    head_parameter_bytes: int
    """As the file stores them."""
    head_macs: int
    head_file_bytes: int
    """Size of the head's file, 0 where there is no head. With weights beside it, of both files."""
    tail_file_bytes: int


class CostModel:
    """Costs at every cut of a model, from sums made once.

    A parameter that both parts need counts as the head's, and its bytes in both files.
    """

    def __init__(self, model: CanonicalModel) -> None:
        self._model = model
        self._order = order = model.order
        graph, ends = model.proto.graph, len(order)
        constant = model.constants
        self.node_macs = _macs(model)
        """Of each node, in order."""
        self._uses = _uses(graph, order, constant)
        self._made_at = {name: at for at, node in enumerate(order) for name in writes(node)}
        sums = _Sums(ends)
        for at, node in enumerate(order):
            count, nbytes = _inner_parameters(node)
            size = node_bytes(model.source, node)
            sums.add((at, at), (size, count, nbytes, size, 0))
        for node in graph.node:
            if constant.issuperset(writes(node)):
                users = [self._uses[name] for name in writes(node) if name in self._uses]
                if users:
                    span = (min(first for first, _ in users), max(last for _, last in users))
                    size = node_bytes(model.source, node)
                    sums.add(span, (size, *_inner_parameters(node), size, 0))
        learned = _Learned(graph)
        for tensor in graph.initializer:
            span = self._uses.get(tensor.name, (ends, -1))
            count = learned.elements(tensor)
            stored = stored_bytes(tensor) if count else 0
            sums.add(span, (tensor_bytes(tensor), count, stored, *beside_bytes(tensor)))
        self._ends: dict[str, int] = {}
        self._in_head, self._in_tail = sums.heads(), sums.tails()
        self._macs = [0, *accumulate(self.node_macs)]
        self.parameters = self._in_head[-1][1]
        """Of the whole model."""
        self.parameter_bytes = self._in_head[-1][2]
        """Of the whole model, as the file stores them."""
        self.macs = self._macs[-1]
        """Of one inference of the whole model, at the bound shapes."""

    def at(self, point: CutPoint) -> PartCost:
        """The two parts of a legal cut."""
        if point.head_nodes:
            return self._of_set(point)
        at = point.position
        _, count, nbytes, _, _ = self._in_head[at]
        return PartCost(
            head_parameters=count,
            head_parameter_bytes=nbytes,
            head_macs=self._macs[at],
            head_file_bytes=self._file_bytes(point, is_head=True) if at else 0,
            tail_file_bytes=self._file_bytes(point, is_head=False) if at < len(self._order) else 0,
        )

    def _file_bytes(self, point: CutPoint, *, is_head: bool) -> int:
        model, at = self._model, point.position
        if point.cut is None:
            return 0
        graph = model.proto.graph
        crossing = (spec.name for spec in point.cut.boundary)
        if is_head:
            content, _, _, beside, data = self._in_head[at]
            ends = [v.name for v in graph.input if self._uses.get(v.name, (at, 0))[0] < at]
            ends += [name for name in crossing if name in self._made_at]
        else:
            content, _, _, beside, data = self._in_tail[at]
            ends = [name for name in crossing if self._uses.get(name, (0, -1))[1] >= at]
            ends += [v.name for v in graph.output if self._made_at.get(v.name, -1) >= at]
        around = sum(map(self._end_bytes, ends))
        is_whole = at == len(self._order) if is_head else at == 0
        part: Part = "whole" if is_whole else "first" if is_head else "second"
        total = file_bytes(model, point.cut, part, content + around)
        if total <= file.MOST_BYTES:
            return total
        return file_bytes(model, point.cut, part, beside + around) + data

    def _end_bytes(self, name: str) -> int:
        if name not in self._ends:
            self._ends[name] = end_bytes(self._model, name)
        return self._ends[name]

    def _of_set(self, point: CutPoint) -> PartCost:
        graph, inside = self._model.proto.graph, set(point.head_nodes)
        parts = extract(self._model, point)
        held = {t.name for t in parts.first.initialisers} if parts.first else set()
        learned = _Learned(graph)
        weights = [t for t in graph.initializer if t.name in held and learned.elements(t)]
        inner = [_inner_parameters(self._order[at]) for at in inside]
        return PartCost(
            head_parameters=sum(map(learned.elements, weights)) + sum(n for n, _ in inner),
            head_parameter_bytes=sum(map(stored_bytes, weights)) + sum(n for _, n in inner),
            head_macs=sum(self.node_macs[at] for at in inside),
            head_file_bytes=parts.first.file.nbytes if parts.first else 0,
            tail_file_bytes=parts.second.file.nbytes if parts.second else 0,
        )


def parameter_count(model: onnx.ModelProto) -> int:
    """Learned parameters of a model as its builder made it."""
    learned = _Learned(model.graph)
    inner = sum(_inner_parameters(node)[0] for node in model.graph.node)
    return sum(map(learned.elements, model.graph.initializer)) + inner


def operator_costs(model: CanonicalModel, node_macs: Sequence[int]) -> list[dict[str, Any]]:
    """By operator: its nodes, the parameters that they read first, their MACs; most work first.

    `node_macs` are a listing's, of the nodes in order.
    """
    graph = model.proto.graph
    learned = _Learned(graph)
    left = {tensor.name: learned.elements(tensor) for tensor in graph.initializer}
    macs = iter(node_macs)
    found: dict[str, dict[str, Any]] = {}
    for node in graph.node:
        name = _operator(node)
        row = found.setdefault(name, {"operator": name, "nodes": 0, "parameters": 0, "macs": 0})
        row["nodes"] += 1
        row["parameters"] += sum(left.pop(value, 0) for value in reads(node))
        row["parameters"] += _inner_parameters(node)[0]
        if not model.constants.issuperset(writes(node)):
            row["macs"] += next(macs)
    return sorted(found.values(), key=lambda row: (-row["macs"], -row["parameters"], -row["nodes"]))


def uncounted(model: CanonicalModel, node_macs: Sequence[int]) -> dict[str, int]:
    """Operators whose work is not known, and how many nodes: foreign ones, unknown shapes."""
    found: dict[str, int] = {}
    for node, macs in zip(model.order, node_macs, strict=True):
        known = is_onnx(node) or is_counted(node)
        if not known or (is_counted(node) and not macs):
            found[_operator(node)] = found.get(_operator(node), 0) + 1
    return found


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if is_onnx(node) else f"{node.domain}.{node.op_type}"


class _Sums:
    """Amounts of things that enter the head at their first use and leave the tail at their last.

    Each has bytes in the file, parameters and their bytes, and, where weights lie beside the file,
    bytes in it and beside it.
    """

    def __init__(self, positions: int) -> None:
        self._enter = np.zeros((positions + 2, 5), np.int64)
        self._leave = np.zeros((positions + 2, 5), np.int64)

    def add(self, span: tuple[int, int], amounts: tuple[int, int, int, int, int]) -> None:
        """Something that the nodes from `span[0]` to `span[1]` use."""
        self._enter[span[0] + 1] += amounts
        self._leave[span[1] + 1] += amounts

    def heads(self) -> list[list[int]]:
        """By position, the sums of what is in the head."""
        found: list[list[int]] = self._enter.cumsum(axis=0)[:-1].tolist()
        return found

    def tails(self) -> list[list[int]]:
        """The same in the tail."""
        found: list[list[int]] = (self._leave[::-1].cumsum(axis=0)[::-1] - self._leave).tolist()
        return found


class _Learned:
    """Which elements of a graph's weights training makes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._settings = _named(graph, _SETTINGS)
        # Wide integers are shapes and indices, but for the biases of quantised layers.
        self._biases = _named(graph, _BIASES)

    def elements(self, tensor: TensorProto) -> int:
        """Of one weight: all of them or none."""
        if tensor.name in self._settings:
            return 0
        is_bias = tensor.data_type == TensorProto.INT32 and tensor.name in self._biases
        return math.prod(tensor.dims) if is_bias or tensor.data_type in _LEARNED else 0


def _named(graph: onnx.GraphProto, places: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """What nodes read at some of their inputs."""
    return frozenset(
        node.input[index]
        for node in graph.node
        if is_onnx(node)
        for index in places.get(node.op_type, ())
        if index < len(node.input)
    )


def _inner_parameters(node: onnx.NodeProto) -> tuple[int, int]:
    """Parameters that lie inside a node's subgraphs, and their bytes."""
    count = nbytes = 0
    for graph in subgraphs(node):
        learned = _Learned(graph)
        for tensor in graph.initializer:
            elements = learned.elements(tensor)
            count += elements
            nbytes += stored_bytes(tensor) if elements else 0
        for inner in graph.node:
            more = _inner_parameters(inner)
            count, nbytes = count + more[0], nbytes + more[1]
    return count, nbytes


def _macs(model: CanonicalModel) -> list[int]:
    """Of each node of the order."""
    inferred = with_shapes(model.proto)
    shapes = shapes_in(inferred) | shapes_in(model.proto.graph)
    return [
        node_macs(node, shapes)
        for node in inferred.node
        if not model.constants.issuperset(writes(node))
    ]


def _uses(
    graph: onnx.GraphProto, order: Sequence[onnx.NodeProto], constant: frozenset[str]
) -> dict[str, tuple[int, int]]:
    """First and last node that needs each value, through constants computed from it as well."""
    uses: dict[str, tuple[int, int]] = {}

    def use(name: str, first: int, last: int) -> None:
        known = uses.get(name, (first, last))
        uses[name] = (min(known[0], first), max(known[1], last))

    for at, node in enumerate(order):
        for name in reads(node):
            use(name, at, at)
    for node in reversed(graph.node):
        if constant.issuperset(writes(node)):
            for made in writes(node):
                if made in uses:
                    for name in reads(node):
                        use(name, *uses[made])
    return uses
