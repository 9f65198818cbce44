"""Every place where a canonical model can be cut, with its complete boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.reading import label, reads, writes
from splitbed.tensor import Cut, TensorSpec

INPUT_CUT: Final = "@input"
"""Before the first node: the boundary is the graph's inputs, everything runs downstream."""

OUTPUT_CUT: Final = "@output"
"""After the last node: the boundary is the graph's outputs, everything runs upstream."""


class CutPoint(msgspec.Struct, frozen=True):
    """A place to cut: a head that holds everything that it depends on, and what then crosses.

    The head is the first `position` nodes of the canonical graph's order, or, where a person listed
    tensors, the nodes that these need. A cut is named after the tensor that the head's last
    node makes, which crosses it by construction, so names are unique; the boundary holds that
    tensor and every other one that crosses.
    """

    name: str
    position: int
    node: str
    """The head's last node, "" where there is none."""
    tensors: tuple[str, ...]
    """What crosses, in the order in which it was made."""
    cut: Cut | None
    """None where the graph cannot be cut here."""
    why_not: str
    """Why it cannot be cut here; "" where it can."""
    depth_pct: float
    """Share of the nodes that is in the head."""
    head_nodes: tuple[int, ...] = ()
    """The head's nodes by their place in the order, where they are not the first ones."""

    @property
    def head(self) -> frozenset[int]:
        """The head's nodes by their place in the order."""
        return frozenset(self.head_nodes or range(self.position))


def cut_points(model: CanonicalModel) -> list[CutPoint]:
    """All positions in topological order, `@input` and `@output` included, by liveness.

    One pass over the nodes. Values that depend on no input (they are computed from initialisers
    alone) never cross, unless they are outputs: each part has its own. A finished graph output
    crosses every later cut, because the second node hands out the complete result.
    """
    graph = model.proto.graph
    order = model.order
    last_use: dict[str, int] = {}
    for index, node in enumerate(order):
        for name in reads(node):
            last_use[name] = index
    for value in graph.output:
        last_use[value.name] = len(order)
    alive = {value.name: None for value in graph.input if last_use.get(value.name, -1) >= 0}
    points = [_point(model, INPUT_CUT, 0, "", list(alive), len(order))]
    named = {INPUT_CUT, OUTPUT_CUT}
    dying: dict[int, list[str]] = {}
    for name, index in last_use.items():
        dying.setdefault(index, []).append(name)
    for index, node in enumerate(order):
        for name in dying.get(index, ()):
            alive.pop(name, None)
        made = [name for name in writes(node) if last_use.get(name, -1) > index]
        alive |= dict.fromkeys(made)
        position = index + 1
        if position == len(order):
            name = OUTPUT_CUT
            crossing = [value.name for value in graph.output]
        else:
            # _drop_dead left only nodes with a live output; what is made and read nowhere else
            # cannot be the name of a cut.
            name = made[0] if made else label(node)
            # What begins so is a cut of its own kind, here and in what a task adds.
            name = f"tensor:{name}" if name.startswith("@") else name
            while name in named:
                name = f"{name}'"
            crossing = list(alive)
        named.add(name)
        points.append(_point(model, name, position, label(node), crossing, len(order)))
    return points


def point_of_set(
    model: CanonicalModel, head: Sequence[int], points: Sequence[CutPoint]
) -> CutPoint:
    """The cut whose head is these nodes, given by their places in the order.

    The nodes must hold everything that they depend on. Where they are the first ones of the order,
    the point is one of `points`; otherwise it is named after all tensors that cross.
    """
    if list(head) == list(range(len(head))):
        return points[len(head)]
    order, inside = model.order, set(head)
    below = {name for at, node in enumerate(order) if at not in inside for name in reads(node)} | {
        value.name for value in model.proto.graph.output
    }
    crossing = [value.name for value in model.proto.graph.input if value.name in below]
    for at in head:
        crossing += [name for name in writes(order[at]) if name in below]
    point = _point(model, ",".join(crossing), len(head), "", crossing, len(order))
    return msgspec.structs.replace(point, head_nodes=tuple(head))


def _point(
    model: CanonicalModel, name: str, position: int, node: str, tensors: list[str], nodes: int
) -> CutPoint:
    boundary: list[TensorSpec] = []
    reasons: list[str] = []
    for tensor in tensors:
        if tensor in model.specs:
            boundary.append(model.specs[tensor])
        else:
            reasons.append(model.unusable.get(tensor, f"the shape of '{tensor}' is not known"))
    legal = not reasons
    return CutPoint(
        name=name,
        position=position,
        node=node,
        tensors=tuple(tensors),
        cut=Cut(name, tuple(boundary)) if legal else None,
        why_not="" if legal else "; ".join(reasons),
        depth_pct=100 * position / max(1, nodes),
    )
