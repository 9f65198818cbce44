"""`splitbed model cuts`: every place where a model can be cut."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from experiments.cut_table import MARKS, cuts_table, plain, write_csv
from experiments.models import MODEL_HELP, SHAPE_HELP, open_model
from experiments.terminal import write
from splitbed import config
from splitbed.errors import UsageError
from splitbed.graph import (
    INPUT_CUT,
    OUTPUT_CUT,
    CanonicalModel,
    ListedCut,
    Listing,
    list_cuts,
)

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
columns: at is the number of nodes in the head; MACs (multiply-accumulates of
convolutions, products and recurrent layers) and params are the head's share;
head MB is its file; n is the number of tensors (branches) that cross, bytes
their size uncoded.

A stage ends after a pool, where a resolution is left (of several places the
last with the fewest bytes), and with the model; L3 means that three operators
with weights are in the head. To choose where to cut, begin with --best.

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
    if options.json and options.csv:
        raise UsageError("give either --json or --csv, not both")
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
    write(cuts_table(chosen, listing))
    _summarise(len(chosen), model, listing)
    if options.best:
        _advise(model, listing)
    if options.plot is not None:
        sys.stdout.write(f"{options.plot}\n")
    return 0


def _summarise(chosen: int, model: CanonicalModel, listing: Listing) -> None:
    legal = listing.legal
    best = sum(not cut.marks.dominated_by for cut in legal)
    sys.stdout.write(
        f"{chosen} of the {len(listing.cuts)} places in {model.source.path.name}\n"
        f"{len(legal)} can be cut; {sum(cut.marks.single for cut in legal)} with one tensor "
        f"crossing; {best} that no other beats\n"
        f"{listing.parameters:,} parameters, {listing.macs / 1e6:,.1f} M MACs\n"
    )


def _advise(model: CanonicalModel, listing: Listing) -> None:
    """What the cuts that none beats say together, and what they leave out."""
    best = [cut for cut in listing.legal if not cut.marks.dominated_by]
    if all(cut.point.name in (INPUT_CUT, OUTPUT_CUT) for cut in best):
        sys.stdout.write("nowhere in between do fewer bytes cross than at one of the ends\n")
    if any(spec.is_float and len(spec.shape) == 4 for spec in model.inputs):
        sys.stdout.write(
            "@input counts the model's own input; a camera's picture of 8 bits a sample is a\n"
            "quarter of that as float32, and less as JPEG: `splitbed run --cut @picture`\n"
        )


def _wanted(cut: ListedCut, options: CutsOptions) -> bool:
    found = cut.marks
    return not (
        (options.single and not found.single)
        or (options.stages and not found.stage)
        or (options.layers and found.layer is None)
        or (options.best and (found.dominated_by or cut.cost is None))
    )
