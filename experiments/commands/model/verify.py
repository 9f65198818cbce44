"""`splitbed model verify`: head then tail against the uncut model, and that against the file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from rich.table import Table

from experiments.feeds import Feeds, chosen
from experiments.models import MODEL_HELP, SHAPE_HELP, open_model
from experiments.terminal import shown, write
from splitbed import config
from splitbed.engine import Engine, working_provider
from splitbed.errors import EngineError, ProviderMissing, UsageError, VerificationError
from splitbed.graph import (
    CanonicalModel,
    CutPoint,
    Parts,
    Verification,
    Verifier,
    extract,
    find_cut,
    list_cuts,
)
from splitbed.progress import Progress
from splitbed.session import ProviderChoice

TOLERANCES: Final[dict[ProviderChoice, float]] = {
    "cpu": 1e-4,
    "cuda": 1e-3,
    "tensorrt": 1e-3,
    "auto": 1e-3,
}
"""Convolutions on a GPU sum in another order."""


class VerifyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prove that cutting changes nothing: head then tail, the uncut model, the file as given.

    Without a cut all of them are tried. Without pictures or arrays the input is noise, which says
    less; the last line tells which it was.
    """

    model: Annotated[str, config.POSITIONAL, Meta(description=MODEL_HELP)]
    cut: Annotated[tuple[str, ...], Meta(description="only this cut; may be repeated")] = ()
    single: Annotated[bool, Meta(description="only cuts that one tensor crosses")] = False
    stages: Annotated[bool, Meta(description="only the ends of stages")] = False
    images: Annotated[Path | None, Meta(description="a folder of pictures to verify on")] = None
    arrays: Annotated[
        Path | None, Meta(description="an .npz file with an array for each of the model's inputs")
    ] = None
    count: Annotated[int, Meta(ge=1, description="how many pictures, or draws of noise")] = 1
    provider: Annotated[
        tuple[ProviderChoice, ...],
        Meta(description="run the parts here, in every combination; all that work if not given"),
    ] = ()
    tolerance: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="allowed of an output's magnitude (1e-4, with a GPU 1e-3)"),
    ] = None
    threads: Annotated[int, Meta(ge=0, description="threads of each part, 0 for all")] = 0
    shape: Annotated[tuple[str, ...], Meta(description=SHAPE_HELP)] = ()
    json: Annotated[bool, Meta(description="print every cut as JSON")] = False


_EPILOG: Final = """\
columns: max abs is the largest difference of any output, relative the same over
that output's largest magnitude (this is what the tolerance is about), nMSE the
squared differences over the squares, top-1 how often the largest element of
every output is the same one.
"""


class _Row(msgspec.Struct, frozen=True):
    cut: str
    first: ProviderChoice
    second: ProviderChoice
    found: Verification | None
    problem: str


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code, VerificationError's where a cut is not proven."""
    options = config.from_command_line(
        VerifyOptions, argv, command="splitbed model verify", table="verify", epilog=_EPILOG
    )
    model = open_model(options.model, options.shape)
    if options.cut and (options.single or options.stages):
        raise UsageError("give either --cut, or --single or --stages, not both")
    feeds = chosen(model, options.images, options.arrays, options.count)
    providers = options.provider or _working()
    points = _chosen(model, options)
    rows: list[_Row] = []
    progress = Progress("verifying", len(points) * len(providers) ** 2)
    progress.show()
    reference = options.tolerance or TOLERANCES["cpu"]
    verifier = Verifier(model, feeds.arrays, _opener("cpu", options.threads), reference)
    for pair in product(providers, providers):
        tolerance = options.tolerance or max(TOLERANCES[provider] for provider in pair)
        for point in points:
            rows.append(_checked(verifier, extract(model, point), pair, tolerance, options.threads))
            progress.update(len(rows))
    progress.close()
    failed = [row for row in rows if row.found is None]
    if options.json:
        sys.stdout.write(msgspec.json.encode([_plain(row, feeds) for row in rows]).decode() + "\n")
    else:
        _print(rows)
        sys.stdout.write(
            f"{len(rows) - len(failed)} of {len(rows)} cuts answer as the uncut model does\n"
            f"verified on {feeds.what}\nthe uncut canonical model against the file: "
            f"{verifier.canonical.max_rel:.2g} of the output's magnitude\n"
        )
    if failed:
        raise VerificationError(
            f"{len(failed)} of {len(rows)} cuts of {options.model} are not proven: "
            f"{failed[0].problem}"
        )
    return 0


def _checked(
    verifier: Verifier,
    parts: Parts,
    pair: tuple[ProviderChoice, ProviderChoice],
    tolerance: float,
    threads: int,
) -> _Row:
    openers = [_opener(provider, threads) for provider in pair]
    try:
        found = verifier.check(parts, *openers, tolerance=tolerance)
    except (VerificationError, EngineError) as error:
        return _Row(parts.cut.name, *pair, None, str(error))
    return _Row(parts.cut.name, *pair, found, "")


def _opener(provider: ProviderChoice, threads: int) -> Any:
    return partial(Engine, provider=provider, threads=threads)


def _working() -> tuple[ProviderChoice, ...]:
    found: list[ProviderChoice] = ["cpu"]
    try:
        working_provider("cuda")
        found.append("cuda")
    except ProviderMissing:
        pass
    return tuple(found)


def _chosen(model: CanonicalModel, options: VerifyOptions) -> list[CutPoint]:
    listing = list_cuts(model)
    if options.cut:
        points = [cut.point for cut in listing.cuts]
        return [find_cut(model, points, name) for name in dict.fromkeys(options.cut)]
    return [
        cut.point
        for cut in listing.legal
        if (not options.single or cut.marks.single) and (not options.stages or cut.marks.stage)
    ]


def _print(rows: Sequence[_Row]) -> None:
    table = Table(box=None, pad_edge=False)
    with_providers = len({(row.first, row.second) for row in rows}) > 1
    for heading in ("max abs", "relative", "nMSE", "top-1"):
        table.add_column(heading, justify="right", no_wrap=True)
    if with_providers:
        table.add_column("on", no_wrap=True)
    table.add_column("cut", overflow="fold")
    for row in rows:
        where = [f"{row.first}, {row.second}"] if with_providers else []
        if row.found is None:
            table.add_row("", "", "", "", *where, shown(f"{row.cut}: not proven"))
            continue
        found = row.found
        figures = (f"{value:.1e}" for value in (found.max_abs, found.max_rel, found.nmse))
        table.add_row(*figures, f"{found.same_top1}/{found.inputs}", *where, shown(row.cut))
    write(table)


def _plain(row: _Row, feeds: Feeds) -> dict[str, Any]:
    found = {} if row.found is None else msgspec.to_builtins(row.found)
    return {
        "cut": row.cut,
        "first": row.first,
        "second": row.second,
        "proven": row.found is not None,
        "problem": row.problem,
        "on": feeds.what,
        **found,
    }
