"""The pictures of a report, as SVG text to stand within a page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib.pyplot as plt

from experiments.drawing import ONE_SCALE, drawn
from experiments.statistics import Share
from experiments.summary import Summary
from experiments.terminal import printable

# Device stages in blues, the link in orange, edge stages in greens.
_COLOURS: Final = {
    "wait": "#c7c7c7",
    "preprocess": "#9ecae1",
    "head": "#3182bd",
    "encode": "#08519c",
    "window": "#dadaeb",
    "device queue": "#9e9ac8",
    "link": "#fd8d3c",
    "edge queue": "#e5f5e0",
    "decode": "#a1d99b",
    "tail": "#31a354",
    "reply encode": "#006d2c",
    "finish": "#6baed6",
}
_STYLE: Final[dict[Any, Any]] = {**ONE_SCALE, "font.size": 11}


def latency_bars(summaries: Sequence[Summary], apart: Mapping[str, str]) -> str:
    """One bar for each configuration: the median of every stage, end to end at p50 and p95.

    `apart` holds what tells a run apart from the others, by its folder.
    """
    ordered = sorted(summaries, key=lambda s: -s.total_ms["p50"].value)
    with plt.rc_context(_STYLE):
        height = 0.6 if any(apart[s.folder] for s in ordered) else 0.45
        figure, axes = plt.subplots(figsize=(9, 1.2 + height * len(ordered)))
        positions = range(len(ordered))
        left = [0.0] * len(ordered)
        for stage, colour in _COLOURS.items():
            widths = [summary.stages_ms[stage]["p50"] for summary in ordered]
            if max(widths) <= 0:
                continue
            axes.barh(positions, widths, 0.62, left=left, color=colour, label=stage)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for position, summary in zip(positions, ordered, strict=True):
            middle, high = summary.total_ms["p50"].value, summary.total_ms["p95"].value
            axes.plot([middle, high], [position, position], color="#444", linewidth=1)
            axes.plot([high], [position], marker="|", color="#444", markersize=8)
            axes.annotate(
                f"{middle:.1f} / {high:.1f}", (high, position),
                xytext=(6, 0), textcoords="offset points", va="center", fontsize=10,
            )  # fmt: skip
        axes.set_yticks(list(positions), [_wrapped(s, apart[s.folder]) for s in ordered])
        axes.set_xlabel(
            "ms a frame: median of each stage; whisker and figures: p50 and p95 end to end"
        )
        axes.set_xlim(0, 1.1 * max(s.total_ms["p95"].value for s in ordered))
        axes.legend(ncols=6, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, fontsize=10)
        return _svg(figure)


def bytes_against_accuracy(summaries: Sequence[Summary], apart: Mapping[str, str]) -> str | None:
    """Coded bytes of a frame against accuracy with its 95 % interval; None without labels."""
    points = [(s, found) for s in summaries if (found := _accuracy(s)) is not None]
    if not points:
        return None
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(9, 5))
        marks = "osD^vP*X"
        for index, (summary, found) in enumerate(points):
            size = _bytes(summary)
            below, above = found.pct - found.low_pct, found.high_pct - found.pct
            axes.errorbar(
                [size],
                [found.pct],
                yerr=[[below], [above]],
                fmt=marks[index % len(marks)],
                color="#444" if summary.is_anchor else plt.get_cmap("tab10")(index % 10),
                ecolor="#0003",
                markersize=8,
                label=f"{_named(summary, apart)}: {size:,.0f} bytes, {found.pct:.1f} %",
            )
        anchor = next((a for s, _ in points if (a := _anchor(s)) is not None), None)
        if anchor is not None:
            axes.axhline(anchor.pct, color="#888", linewidth=1, linestyle="--")
            axes.text(
                1,
                anchor.pct,
                "uncut ",
                ha="right",
                va="bottom",
                color="#666",
                transform=axes.get_yaxis_transform(),
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_kilobytes)
        axes.xaxis.set_minor_formatter(_kilobytes)
        axes.tick_params(axis="x", which="minor", labelsize=9)
        axes.set_xlabel("kB a frame on the uplink (coded boundary)")
        axes.set_ylabel("accuracy in %, with its 95 % interval")
        axes.grid(True, which="major", color="#0001")
        axes.legend(
            loc="upper left", bbox_to_anchor=(0, -0.14), ncols=1, frameon=False, fontsize=10
        )
        return _svg(figure)


def _accuracy(summary: Summary) -> Share | None:
    return summary.evaluation.accuracy if summary.evaluation else summary.accuracy


def _anchor(summary: Summary) -> Share | None:
    return summary.evaluation.anchor_accuracy if summary.evaluation else summary.anchor_accuracy


def _bytes(summary: Summary) -> float:
    return summary.evaluation.payload_bytes if summary.evaluation else summary.payload_bytes


def _kilobytes(size: float, _: float) -> str:
    """Tick label: 1, 2 and 5 of each decade, in kB."""
    leading = f"{size:.0e}"[0]
    return f"{size / 1e3:g}" if leading in "125" else ""


def _named(summary: Summary, apart: Mapping[str, str]) -> str:
    return printable(", ".join(filter(None, (summary.name, apart[summary.folder]))))


def _wrapped(summary: Summary, apart: str) -> str:
    cut = summary.cut if len(summary.cut) <= 30 else "..." + summary.cut[-27:]
    also = textwrap.shorten(apart, 40, placeholder=" ...")
    return "\n".join(printable(line) for line in (cut, summary.codec, also) if line)


def _svg(figure: Any) -> str:
    text = drawn(figure).decode()
    return text[text.index("<svg") :]
