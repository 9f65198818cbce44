"""What came of a sweep of the network: one table, and the same as CSV with all figures."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Final

from rich.table import Table

from experiments.files import written
from experiments.network_sweep import Configuration, Sweep
from experiments.summary import Summary
from experiments.sweep_plot import sweep_plot
from experiments.terminal import shown, write
from experiments.verdict import POINTS_ALLOWED, Verdict, decide
from netem.profiles import find_profile

Found = Mapping[Configuration, Summary]

_ABREAST: Final = 4
"""Points beside each other in 80 columns."""
_HELPS: Final = {True: "helps", False: "no", None: "?"}


def show(sweep: Sweep, found: Found, missing: Mapping[Configuration, str]) -> None:
    """Print the table; leave `sweep.csv` and `sweep.svg` beside the runs."""
    verdicts = {
        link.text: decide(runs)
        for link in sweep.links
        if (runs := [run for one, run in found.items() if one.link == link.text])
    }
    out = sweep.options.out
    written(out / "sweep.csv", _csv(sweep, found, missing, verdicts).encode())
    written(out / "sweep.svg", sweep_plot(sweep, found, verdicts))
    for first in range(0, len(sweep.points), _ABREAST):
        write(_table(sweep, found, verdicts, first))
        sys.stdout.write("\n")
    sys.stdout.write(
        f"ms end to end; * the fastest that loses at most {POINTS_ALLOWED:g} point of accuracy\n"
        "split: whether splitting helps there; ? where these runs cannot tell\n"
    )
    for number, point in enumerate(sweep.points):
        runs = [run for one, run in found.items() if (one.cut, one.codec) == point]
        text = f"{_letter(number)}  {' '.join(point)}"
        if runs:
            text += f": {max(run.request_bytes for run in runs):,.0f} bytes up"
        lost = [run.points_lost for run in runs if run.points_lost is not None]
        if lost:
            text += f", {max(lost):+.1f} points of accuracy lost"
        write(shown(text))
    sys.stdout.write(f"all figures: {out / 'sweep.csv'}\nplot: {out / 'sweep.svg'}\n")


def _table(sweep: Sweep, found: Found, verdicts: Mapping[str, Verdict], first: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("link", overflow="fold")
    here = range(first, min(first + _ABREAST, len(sweep.points)))
    for number in here:
        table.add_column(f"{_letter(number)} p50 ", justify="right", no_wrap=True)
        table.add_column("p95", justify="right", no_wrap=True)
    table.add_column("split", no_wrap=True)
    for link in sweep.links:
        row, verdict = [link.label], verdicts.get(link.text)
        for number in here:
            run = found.get(Configuration(*sweep.points[number], link.text))
            if run is None:
                row += ["- ", "-"]
                continue
            mark = "*" if verdict is not None and verdict.winner == run.run_id else " "
            row += [_ms(run, "p50") + mark, _ms(run, "p95")]
        table.add_row(*row, _HELPS[verdict.splitting_helps] if verdict else "-")
    return table


def _letter(number: int) -> str:
    """A to Z, then A1 to Z1, ..."""
    return ascii_uppercase[number % 26] + (str(number // 26) if number >= 26 else "")


def _ms(run: Summary, share: str) -> str:
    value = run.total_ms[share].value
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _csv(
    sweep: Sweep,
    found: Found,
    missing: Mapping[Configuration, str],
    verdicts: Mapping[str, Verdict],
) -> str:
    rows = []
    for one in sweep.configurations:
        profile, run = find_profile(one.link), found.get(one)
        row: dict[str, object] = {"link": one.link}
        for way, asked in (("up", profile.up), ("down", profile.down)):
            row[f"{way}_rate_bps"] = asked.rate_bps
            row[f"{way}_delay_ms"] = asked.delay_ns / 1e6
            row[f"{way}_loss_pct"] = asked.mean_loss_pct
        row |= {"cut": one.cut, "codec": one.codec, "missing": missing.get(one, "")}
        rows.append(row if run is None else row | _figures(run, verdicts[one.link]))
    fields = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _figures(run: Summary, verdict: Verdict) -> dict[str, object]:
    row: dict[str, object] = {
        "run_id": run.run_id,
        "backend": run.link_kind,
        "fastest": verdict.winner == run.run_id,
        "splitting_helps": verdict.splitting_helps,
        "frames": run.frames_answered,
        "frames_late": run.frames_late,
        "frames_dropped": run.frames_dropped,
    }
    for share, total in run.total_ms.items():
        name = share.replace(".", "_")
        row |= {f"{name}_ms": total.value, f"{name}_low_ms": total.low}
        row[f"{name}_high_ms"] = total.high
    fps, growth = run.flow.answered_fps, run.flow.growth_ms_per_s
    for name, found in (("answered_fps", fps), ("growth_ms_per_s", growth)):
        row[name] = None if found is None else found.value
        row[f"{name}_low"] = None if found is None else found.low
        row[f"{name}_high"] = None if found is None else found.high
    row |= {"offered_fps": run.flow.offered_fps, "beyond_capacity": run.flow.beyond_capacity}
    row |= {"busiest": run.flow.busiest, "busiest_pct": run.flow.busiest_pct}
    for budget in run.availability.budgets:
        for what, in_time in (("answered", budget.answered), ("uploaded", budget.uploaded)):
            row[f"{what}_{in_time.budget_ms:g}_ms"] = in_time.verdict
    for stage, values in run.stages_ms.items():
        row[f"{stage.replace(' ', '_')}_p50_ms"] = values["p50"]
    for name in ("raw_bytes", "payload_bytes", "request_bytes", "reply_bytes"):
        row[name] = getattr(run, name)
    for name in ("transport_excess_ms", "points_lost", "rms_difference_pct"):
        row[name] = getattr(run, name)
    for name in ("accuracy", "anchor_accuracy", "agreement"):
        share = getattr(run, name)
        row[f"{name}_pct"] = None if share is None else share.pct
    if run.certified is not None:
        measured = run.certified
        row |= {f"certified_{name}": getattr(measured, name) for name in measured.__struct_fields__}
    return row
