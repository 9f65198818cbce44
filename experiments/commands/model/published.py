"""`splitbed model published`: the source documents' tables, computed from the zoo's graphs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from rich.table import Table
from rich.text import Text

from experiments.published import TABLES, met
from experiments.published.table import PublishedTable
from experiments.terminal import write
from splitbed import config


class PublishedOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Compute the source documents' figures on model sizes and intermediate data.

    Every figure comes out of the graphs of `splitbed model zoo`; the printed one stands beside it,
    with = where they agree and ≠ where not.
    """

    table: Annotated[
        tuple[Literal["B1", "B2", "B3", "B4", "C1", "D1"], ...],
        config.POSITIONAL,
        Meta(
            description="C1 uplink rates, D1 downloads, B1 PoseNet, B2 RetinaNet, B3 SSD300, "
            "B4 gestures; all of them if not given"
        ),
    ] = ()
    json: Annotated[bool, Meta(description="print them as JSON")] = False


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(
        PublishedOptions, argv, command="splitbed model published", table="published"
    )
    found = [table for name in options.table or TABLES for table in TABLES[name]()]
    if options.json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return 0
    for table in found:
        _print(table)
    right, total = met(found)
    sys.stdout.write(f"{right} of {total} printed figures come out as printed\n")
    return 0


def _print(table: PublishedTable) -> None:
    write(Text(f"{table.id}  {table.title}", style="bold"))
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for index, heading in enumerate(table.headings):
        # Names stand at the left; the last column holds them as well where it names a node.
        is_text = index == 0 or heading in ("after", "before")
        grid.add_column(
            heading, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text
        )
    for row in table.rows:
        grid.add_row(*row.cells)
    write(grid)
    for row in table.rows:
        if row.remark:
            write(Text(f"≠ {row.cells[0]}: {row.remark}"))
    write(Text(f"({table.rounding})\n"))
