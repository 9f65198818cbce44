"""What makes a cut worth looking at: stage and layer ends, better cuts, fusions that it breaks.

Everything here is read off the graph; nothing is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import onnx

from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.cost import PartCost
from splitbed.graph.cuts import CutPoint
from splitbed.graph.macs import WEIGHT_INPUT
from splitbed.graph.reading import is_onnx, reads, writes
from splitbed.graph.rectified import rectified

_POOLS: Final = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"}
)
_ACTIVATIONS: Final = frozenset(
    {"Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh", "PRelu", "Elu"}
)
_FUSED_WITH_ACTIVATION: Final = frozenset(
    {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "FusedMatMul"}
)
_FUSED_WITH_SCALE: Final = frozenset({"Conv", "ConvTranspose", "MatMul"})
"""A batch normalisation, or a product or sum with constants, becomes part of these."""


LAYOUT_MACS_PER_BYTE: Final = 400
"""With less work in the whole model for each byte that crosses, a cut between convolutions took
more than 1.05 of the uncut time (tests/benchmarks/tax.py, MobileNetV2 and PoseNet)."""


class Marks(msgspec.Struct, frozen=True):
    """What is said of one cut besides its size."""

    single: bool = False
    """Exactly one tensor crosses."""
    stage: str = ""
    """Where a stage ends: its pooling operator, or the resolution that it worked at."""
    layer: int | None = None
    """Operators with weights in the head, where the next node is one: `layer` of all of them are
    done, with everything that follows each."""
    dominated_by: str = ""
    """A cut that has no more bytes and needs no more multiply-accumulates in its head."""
    moved_to: str = ""
    """A later cut with as many bytes that does not break what this one breaks."""
    breaks: str = ""
    """Two operators that a runtime fuses and that this cut separates."""
    layout: bool = False
    """Whether so many bytes cross between convolutions that changing their layout takes time that
    shows: ONNX Runtime's CPU provider keeps them in blocks of channels, and not across a cut."""
    rectified: bool = False
    """Whether the one tensor that crosses comes straight out of a ReLU."""


def marks(
    model: CanonicalModel, points: Sequence[CutPoint], costs: Sequence[PartCost | None]
) -> list[Marks]:
    """The marks of every point of `cut_points(model)`, in their order."""
    order = model.order
    stages = _stages(model, points, order)
    layers = _layers(model, order)
    broken = _broken_fusions(model, points, order)
    better = _dominated(points, costs, broken)
    macs = max((cost.head_macs for cost in costs if cost is not None), default=0)
    blocked = _blocked(order)
    never_negative = rectified(model)
    return [
        Marks(
            single=point.cut is not None and len(point.tensors) == 1,
            stage=stages.get(at, ""),
            layer=layers.get(at),
            dominated_by=better.get(at, ""),
            moved_to=points[_past(at, broken)].name if at in broken else "",
            breaks=broken.get(at, ""),
            layout=point.cut is not None
            and LAYOUT_MACS_PER_BYTE * point.cut.nbytes > macs
            and any(name in blocked for name in point.tensors),
            rectified=len(point.tensors) == 1 and point.tensors[0] in never_negative,
        )
        for at, point in enumerate(points)
    ]


def _blocked(order: Sequence[onnx.NodeProto]) -> frozenset[str]:
    """Values between convolutions and pools, with nothing but element by element work between."""
    keeps = _ACTIVATIONS | _POOLS | {"Add", "Mul", "Concat", "Conv", "ConvTranspose"}
    made: set[str] = set()
    for node in order:
        starts = node.op_type in ("Conv", "ConvTranspose")
        if is_onnx(node) and (starts or (node.op_type in keeps and made & set(node.input))):
            made.update(writes(node))
    wanted: set[str] = set()
    for node in reversed(order):
        ends = node.op_type in ("Conv", "ConvTranspose") or node.op_type in _POOLS
        if is_onnx(node) and (ends or (node.op_type in keeps and wanted & set(node.output))):
            wanted.update(reads(node))
    return frozenset(made & wanted)


