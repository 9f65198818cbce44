"""What a terminal is told of a run's load: throughput, its queue, and what was in time."""

from __future__ import annotations

from rich.table import Table

from experiments.availability import ANSWERED_PCT, UPLOADED_PCT, InTime, frames_needed
from experiments.flow import Flow, Load
from experiments.streams import Interval
from experiments.summary import Summary


def load_facts(summary: Summary) -> list[tuple[str, str]]:
    """Name and text of what a run's load was, and what became of it."""
    found = []
    load, flow, deadline = summary.load, summary.flow, summary.availability.deadline
    if load.is_open or load.kind == "offline" or load.deadline_ms is not None:
        found.append(("load", load_text(load)))
    if flow.answered_fps is not None:
        found.append(("throughput", throughput_text(flow, flow.answered_fps)))
    if load.is_open:
        found.append(("queue", queue_text(flow)))
    if deadline is not None:
        found.append(("in time", deadline_text(deadline)))
    if summary.memory:
        text = f"latencies are alike over {summary.memory} frames; the intervals know"
        found.append(("dependence", text))
    return found


def load_text(load: Load) -> str:
    """What was asked of the load, and what ended it."""
    kinds = {
        "single": "one frame after the other",
        "closed": f"{load.window} frames in flight",
        "offline": f"all due at once, {load.window} in flight",
        "rate": f"{load.rate_fps or 0:g} frames/s, evenly",
        "poisson": f"{load.rate_fps or 0:g} frames/s, Poisson arrivals",
    }
    text = kinds.get(load.kind, load.kind)
    if load.deadline_ms is not None:
        late = {"drop": ", late ones dropped", "keep": ", late ones kept"}.get(load.late or "", "")
        text += f"; deadline {load.deadline_ms:g} ms{late}"
    return text + (f"; ended by {load.stopped_by}" if load.stopped_by else "")


def throughput_text(flow: Flow, answered: Interval) -> str:
    """`29.8 answers/s (29.1 to 30.6), 30.0 offered; head busy 83 %`."""
    text = f"{answered.value:.4g} answers/s"
    if answered.low is not None and answered.high is not None:
        text += f" ({answered.low:.4g} to {answered.high:.4g})"
    if flow.offered_fps is not None:
        text += f", {flow.offered_fps:.4g} offered"
    return f"{text}; {flow.busiest} busy {flow.busiest_pct:.0f} %"


def queue_text(flow: Flow) -> str:
    """Whether it grew, in words."""
    growth = flow.growth_ms_per_s
    if growth is None or growth.low is None or growth.high is None:
        text = "too few frames to say whether it grows"
    elif growth.low > 0 and flow.beyond_capacity:
        text = (
            f"grows by {growth.value:.3g} ms every second ({growth.low:.3g} to {growth.high:.3g}): "
            "the load is beyond capacity"
        )
        return text
    else:
        text = f"no growth seen; at most {max(0.0, growth.high):.3g} ms every second"
    if flow.beyond_capacity and flow.dropped is not None:
        text += f"; {flow.dropped.pct:.1f} % dropped, all along: the load is beyond capacity"
    return text


def deadline_text(found: InTime) -> str:
    """Share in time, and what these frames say of the target."""
    return f"{share_text(found)} within {found.budget_ms:g} ms; {target_text(found)}"


def share_text(found: InTime) -> str:
    """`12 of 12 (at least 77.9 %)`; with misses, also the most that it can be."""
    text = f"{found.in_time:,} of {found.frames:,} ({at_least_text(found)}"
    if found.missed:
        stretches = "one stretch" if found.stretches == 1 else f"{found.stretches:,} stretches"
        text += f", at most {_pct(found.at_most_pct)} %; misses in {stretches}"
    return text + ")"


def at_least_text(found: InTime) -> str:
    """`at least 77.9 %`."""
    return f"at least {_pct(found.at_least_pct)} %"


def target_text(found: InTime) -> str:
    """The verdict on its target, with what would show it."""
    target = f"{found.target_pct:g} %"
    if found.verdict == "met" and not found.is_shown:
        needed = frames_needed(found.target_pct)
        if found.missed:
            return f"{target} met, not shown"
        return f"{target} would need {needed:,} frames without a miss"
    shown = " (shown)" if found.is_shown else ""
    return f"{target} {found.verdict}{shown}"


def budget_table(summary: Summary) -> Table | None:
    """TR 22.874's budgets against the run; None for a load that is due all at once."""
    budgets = summary.availability.budgets
    if not budgets:
        return None
    table = Table(box=None, pad_edge=False)
    for heading in ("TR 22.874 budgets", "answered", "uploaded"):
        table.add_column(heading, no_wrap=True)
    for budget in budgets:
        table.add_row(
            budget.applications, verdict_text(budget.answered), verdict_text(budget.uploaded)
        )
    return table


def verdict_text(found: InTime) -> str:
    """`33 ms: missed, 0 of 12`, with a range where clocks leave some open."""
    some = f"{found.in_time:,}"
    if found.in_time + found.missed < found.frames:
        some += f"..{found.frames - found.missed:,}"
    return f"{_time(found.budget_ms)}: {found.verdict}, {some} of {found.frames:,}"


def budget_note(summary: Summary) -> str:
    """What the targets are, and how many frames would show them."""
    frames = summary.availability.budgets[0].answered.frames
    known = 100 * 0.05 ** (1 / frames)
    return (
        f"met: in {ANSWERED_PCT:g} % (uploads {UPLOADED_PCT:g} %) of these {frames:,} frames, of "
        f"which none missed shows {_pct(known)} % at least; the targets would take "
        f"{frames_needed(ANSWERED_PCT):,} ({frames_needed(UPLOADED_PCT):,})"
    )


def _time(ms: float) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def _pct(pct: float) -> str:
    """Rounded down to as many digits as tell it from 100."""
    for digits in (1, 2, 3, 4):
        if 100 - pct >= 10 ** (1 - digits) or pct == 100:
            break
    scale = 10**digits
    return f"{int(pct * scale) / scale:.{digits}f}"
