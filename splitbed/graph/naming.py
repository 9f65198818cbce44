"""From what a person writes to a legal cut: a cut, tensor or node, or a list of tensors."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import onnx

from splitbed.errors import CutUnknown
from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.cuts import (
    CutPoint,
    point_of_set,
)
from splitbed.graph.reading import label, reads, writes

BEFORE, AFTER = "before:", "after:"


def find_cut(
    model: CanonicalModel, points: Sequence[CutPoint], name: str, what: str = "the model"
) -> CutPoint:
    """The legal cut that `name` means; CutUnknown with the nearest names, or the reason, otherwise.

    `points` are the model's `cut_points`. Accepted are, in this order:

    * a cut's name: `@input`, `@output`, or the tensor that the head's last node makes;
    * any other tensor of the file: the cut right after the node that makes it;
    * `before:NODE` and `after:NODE`, or NODE alone for after;
    * tensors with commas between them: the head is what they need and nothing else. The list must
      be the complete boundary; what it lacks is named.
    """
    found = _named(model, points, name, what) or _listed(model, points, name, what)
    if found is None:
        names = [point.name for point in points if point.cut is not None]
        nodes = [point.node for point in points if point.cut is not None and point.node]
        wanted = name.removeprefix(BEFORE).removeprefix(AFTER)
        close = difflib.get_close_matches(wanted, dict.fromkeys([*names, *nodes]), 3)
        hint = f"; near it are {', '.join(close)}" if close else ""
        raise CutUnknown(
            f"{what} has no cut '{name}'{hint}: `splitbed model cuts` lists all {len(names)}"
        )
    if found.cut is None:
        raise CutUnknown(f"{what} cannot be cut at '{name}': {found.why_not}")
    return found


def _named(
    model: CanonicalModel, points: Sequence[CutPoint], name: str, what: str
) -> CutPoint | None:
    by_name = {point.name: point for point in points}
    if name in by_name:
        return by_name[name]
    if name.startswith((BEFORE, AFTER)):
        side, _, node = name.partition(":")
        return _at_node(model, points, node, what, is_before=f"{side}:" == BEFORE)
    tensor = model.aliases.get(name, name)
    if tensor in by_name:
        return by_name[tensor]
    if points[0].tensors == (tensor,):
        return points[0]
    for at, maker in enumerate(model.order):
        if tensor in writes(maker):
            return points[at + 1]
    if tensor in model.constants:
        raise CutUnknown(
            f"'{name}' of {what} never crosses a cut: it is a constant, which each part has itself"
        )
    return _at_node(model, points, name, what, is_before=False)


def _at_node(
    model: CanonicalModel, points: Sequence[CutPoint], name: str, what: str, *, is_before: bool
) -> CutPoint | None:
    # A node without a name is called after what it makes, as the listing calls it.
    places = [at for at, node in enumerate(model.order) if name and label(node) == name]
    if len(places) > 1:
        raise CutUnknown(
            f"{len(places)} nodes of {what} are called '{name}': name a tensor that one of them "
            "makes"
        )
    if places:
        return points[places[0] if is_before else places[0] + 1]
    gone = next((n for n in model.source.proto.graph.node if name and label(n) == name), None)
    if gone is None:
        return None
    # A node that only renamed a value, or one that became several, still says where.
    values = [model.aliases.get(value, value) for value in writes(gone)]
    makers = [at for at, node in enumerate(model.order) if set(values) & set(writes(node))]
    if makers and not is_before:
        return points[makers[-1] + 1]
    raise CutUnknown(
        f"node '{name}' of {what} is not there after cleaning (a constant, a renaming, a function "
        "that became nodes of its own, or without use): name a tensor"
    )


def _listed(
    model: CanonicalModel, points: Sequence[CutPoint], name: str, what: str
) -> CutPoint | None:
    wanted = [part.strip() for part in name.split(",") if part.strip()]
    wanted = [model.aliases.get(tensor, tensor) for tensor in wanted]
    twice = next((tensor for tensor in wanted if wanted.count(tensor) > 1), None)
    if twice is not None:
        raise CutUnknown(f"{what} cannot be cut at '{name}': '{twice}' is named twice")
    order = model.order
    maker = {value: at for at, node in enumerate(order) for value in writes(node)}
    inputs = {value.name for value in model.proto.graph.input}
    if not wanted or (len(wanted) == 1 and wanted[0] not in inputs):
        return None
    for tensor in wanted:
        if tensor not in maker and tensor not in inputs:
            reason = "is a constant" if tensor in model.constants else "is not there"
            raise CutUnknown(
                f"{what} cannot be cut at '{name}': a tensor '{tensor}' {reason}"
                + _near(tensor, [*maker, *inputs])
            )
    head = _needed(order, maker, wanted)
    point = point_of_set(model, head, points)
    crossing = set(point.tensors)
    missing = [tensor for tensor in point.tensors if tensor not in wanted]
    if missing:
        raise CutUnknown(
            f"{what} cannot be cut at '{name}' alone: {', '.join(map(repr, missing))} would cross "
            "as well; name every tensor that crosses"
        )
    idle = [tensor for tensor in wanted if tensor not in crossing]
    if idle:
        raise CutUnknown(
            f"{what} cannot be cut at '{name}': {', '.join(map(repr, idle))} would not cross, "
            "because everything that reads it is needed for the others; leave it out"
        )
    return point


def _needed(
    order: Sequence[onnx.NodeProto], maker: dict[str, int], wanted: Sequence[str]
) -> list[int]:
    """Places of all nodes that the wanted values depend on, in order."""
    found: set[int] = set()
    stack = [maker[tensor] for tensor in wanted if tensor in maker]
    while stack:
        at = stack.pop()
        if at not in found:
            found.add(at)
            stack += [maker[name] for name in reads(order[at]) if name in maker]
    return sorted(found)


def _near(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, 3)
    return f"; near it are {', '.join(close)}" if close else ""
