"""`splitbed link trace`: what a trace is like; drawn, cut, kept as our own CSV."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from experiments.files import written
from experiments.terminal import printable
from experiments.trace_summary import Range, TraceSummary, WaySummary, summarised
from netem.profiles import find_profile
from netem.trace_csv import COLUMNS, written_table
from netem.trace_importers import BIN_NS
from netem.trace_steps import cut
from netem.traces import WRITTEN_TRACE, find_trace
from splitbed import config
from splitbed.errors import UsageError
from splitbed.link import Trace

_CUT: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\.\.([0-9]{1,9}(?:\.[0-9]{1,9})?)")
_LABEL: Final = 18
_COLUMN: Final = 30


class TraceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Show what a trace of a link is like; draw it, cut a piece out of it, keep it as CSV.

    The relay and the runs take the same trace, written the same way.
    """

    trace: Annotated[str, config.POSITIONAL, Meta(description=WRITTEN_TRACE)]
    profile: Annotated[str, Meta(description="the link that generate: varies")] = "none"
    cut: Annotated[str, Meta(description="only this piece, START..END in seconds")] = ""
    bin_ms: Annotated[
        int, Meta(description="length of the steps that packet opportunities make", ge=1, le=60_000)
    ] = BIN_NS // 1_000_000
    plot: Annotated[Path | None, Meta(description="draw it (.svg, .png, .pdf)")] = None
    save: Annotated[Path | None, Meta(description="keep it in a CSV file of ours")] = None
    json: Annotated[bool, Meta(description="print the figures as JSON")] = False


_EPILOG: Final = f"""\
The format is seen from the content:
  mahimahi packet opportunities; X.up brings the X.down beside it
  UCC 5G CSV: DL_bitrate; its UL_bitrate is acknowledgements, no capacity
  Lumos5G CSV, or rows of a second and Mbit/s
  a CSV of ours: second, and any of
    {", ".join(COLUMNS[:3])}
    {", ".join(COLUMNS[3:])}
What holds one direction only is meant for the downlink; write up=FILE for the
uplink, up=FILE,down=FILE for both. What a trace does not say is the profile's.

  generate:seed=1,cv=0.6,correlation=4s,gap=300ms,every=15s,floor=5%,
           step=100ms,duration=60s
makes one over the rates of --profile (any of it left out: as here)."""


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(
        TraceOptions, argv, command="splitbed link trace", table="trace", epilog=_EPILOG
    )
    trace = find_trace(options.trace, find_profile(options.profile), options.bin_ms * 1_000_000)
    if options.cut:
        trace = _cut(trace, options.cut)
    summary = summarised(trace)
    if options.plot is not None:
        # Drawing is slow to load, and seldom asked for.
        from experiments.trace_plot import draw_trace

        draw_trace(trace, summary, options.plot)
    if options.save is not None:
        written(options.save, written_table(trace).encode())
    if options.json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    else:
        sys.stdout.write(_page(summary))
    return 0


def _cut(trace: Trace, text: str) -> Trace:
    match = _CUT.fullmatch(text)
    if match is None:
        raise UsageError(f"--cut {text}: write START..END in seconds, as in 60..120")
    start_ns, end_ns = (round(float(word) * 1e9) for word in match.groups())
    return cut(trace, start_ns, end_ns)


def _page(summary: TraceSummary) -> str:
    lines = [f"{'trace':<{_LABEL}}{printable(summary.name)}"]
    lines += textwrap.wrap(
        printable(summary.source),
        80,
        initial_indent=f"{'source':<{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_on_hyphens=False,
    )
    lines.append(f"{'duration':<{_LABEL}}{summary.duration_s:.3f} s, then again from the beginning")
    sides = [_side(summary.up), _side(summary.down)]
    lines.append(_row("", ["uplink", "downlink"]))
    lines += [_row(label, [side.get(label, "") for side in sides]) for label in _LABELS]
    return "".join(f"{line.rstrip()}\n" for line in lines)


_LABELS: Final = (
    *("rate, mean", "median", "p5 .. p95", "outages", "longest outage", "delay", "loss"),
    "changes a second",
)


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:<{_LABEL}}" + "".join(f"{cell:<{_COLUMN}}" for cell in cells)


def _side(found: WaySummary | None) -> dict[str, str]:
    """What stands in a direction's column, by label."""
    usual = "as the profile"
    if found is None:
        return dict.fromkeys(("rate, mean", "delay", "loss"), usual)
    cells = {
        "rate, mean": usual,
        "delay": _range(found.delay_ms, "ms"),
        "loss": _range(found.loss_pct, "%"),
        "changes a second": f"{found.changes_per_s:.3g}",
    }
    if found.mean_bps is None:
        return cells
    cells["rate, mean"] = f"{_mbps(found.mean_bps)} Mbit/s"
    cells["median"] = f"{_mbps(found.median_bps)} Mbit/s"
    cells["p5 .. p95"] = f"{_mbps(found.p5_bps)} .. {_mbps(found.p95_bps)} Mbit/s"
    cells["outages"] = "none"
    if found.outages:
        cells["outages"] = f"{found.outages}, {found.outage_s:.3g} s in all"
        cells["longest outage"] = f"{found.longest_outage_s:.3g} s"
    return cells


def _mbps(bps: float | None) -> str:
    return "" if bps is None else f"{bps / 1e6:.4g}"


def _range(found: Range | None, unit: str) -> str:
    if found is None:
        return "as the profile"
    if found.least == found.most:
        return f"{found.least:.4g} {unit}"
    return f"{found.least:.4g} .. {found.most:.4g} {unit}"
