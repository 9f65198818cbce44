"""A run's frames one by one, as pictures: when each was due and what it took, and how many took
no longer than a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

from experiments.drawing import BLUE, DARK, GREY, ONE_SCALE, ORANGE, drawn
from experiments.flow import Load
from experiments.load_table import pct_text
from splitbed.record import FrameRecord

_STYLE: Final[dict[Any, Any]] = {**ONE_SCALE, "font.size": 11}
_AS_PIXELS: Final = 1500
"""Frames from which on their points are kept as a picture within the picture."""
_RED: Final = "#b00020"


def is_worth_drawing(load: Load) -> bool:
    """Frames in closed loop come when the one before is done: they show no stall."""
    return load.is_open or load.deadline_ms is not None


def timeline(rows: Sequence[FrameRecord], load: Load) -> str:
    """Latency and wait of each measured frame against its due time, as SVG.

    A stall is a sawtooth: the first frame that it holds up waits for its whole length, each later
    one for as much less as it was due later.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(9, 3.4))
        begun_s = min(row.intended_ns for row in rows) / 1e9
        as_pixels = len(rows) > _AS_PIXELS
        size = 14 if len(rows) < 400 else 5

        def points(
            chosen: Sequence[FrameRecord], height_ms: Sequence[float], label: str, **look: Any
        ) -> None:
            if chosen:
                due_s = [row.intended_ns / 1e9 - begun_s for row in chosen]
                axes.scatter(due_s, height_ms, label=label, rasterized=as_pixels, **look)

        answered = [row for row in rows if row.is_answered]
        points(
            answered, [row.wait_ns / 1e6 for row in answered], "wait until begun",
            s=size, color=GREY, linewidths=0,
        )  # fmt: skip
        for status, label, colour in (("ok", "answered", BLUE), ("late", "answered late", ORANGE)):
            chosen = [row for row in answered if row.status == status]
            name = "answered in time" if status == "ok" and load.deadline_ms is not None else label
            points(
                chosen, [row.total_ns / 1e6 for row in chosen], name,
                s=size, color=colour, linewidths=0,
            )  # fmt: skip
        dropped = [row for row in rows if row.status == "dropped"]
        points(
            dropped, [given_up_ms(row) for row in dropped], f"dropped ({len(dropped):,})",
            s=2.5 * size, marker="x", color=_RED, linewidths=0.8,
        )  # fmt: skip
        failed = [row for row in rows if row.status.startswith("failed")]
        points(
            failed, [0.0] * len(failed), f"failed ({len(failed):,})",
            s=20, marker="v", color=_RED, linewidths=0, clip_on=False, zorder=5,
        )  # fmt: skip
        if load.deadline_ms is not None:
            _deadline(axes.axhline, load.deadline_ms)
            axes.text(
                1.005, load.deadline_ms, f"{load.deadline_ms:g} ms", va="center", color=_RED,
                fontsize=10, transform=axes.get_yaxis_transform(),
            )  # fmt: skip
        axes.set_xlabel("due, s from the first measured frame")
        axes.set_ylabel("ms")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.legend(
            ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, fontsize=10,
            handletextpad=0.2, markerscale=1 if size > 10 else 2,
        )  # fmt: skip
        return _svg(figure)


def cumulative(rows: Sequence[FrameRecord], load: Load) -> str:
    """Share of all measured frames that were answered within a time, as SVG.

    Those without an answer count: the curve ends where they begin.
    """
    took = np.sort([row.total_ns / 1e6 for row in rows if row.is_answered])
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(9, 3.0))
        height = 100 * np.arange(1, len(took) + 1) / len(rows)
        # What lies closer together than a pixel need not be drawn one by one.
        kept = np.unique(np.linspace(0, len(took) - 1, min(len(took), 1200)).astype(int))
        axes.step(took[kept], height[kept], where="post", color=DARK, linewidth=1.4)
        if len(took) < len(rows):
            axes.axhline(height[-1], color="#888", linewidth=1, linestyle="--")
            axes.text(
                1, height[-1], f"{len(rows) - len(took):,} without an answer ", ha="right",
                va="bottom", color="#666", transform=axes.get_yaxis_transform(),
            )  # fmt: skip
        if load.deadline_ms is not None:
            within = 100 * float(np.sum(took <= load.deadline_ms)) / len(rows)
            _deadline(axes.axvline, load.deadline_ms)
            axes.plot([load.deadline_ms], [within], marker="o", color=_RED, markersize=5)
            # Below the curve, unless the axis or the picture's edge is there.
            low, left = within < 20, load.deadline_ms > 0.7 * took[-1]
            axes.annotate(
                f"{pct_text(within)} % within {load.deadline_ms:g} ms", (load.deadline_ms, within),
                xytext=(-8 if left else 8, 8 if low else -4), textcoords="offset points",
                va="bottom" if low else "top", ha="right" if left else "left", color=_RED,
            )  # fmt: skip
        if took[-1] > 20 * took[0]:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(lambda ms, _: f"{ms:g}")
        axes.set_xlabel("ms end to end")
        axes.set_ylabel("% of frames")
        axes.set_ylim(0, 103)
        axes.grid(True, which="major", color="#0001")
        return _svg(figure)


def given_up_ms(row: FrameRecord) -> float:
    """How long after it was due a frame was dropped: all that it had been through by then."""
    stages = (row.preprocess_ns, row.head_ns, row.encode_ns, row.queue_ns, row.window_ns)
    return (row.wait_ns + sum(stages)) / 1e6


def _deadline(line: Any, at_ms: float) -> None:
    line(at_ms, color=_RED, linewidth=1, linestyle=":")


def _svg(figure: Any) -> str:
    text = drawn(figure).decode()
    return text[text.index("<svg") :]