def _stages(
    model: CanonicalModel, points: Sequence[CutPoint], order: Sequence[onnx.NodeProto]
) -> dict[int, str]:
    """A stage ends after a pooling operator, where a resolution is left, and with the model.

    Only where one tensor crosses; the resolution is what follows the first two dimensions (batch
    and channels). Of several places at one resolution it is the last of those with the fewest
    bytes: the end of a bottleneck, not its wide middle. ResNets have eight stages by this rule: the
    first convolution, its pool, four groups of blocks, the last pool and the classifier.
    """
    rank = max((len(spec.shape) for spec in model.inputs), default=0)
    found = {len(points) - 1: "output"}
    run: list[tuple[int, int]] = []
    here: tuple[int, ...] = ()

    def leave() -> None:
        if run and math.prod(here) > 1:
            fewest = min(nbytes for nbytes, _ in run)
            last = max(at for nbytes, at in run if nbytes == fewest)
            found[last] = "x".join(map(str, here))
        run.clear()

    for at, point in enumerate(points):
        if point.cut is None or len(point.tensors) != 1 or not 0 < at < len(points) - 1:
            continue
        shape = point.cut.boundary[0].shape
        # Reshapes on the way (a shuffle of channels, a flattening) are no change of resolution.
        if len(shape) != rank or rank < 3:
            continue
        if shape[2:] != here:
            leave()
            here = shape[2:]
        node = order[at - 1]
        if is_onnx(node) and node.op_type in _POOLS:
            leave()
            found[at] = node.op_type
        else:
            run.append((point.cut.nbytes, at))
    leave()
    return found


def _layers(model: CanonicalModel, order: Sequence[onnx.NodeProto]) -> dict[int, int]:
    """Positions before an operator with weights, and the last, with how many are before it."""
    constant = model.constants
    found: dict[int, int] = {}
    done = 0
    for at, node in enumerate(order):
        if carries_weights(node, constant):
            found[at] = done
            done += 1
    found[len(order)] = done
    return found


def carries_weights(node: onnx.NodeProto, constant: frozenset[str]) -> bool:
    """Whether the node is a convolution, product or recurrent layer with constant weights."""
    index = WEIGHT_INPUT.get(node.op_type)
    return index is not None and len(node.input) > index and node.input[index] in constant


def _broken_fusions(
    model: CanonicalModel, points: Sequence[CutPoint], order: Sequence[onnx.NodeProto]
) -> dict[int, str]:
    """Positions between two operators of which the second could be part of the first.

    Only where the next position has as many bytes: there is nothing to be gained here, and the
    runtime cannot fuse across the cut.
    """
    constant = model.constants
    readers: dict[str, int] = {}
    for node in order:
        for name in reads(node):
            readers[name] = readers.get(name, 0) + 1
    finished = {value.name for value in model.proto.graph.output}
    found: dict[int, str] = {}
    for at in range(1, len(points) - 1):
        here, later = points[at].cut, points[at + 1].cut
        before, after = order[at - 1], order[at]
        made = writes(before)
        if here is None or later is None or here.nbytes != later.nbytes or not made:
            continue
        if made[0] not in after.input or readers.get(made[0]) != 1 or made[0] in finished:
            continue
        if not (is_onnx(after) and _fuses(before.op_type, after, constant)):
            continue
        found[at] = f"{before.op_type}+{after.op_type}"
    return found


def _fuses(first: str, second: onnx.NodeProto, constant: frozenset[str]) -> bool:
    if second.op_type in _ACTIVATIONS:
        return first in _FUSED_WITH_ACTIVATION
    if second.op_type == "BatchNormalization":
        return first in _FUSED_WITH_SCALE
    if second.op_type in ("Add", "Mul"):
        return first in _FUSED_WITH_SCALE and any(name in constant for name in second.input)
    return False


def _past(at: int, broken: dict[int, str]) -> int:
    """The first position from here on that breaks nothing."""
    while at in broken:
        at += 1
    return at


def _dominated(
    points: Sequence[CutPoint], costs: Sequence[PartCost | None], broken: dict[int, str]
) -> dict[int, str]:
    """One pass over the cuts by head cost: who has seen fewer bytes before is dominated.

    Of cuts that are equal in both, the first that breaks no fusion stays.
    """
    legal = [
        (cost.head_macs, point.cut.nbytes, at in broken, at)
        for at, (point, cost) in enumerate(zip(points, costs, strict=True))
        if point.cut is not None and cost is not None
    ]
    found: dict[int, str] = {}
    best: tuple[int, int] | None = None
    for _, nbytes, _, at in sorted(legal):
        if best is not None and best[0] <= nbytes:
            found[at] = points[best[1]].name
        else:
            best = nbytes, at
    return found
