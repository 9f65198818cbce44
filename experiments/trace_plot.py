"""The picture of a trace: each direction's rate over time, delay and loss where it has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib.pyplot as plt

from experiments.drawing import DARK, GREEN, ORANGE, STYLE, check_picture, save_picture
from experiments.terminal import printable
from experiments.trace_summary import TraceSummary, WaySummary
from netem.trace_steps import Pieces, pieces
from splitbed.errors import UsageError
from splitbed.link import Change, Trace

_WAYS: Final[tuple[tuple[Literal["up", "down"], str, str], ...]] = (
    ("up", "uplink", DARK),
    ("down", "downlink", GREEN),
)
_OTHERS: Final[dict[str, Callable[[Change], float | None]]] = {
    "delay, ms": lambda change: None if change.delay_ns is None else change.delay_ns / 1e6,
    "loss, %": lambda change: change.loss_pct,
}


def draw_trace(trace: Trace, summary: TraceSummary, path: Path) -> None:
    """Draw a trace into a file; its ending says the format."""
    check_picture(path)
    sides = [(pieces(trace, way), getattr(summary, way), word, c) for way, word, c in _WAYS]
    rates = [side for side in sides if side[1] is not None and side[1].mean_bps is not None]
    others = [
        (label, figure)
        for label, figure in _OTHERS.items()
        if any(figure(change) is not None for side, *_ in sides for _, change in side)
    ]
    if not rates and not others:
        raise UsageError(f"--plot {path}: the trace says nothing that could be drawn")
    heights = [3] * len(rates) + [2] * len(others)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(heights),
            1,
            figsize=(10, 1 + 0.75 * sum(heights)),
            sharex=True,
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        panels = list(grid[:, 0])
        figure.suptitle(
            f"{printable(trace.name)}: {summary.duration_s:g} s", x=0.01, ha="left", size=11
        )
        for side, found, word, colour in rates:
            _draw_rate(panels.pop(0), side, found, word, colour, trace.duration_ns)
        for label, value in others:
            _draw_others(panels.pop(0), sides, label, value, trace.duration_ns)
        last = grid[-1, 0]
        last.set_xlim(0, summary.duration_s)
        last.set_xlabel("seconds; where it ends, it begins anew")
        save_picture(figure, path)


def _draw_rate(
    axes: Any, side: Pieces, found: WaySummary, word: str, colour: str, end_ns: int
) -> None:
    """The rate, its mean, and where nothing passes."""
    assert found.mean_bps is not None
    times, rates = _line(
        side, lambda change: None if change.rate_bps is None else change.rate_bps / 1e6, end_ns
    )
    axes.fill_between(times, rates, color=colour, alpha=0.15, linewidth=0)
    axes.plot(times, rates, color=colour, linewidth=0.8)
    axes.axhline(found.mean_bps / 1e6, color="#444", linewidth=1, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{word}, Mbit/s")
    text = f"mean {found.mean_bps / 1e6:.3g} Mbit/s (dashed)"
    if found.outages:
        spans = [
            (begin, end - begin)
            for begin, end, rate in zip(times[::2], times[1::2], rates[::2], strict=True)
            if rate == 0
        ]
        over = axes.get_xaxis_transform()
        axes.broken_barh(spans, (0, 1), color=ORANGE, alpha=0.5, linewidth=0.5, transform=over)
        word = "outage" if found.outages == 1 else "outages"
        text += f", {found.outages} {word}, {found.outage_s:.3g} s in all (orange)"
    if any(map(math.isnan, rates)):
        text += ", blank: as the profile"
    axes.spines.right.set_visible(False)
    axes.set_title(text, loc="right", size=9, color="#444")


def _draw_others(
    axes: Any,
    sides: list[tuple[Pieces, Any, str, str]],
    label: str,
    figure: Callable[[Change], float | None],
    end_ns: int,
) -> None:
    for (side, _, word, colour), width in zip(sides, (1.8, 1.0), strict=True):
        times, values = _line(side, figure, end_ns)
        if not all(map(math.isnan, values)):
            axes.plot(times, values, color=colour, linewidth=width, label=word)
    axes.spines.right.set_visible(False)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, frameon=False)


def _line(
    side: Pieces, figure: Callable[[Change], float | None], end_ns: int
) -> tuple[list[float], list[float]]:
    """Seconds and values at both ends of every step; not a number where the profile's holds."""
    begins = [at_ns / 1e9 for at_ns, _ in side]
    values = [math.nan if (v := figure(change)) is None else v for _, change in side]
    times = [t for pair in zip(begins, [*begins[1:], end_ns / 1e9], strict=True) for t in pair]
    return times, [v for value in values for v in (value, value)]
