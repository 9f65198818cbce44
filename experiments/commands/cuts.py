"""`splitbed model cuts`: every place where a model can be cut."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from rich.console import Console
from rich.table import Table

from splitbed import config
from splitbed.errors import UsageError
from splitbed.graph import CutPoint, canonicalise, cut_points, load
from splitbed.task import shapes_to_bind, written_task
from splitbed.tensor import TensorSpec


class CutsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """List every place where a model can be cut, in topological order, with what crosses there.

    A cut is named after the tensor that the head makes last. Other tensors that cross as well are
    listed below it, with a plus.
    """

    model: Annotated[Path, config.POSITIONAL, Meta(description="an ONNX file")]
    single: Annotated[bool, Meta(description="only cuts that one tensor crosses")] = False
    shape: Annotated[
        tuple[str, ...], Meta(description="bind an open input, as in input=1x3x224x224")
    ] = ()
    json: Annotated[bool, Meta(description="print them as JSON")] = False


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(
        CutsOptions, argv, command="splitbed model cuts", table="cuts"
    )
    source = load(options.model)
    given = dict(_shape_of(text) for text in options.shape)
    task = written_task(options.model)
    model = canonicalise(source, shapes_to_bind(task, given))
    points = [p for p in cut_points(model) if not options.single or len(p.tensors) == 1]
    if options.json:
        sys.stdout.write(msgspec.json.encode([_plain(point) for point in points]).decode() + "\n")
        return 0
    Console().print(_table(points), highlight=False)
    sys.stdout.write(
        f"{sum(p.cut is not None for p in points)} cuts of {options.model.name}, "
        f"{len(model.proto.graph.node)} nodes ({len(source.proto.graph.node)} in the file), "
        f"model {model.id.digest[:12]}\n"
    )
    return 0


def _table(points: Sequence[CutPoint]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("depth", "tensors", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what crosses", no_wrap=True)
    table.add_column("cut", overflow="fold")
    for point in points:
        depth, tensors = f"{point.depth_pct:.0f} %", str(len(point.tensors))
        if point.cut is None:
            table.add_row(depth, tensors, "-", "cannot be cut", f"{point.name}: {point.why_not}")
            continue
        specs = {spec.name: spec for spec in point.cut.boundary}
        newest = specs.pop(point.name, None)
        shapes = [_shape_text(newest)] if newest else [""]
        names = [point.name]
        for spec in specs.values():
            shapes.append(_shape_text(spec))
            names.append(f"+ {spec.name}" if newest else f"  {spec.name}")
        table.add_row(depth, tensors, f"{point.cut.nbytes:,}", "\n".join(shapes), "\n".join(names))
    return table


def _shape_text(spec: TensorSpec) -> str:
    return f"{spec.dtype} {'x'.join(map(str, spec.shape))}"


def _plain(point: CutPoint) -> dict[str, object]:
    return {
        "cut": point.name,
        "position": point.position,
        "node": point.node,
        "depth_pct": point.depth_pct,
        "why_not": point.why_not,
        "bytes": None if point.cut is None else point.cut.nbytes,
        "boundary": [] if point.cut is None else msgspec.to_builtins(point.cut.boundary),
    }


def _shape_of(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    parts = sizes.split("x")
    if not equals or not all(part.isdecimal() for part in parts):
        raise UsageError(f"--shape {text}: write it as input=1x3x224x224")
    return name, tuple(map(int, parts))
