"""`splitbed report`: figures and pictures of finished runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from rich.console import Console

from experiments.report import gather, write_report
from experiments.table import print_comparison, print_run
from experiments.terminal import shown, write_to
from splitbed import config
from splitbed.errors import RunIncomplete, UsageError
from splitbed.run_folder import MANIFEST


class ReportOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Show finished runs: a table here, and one self-contained page.

    Figures come from the raw rows, so a run that was cut short can be shown as well, and says so.
    """

    runs: Annotated[
        tuple[Path, ...], config.POSITIONAL, Meta(description="run folders, or folders of them")
    ]
    out: Annotated[
        Path | None, Meta(description="the page (default: report.html in the first folder)")
    ] = None
    accept_uncertified: Annotated[
        bool, Meta(description="show runs made on a link outside its tolerance")
    ] = False
    json: Annotated[bool, Meta(description="print the figures as JSON, write no page")] = False


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(
        ReportOptions, argv, command="splitbed report", table="report"
    )
    found = gather(find_runs(options.runs), options.accept_uncertified)
    summaries = found.shown
    for sentence in found.empty:
        sys.stderr.write(f"left out: {sentence}\n")
    if options.json:
        sys.stdout.write(msgspec.json.encode(summaries).decode() + "\n")
        found.check()
        return 0
    console = Console()
    if len(summaries) == 1:
        print_run(summaries[0], console)
    else:
        print_comparison(summaries, console)
    page = options.out or options.runs[0] / "report.html"
    for verdict in write_report(summaries, page):
        write_to(console, "", *map(shown, filter(None, (verdict.sentence, verdict.outlook))))
    sys.stdout.write(f"report: {page}\n")
    sys.stdout.flush()
    found.check()
    if not any(summary.complete for summary in summaries):
        raise RunIncomplete("none of these runs is complete; the report says how far each came")
    return 0


def find_runs(places: Sequence[Path]) -> list[Path]:
    """Run folders among these and straight below them, oldest first."""
    found: list[Path] = []
    for place in places:
        if (place / MANIFEST).is_file():
            found.append(place)
        else:
            below = sorted(place.glob(f"*/{MANIFEST}"), key=lambda p: p.stat().st_mtime)
            found += [path.parent for path in below]
            # A demo keeps the logs of its edge and relay in `logs`.
            begun = {path.parent for path in place.glob("*/*.log")} - {*found, place / "logs"}
            if begun:
                names = ", ".join(sorted(path.name for path in begun)[:3])
                sys.stderr.write(f"left out: {len(begun)} runs that never started ({names})\n")
    if not found:
        named = ", ".join(map(str, places))
        raise UsageError(f"no run folder (with a {MANIFEST}) was found at {named}")
    return found
