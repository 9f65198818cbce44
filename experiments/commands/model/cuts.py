"""`splitbed model cuts`: every place where a model can be cut."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from rich.console import Console

from experiments.cut_table import MARKS, plain, print_cuts, write_csv
from experiments.models import MODEL_HELP, SHAPE_HELP, open_model
from splitbed import config
from splitbed.graph import ListedCut, list_cuts

Order = Literal["depth", "bytes", "branches", "macs", "head", "tail"]


class CutsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """List every place where a model can be cut, in topological order, with what crosses there.

    A cut is named after the tensor that the head makes last. Other tensors that cross as well are
    listed below it, with a plus.
    """

    model: Annotated[str, config.POSITIONAL, Meta(description=MODEL_HELP)]
    single: Annotated[bool, Meta(description="only cuts that one tensor crosses")] = False
    stages: Annotated[bool, Meta(description="only the ends of stages")] = False
    layers: Annotated[bool, Meta(description="only the ends of layers with weights")] = False
    best: Annotated[bool, Meta(description="only cuts that no other one beats")] = False
    sort: Annotated[Order, Meta(description="what the list is sorted by")] = "depth"
    shape: Annotated[tuple[str, ...], Meta(description=SHAPE_HELP)] = ()
    plot: Annotated[
        Path | None,
        Meta(description="draw bytes, branches and work along the depth (.svg, .png, .pdf)"),
    ] = None
    json: Annotated[bool, Meta(description="print them as JSON, with all figures")] = False
    csv: Annotated[bool, Meta(description="print them as CSV, with all figures")] = False


_EPILOG: Final = """\
columns: MACs and params are the head's share, head MB is its file, n is the
number of tensors (branches) that cross, bytes their size uncoded.

marks:
""" + "\n".join(f"  {mark}  {meaning}" for mark, meaning in MARKS.items())

_KEYS: Final[dict[Order, Callable[[ListedCut], int]]] = {
    "depth": lambda cut: cut.point.position,
    "bytes": lambda cut: cut.point.cut.nbytes if cut.point.cut else 0,
    "branches": lambda cut: len(cut.point.tensors),
    "macs": lambda cut: cut.cost.head_macs if cut.cost else 0,
    "head": lambda cut: cut.cost.head_file_bytes if cut.cost else 0,
    "tail": lambda cut: cut.cost.tail_file_bytes if cut.cost else 0,
}


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(
        CutsOptions, argv, command="splitbed model cuts", table="cuts", epilog=_EPILOG
    )
    model = open_model(options.model, options.shape, weights="hollow")
    listing = list_cuts(model)
    chosen = sorted((cut for cut in listing.cuts if _wanted(cut, options)), key=_KEYS[options.sort])
    if options.plot is not None:
        from experiments.cut_plot import draw_cuts

        draw_cuts(model, listing, options.plot)
    if options.json:
        rows = [plain(cut, listing) for cut in chosen]
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return 0
    if options.csv:
        write_csv(chosen, listing, sys.stdout)
        return 0
    print_cuts(chosen, listing, Console())
    source = model.source
    beaten = sum(bool(cut.marks.dominated_by) for cut in listing.legal)
    sys.stdout.write(
        f"{len(chosen)} of {len(listing.cuts)} places in {source.path.name}; at "
        f"{len(listing.legal)} it can be cut, at\n"
        f"{sum(cut.marks.single for cut in listing.legal)} of them one tensor crosses, "
        f"{len(listing.legal) - beaten} are beaten by none\n"
        f"{listing.parameters:,} parameters, {listing.macs / 1e6:,.1f} M MACs\n"
    )
    return 0


def _wanted(cut: ListedCut, options: CutsOptions) -> bool:
    found = cut.marks
    return not (
        (options.single and not found.single)
        or (options.stages and not found.stage)
        or (options.layers and found.layer is None)
        or (options.best and (found.dominated_by or cut.cost is None))
    )
