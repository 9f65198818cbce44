"""The cuts of a model as a table of 80 columns, as CSV, and as plain data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any, Final, TextIO

import msgspec
from rich.table import Table
from rich.text import Text

from experiments.terminal import printable, shown
from splitbed.graph import ListedCut, Listing
from splitbed.tensor import TensorSpec

MARKS: Final = {
    "S": "a stage ends",
    "L": "a layer ends",
    "-": "another cut has no more bytes and no more work before it",
    "!": "breaks a fusion: the next cut has the same bytes",
    "~": "changing the layout of so many bytes takes time that shows",
}


def cuts_table(cuts: Sequence[ListedCut], listing: Listing) -> Table:
    """One row a cut; what crosses beside the newest tensor stands below it with a plus."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("at", "MACs", "params", "head MB", "n", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("marks", no_wrap=True)
    table.add_column("cut", overflow="fold", min_width=20)
    for listed in cuts:
        point, cost = listed.point, listed.cost
        if point.cut is None or cost is None:
            found = [str(point.position), "", "", "", str(len(point.tensors)), "-", ""]
            table.add_row(*found, shown(_refusal(listed)))
            continue
        others = [spec for spec in point.cut.boundary if spec.name != point.name]
        names = [point.name]
        if point.name not in point.tensors:
            names[0] += "".join(f"  {shape_text(spec)}" for spec in others[:1])
            others = others[1:]
        names += [f"+{spec.name}" for spec in others]
        table.add_row(
            str(point.position),
            _pct(cost.head_macs, listing.macs),
            _pct(cost.head_parameters, listing.parameters),
            f"{cost.head_file_bytes / 1e6:.2f}",
            str(len(point.tensors)),
            f"{point.cut.nbytes:,}",
            marks_text(listed),
            Text("\n".join(map(printable, names))),
        )
    return table


def marks_text(listed: ListedCut) -> str:
    """The marks as letters: `S`, `L12`, `-`, `!`, `~`."""
    found = listed.marks
    text = "S" if found.stage else ""
    text += "" if found.layer is None else f"L{found.layer}"
    text += "-" if found.dominated_by else ""
    text += "!" if found.breaks else ""
    return text + ("~" if found.layout else "")


def shape_text(spec: TensorSpec) -> str:
    """`float32 1x64x56x56`."""
    return f"{spec.dtype} {'x'.join(map(str, spec.shape)) or 'scalar'}"


def plain(listed: ListedCut, listing: Listing) -> dict[str, Any]:
    """Everything that is known of a cut, ready for JSON."""
    point, cost = listed.point, listed.cost
    found: dict[str, Any] = {
        "cut": point.name,
        "position": point.position,
        "node": point.node,
        "depth_pct": point.depth_pct,
        "why_not": point.why_not,
        "branches": len(point.tensors),
        "bytes": None if point.cut is None else point.cut.nbytes,
        "boundary": [] if point.cut is None else msgspec.to_builtins(point.cut.boundary),
    }
    if cost is not None:
        found |= msgspec.to_builtins(cost)
        found["head_macs_pct"] = _share(cost.head_macs, listing.macs)
        found["head_parameters_pct"] = _share(cost.head_parameters, listing.parameters)
    found |= msgspec.to_builtins(listed.marks)
    return found


def write_csv(cuts: Sequence[ListedCut], listing: Listing, out: TextIO) -> None:
    """One line a cut; what crosses is one field, `name dtype[shape]` with semicolons between."""
    rows = [plain(listed, listing) for listed in cuts]
    fields = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    for listed, row in zip(cuts, rows, strict=True):
        boundary = listed.point.cut.boundary if listed.point.cut is not None else ()
        writer.writerow(row | {"boundary": "; ".join(map(str, boundary))})


def _refusal(listed: ListedCut) -> str:
    return f"{listed.point.name}: cannot be cut, {listed.point.why_not}"


def _share(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def _pct(part: int, whole: int) -> str:
    return f"{_share(part, whole):.1f} %" if whole else ""
