"""What a terminal is told of a run's load: throughput, its queue, and what was in time."""

from __future__ import annotations

import math
from typing import Final

from rich.table import Table

from experiments.availability import ANSWERED_PCT, UPLOADED_PCT, InTime, frames_needed
from experiments.flow import Flow, Load
from experiments.series import Interval
from experiments.summary import Summary

_ENDED_BY: Final = {
    "min-s": "when its time was over",
    "until": "when the interval of its percentile was narrow enough",
    "max-frames": "at the most frames, whether or not they were enough",
    "max-s": "at the longest time, whether or not it was enough",
}


def load_facts(summary: Summary) -> list[tuple[str, str]]:
    """Name and text of what a run's load was, and what became of it."""
    found = []
    load, flow, deadline = summary.load, summary.flow, summary.availability.deadline
    if load.kind != "single" or load.deadline_ms is not None:
        found.append(("load", load_text(load)))
    if load.stopped_by in _ENDED_BY:
        found.append(("ended", _ENDED_BY[load.stopped_by]))
    if flow.answered_fps is not None:
        found.append(("throughput", throughput_text(flow, flow.answered_fps)))
    if load.is_open:
        found.append(("queue", queue_text(flow)))
    if deadline is not None:
        text = f"{in_time_text(deadline)}; {summary.frames_late:,} late, "
        found.append(("in time", f"{text}{summary.frames_dropped:,} dropped"))
        found.append(("availability", target_text(deadline)))
    if summary.memory:
        frames = "1 frame" if summary.memory == 1 else f"{summary.memory} frames"
        text = f"latencies are alike over {frames}; intervals allow for it"
        found.append(("dependence", text))
    return found


def load_text(load: Load) -> str:
    """How frames were made due."""
    kinds = {
        "single": "one frame after the other",
        "closed": f"{load.window} frames in flight",
        "offline": f"all due at once, {load.window} in flight",
        "rate": f"{load.rate_fps or 0:g} frames/s, evenly",
        "poisson": f"{load.rate_fps or 0:g} frames/s, Poisson",
    }
    text = kinds.get(load.kind, load.kind)
    if load.deadline_ms is not None:
        late = {"drop": ", late frames dropped", "keep": ", late frames kept"}.get(
            load.late or "", ""
        )
        text += f"; deadline {load.deadline_ms:g} ms{late}"
    return text


def throughput_text(flow: Flow, answered: Interval) -> str:
    """`29.8/s answered (29.1 to 30.6), 30/s offered; head busy 83 %`."""
    text = f"{rate_text(answered.value)}/s answered"
    if answered.low is not None and answered.high is not None:
        text += f" ({rate_text(answered.low)} to {rate_text(answered.high)})"
    if flow.offered_fps is not None:
        text += f", {rate_text(flow.offered_fps)}/s offered"
    return f"{text}; {flow.busiest} busy {flow.busiest_pct:.0f} %"


def queue_text(flow: Flow) -> str:
    """Whether it grew, in words."""
    growth = flow.growth_ms_per_s
    if growth is not None and growth.low is not None and growth.high is not None:
        if growth.low > 0 and flow.beyond_capacity:
            # A second of frames takes so much more than a second; fewer of them, where some drop.
            by = "" if flow.dropped and flow.dropped.successes else f"{growth.value / 10:.2g} % "
            return (
                f"grows by {_ms(growth.value)} ms every second ({_ms(growth.low)} to "
                f"{_ms(growth.high)}): {by}beyond capacity"
            )
        text = f"no growth seen; at most {_ms(max(0.0, growth.high))} ms every second"
    else:
        text = "too few frames to say whether it grows"
    if flow.beyond_capacity and flow.dropped is not None:
        text = f"kept short: {flow.dropped.pct:.1f} % dropped, all along: beyond capacity"
    return text


def in_time_text(found: InTime) -> str:
    """`955 of 1,200 within 33 ms`."""
    return f"{found.in_time:,} of {found.frames:,} within {found.budget_ms:g} ms"


def target_text(found: InTime) -> str:
    """What these frames say of the target, and what would show that it is met."""
    target, ends = f"{found.target_pct:g} %", f"at least {pct_text(found.at_least_pct)} %"
    if found.missed:
        times = "one stretch" if found.stretches == 1 else f"{found.stretches:,} stretches"
        ends = f"{pct_text(found.at_least_pct)} to {pct_text(found.at_most_pct)} %"
        return f"{target} {found.verdict}: {ends}; misses in {times}"
    if found.is_shown:
        return f"{target} shown: {ends}"
    return f"{ends}; {target} takes {frames_needed(found.target_pct):,} frames without a miss"


def budget_table(summary: Summary) -> Table | None:
    """TR 22.874's budgets against the run; None for a load that is due all at once."""
    budgets = summary.availability.budgets
    if not budgets:
        return None
    table = Table(box=None, pad_edge=False)
    for heading in ("TR 22.874 budgets", "answered in", "uploaded in"):
        table.add_column(heading, no_wrap=True)
    for budget in budgets:
        table.add_row(
            budget.applications, verdict_text(budget.answered), verdict_text(budget.uploaded)
        )
    return table


def verdict_text(found: InTime) -> str:
    """`33 ms: missed, 57.5 %`, with a range where clocks leave some frames open."""
    some, most = (
        pct_text(100 * n / found.frames) for n in (found.in_time, found.frames - found.missed)
    )
    ends = some if found.in_time + found.missed == found.frames else f"{some}..{most}"
    return f"{_time(found.budget_ms)}: {found.verdict}, {ends} %"


def budget_note(summary: Summary) -> str:
    """What the targets are, and how many frames would show them."""
    frames = summary.availability.budgets[0].answered.frames
    return (
        f"met: {ANSWERED_PCT:g} % of these {frames:,} frames in time, {UPLOADED_PCT:g} % of "
        f"uploads; to show it takes {frames_needed(ANSWERED_PCT):,} frames without a miss, "
        f"{frames_needed(UPLOADED_PCT):,} uploads"
    )


def _time(ms: float) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def _ms(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def rate_text(fps: float) -> str:
    """Frames a second, with three digits."""
    return f"{fps:.3g}" if fps < 999.5 else f"{fps:,.0f}"


def pct_text(pct: float) -> str:
    """A share in percent, rounded down, to as many digits as tell it from 100."""
    if pct in (0, 100):
        return f"{pct:g}"
    digits = next((n for n in (1, 2, 3) if 100 - pct >= 10.0**-n), 4)
    return f"{math.floor(pct * 10**digits) / 10**digits:.{digits}f}"
