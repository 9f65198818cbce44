"""Parts that quantise what crosses: the head ends in symbols, and the tail begins with them.

Every operator does one operation of `Quantiser` and rounds as it does, so the symbols and the
values are those of numpy, to the bit, on ONNX Runtime's CPU provider.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from splitbed.errors import CutUnknown, UsageError
from splitbed.graph.extract import ExtractedPart, Parts
from splitbed.graph.reading import subgraphs, writes
from splitbed.quantiser import Quantiser
from splitbed.tensor import Array, TensorSpec

_OLDEST: Final = 7
"""The operator set from which on two shapes are brought together as numpy does."""

_CLIP_HAS_INPUTS: Final = 11
"""The operator set from which on the bounds of Clip are inputs and no attributes."""


def quantising(parts: Parts, quantisers: Sequence[Quantiser]) -> Parts:
    """The parts of a cut with these quantisers in them, each of a boundary tensor of its own.

    The head's end is the symbols of such a tensor (`TensorSpec.symbols`) and their sum, the tail's
    beginning the symbols. What the head would hand through untouched, it quantises as well; what is
    a finished output, the tail hands out. Raises UsageError where a quantiser does not fit the
    boundary, or where one part has no nodes, and CutUnknown where a name is taken.
    """
    specs = {spec.name: spec for spec in parts.cut.boundary}
    if len({q.tensor for q in quantisers}) != len(quantisers):
        raise UsageError("a tensor came with two quantisers")
    for quantiser in quantisers:
        if quantiser.tensor not in specs:
            raise UsageError(f"'{quantiser.tensor[:80]}' does not cross at '{parts.cut.name}'")
        spec = specs[quantiser.tensor]
        why_not = quantiser.refuses(spec.dtype, spec.shape)
        if why_not is not None:
            raise UsageError(f"cut at '{parts.cut.name}': {why_not}")
    if parts.first is None or parts.second is None:
        missing = "head" if parts.first is None else "tail"
        raise UsageError(
            f"at '{parts.cut.name}' there is no {missing} that could quantise: leave out "
            "where=graph"
        )
    chosen = [(quantiser, specs[quantiser.tensor]) for quantiser in quantisers]
    return Parts(
        parts.cut, parts.point, _ending(parts.first, chosen), _beginning(parts.second, chosen)
    )


Chosen = Sequence[tuple[Quantiser, TensorSpec]]


def _ending(part: ExtractedPart, chosen: Chosen) -> ExtractedPart:
    """The head, with symbols and sums in place of what is quantised."""
    added, own = _Added(part), []
    for quantiser, spec in chosen:
        added.quantise(quantiser, spec)
        own += [spec.symbols, spec.symbol_sum]
    taken = {spec.name for _, spec in chosen}
    made = {name for node in part.nodes for name in writes(node)}
    passing = [name for name in taken if name not in made]
    return part.with_quantisers(
        tuple(quantiser for quantiser, _ in chosen),
        [*part.nodes, *added.nodes],
        added.constants,
        list(dict.fromkeys([*part.inputs, *sorted(passing)])),
        [*(name for name in part.outputs if name not in taken), *(spec.name for spec in own)],
        own,
    )


def _beginning(part: ExtractedPart, chosen: Chosen) -> ExtractedPart:
    """The tail, with symbols in place of what is quantised."""
    added, own = _Added(part), []
    for quantiser, spec in chosen:
        added.dequantise(quantiser, spec)
        own.append(spec.symbols)
    taken = {spec.name for _, spec in chosen}
    finished = [value.name for value in part.model.proto.graph.output if value.name in taken]
    return part.with_quantisers(
        tuple(quantiser for quantiser, _ in chosen),
        [*added.nodes, *part.nodes],
        added.constants,
        [*(name for name in part.inputs if name not in taken), *(spec.name for spec in own)],
        [*part.outputs, *finished],
        own,
    )


class _Added:
    """Nodes and constants that a part gets. All their names begin with the tensor's and an `@`."""

    def __init__(self, part: ExtractedPart) -> None:
        opsets = part.model.proto.opset_import
        self._opset = next((o.version for o in opsets if o.domain in ("", "ai.onnx")), 0)
        if self._opset < _OLDEST:
            raise UsageError(
                f"{part.model.source.path} has operators of set {self._opset}, and quantising in "
                f"the graph takes {_OLDEST} or later: leave out where=graph"
            )
        self._used = set(_names(part.nodes)) | {tensor.name for tensor in part.initialisers}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def quantise(self, quantiser: Quantiser, spec: TensorSpec) -> None:
        """From the tensor to its symbols and their sum."""
        self._check_names(spec)
        # A reshape costs nothing, and keeps ONNX Runtime from working the arithmetic into the
        # weights of a convolution before it, or from leaving out a rounding to float16: both
        # would change the last bits. So it is one even where the tensor is flat already.
        rows = [1, -1] if len(spec.shape) == 1 else [-1]
        value = self._reshaped(spec, "rows", spec.name, _by_channel(quantiser, spec) or rows)
        if spec.dtype != "float32":
            value = self._node("Cast", f"{spec.name}@single", value, to=TensorProto.FLOAT)
        low, scale = np.array(quantiser.low), 1 / np.array(quantiser.step)
        for operator, name, constant in (
            ("Sub", "low", _across(quantiser, low)),
            ("Mul", "scale", _across(quantiser, scale)),
            ("Add", "half", np.array(0.5)),
        ):
            held = self._constant(spec, name, constant.astype(np.float32))
            value = self._node(operator, f"{spec.name}@{operator}", value, held)
        value = self._clipped(spec, value, quantiser.highest + 0.5)
        # Truncating is rounding here, since half was added. Of NaN no symbol tells; the sum does.
        self._node("ReduceSum", spec.symbol_sum.name, value, keepdims=0)
        value = self._reshaped(spec, "flat", value, [-1])
        self._node("Cast", spec.symbols.name, value, to=TensorProto.UINT8)

    def dequantise(self, quantiser: Quantiser, spec: TensorSpec) -> None:
        """From the symbols to the tensor."""
        self._check_names(spec)
        value, name = spec.symbols.name, spec.name
        by_channel = _by_channel(quantiser, spec)
        if by_channel:
            value = self._reshaped(spec, "rows", value, by_channel)
        low, step = np.array(quantiser.low), np.array(quantiser.step)
        if spec.dtype == "float32":
            value = self._node("Cast", f"{name}@double", value, to=TensorProto.DOUBLE)
            held = self._constant(spec, "step", _across(quantiser, step))
            value = self._node("Mul", f"{name}@Mul", value, held)
            held = self._constant(spec, "low", _across(quantiser, low))
            value = self._node("Add", f"{name}@Add", value, held)
            value = self._node("Cast", f"{name}@value", value, to=TensorProto.FLOAT)
        else:
            # ONNX Runtime goes from double to float16 by way of single precision and rounds twice;
            # a table that numpy rounded does not. For float32 it takes five times as long.
            symbols = np.minimum(np.arange(256), quantiser.highest)
            table = (low[:, None] + symbols * step[:, None]).astype(spec.dtype)
            value = self._node("Cast", f"{name}@index", value, to=TensorProto.INT32)
            if by_channel:
                first = _across(quantiser, 256 * np.arange(low.size)).astype(np.int32)
                held = self._constant(spec, "first", first)
                value = self._node("Add", f"{name}@Add", value, held)
            held = self._constant(spec, "table", table.reshape(-1))
            value = self._node("Gather", f"{name}@value", held, value)
        # What is left is the batch, which may be open.
        self._reshaped(spec, "", value, [-1, *spec.shape[1:]] if spec.shape else [])

    def _check_names(self, spec: TensorSpec) -> None:
        taken = next((name for name in self._used if name.startswith(f"{spec.name}@")), None)
        if taken is not None:
            raise CutUnknown(
                f"'{spec.name}' cannot be quantised in the graph, which has a value '{taken}': "
                "leave out where=graph"
            )

    def _node(self, operator: str, output: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def _constant(self, spec: TensorSpec, name: str, value: Array) -> str:
        self.constants.append(numpy_helper.from_array(value, f"{spec.name}@{name}.constant"))
        return self.constants[-1].name

    def _reshaped(self, spec: TensorSpec, name: str, value: str, sizes: Sequence[int]) -> str:
        """Under the tensor's own name where `name` is empty."""
        shape = self._constant(spec, name or "shape", np.array(sizes, np.int64))
        return self._node("Reshape", f"{spec.name}@{name}" if name else spec.name, value, shape)

    def _clipped(self, spec: TensorSpec, value: str, top: float) -> str:
        output = f"{spec.name}@Clip"
        if self._opset < _CLIP_HAS_INPUTS:
            return self._node("Clip", output, value, min=0.0, max=top)
        ends = {"zero": np.float32(0), "top": np.float32(top)}
        held = [self._constant(spec, name, np.array(end)) for name, end in ends.items()]
        return self._node("Clip", output, value, *held)


def _by_channel(quantiser: Quantiser, spec: TensorSpec) -> list[int]:
    """Batch, channels, all else; empty where channels do not matter."""
    return [-1, spec.shape[1], math.prod(spec.shape[2:])] if quantiser.per_channel else []


def _across(quantiser: Quantiser, values: Array) -> Array:
    """One value for each channel, or for all of them, as an operator takes it beside the tensor."""
    return values.reshape((1, -1, 1) if quantiser.per_channel else ())


def _names(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Every value that nodes, and the graphs in them, speak of."""
    for node in nodes:
        yield from (*node.input, *node.output)
        for graph in subgraphs(node):
            yield from _names(graph.node)
