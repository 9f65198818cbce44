"""The picture of a codec bench: bytes against what they cost in answers, a panel for each cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib.pyplot as plt

from experiments.bench_report import MOST_LOSS, BenchReport, CutReport, within_limits
from experiments.bench_rows import Row
from experiments.drawing import ONE_SCALE, bytes_text, check_picture, save_picture
from experiments.score import Terms
from experiments.terminal import printable
from experiments.tiles import is_tiles

# Okabe and Ito, "Color universal design" (2008): told apart by everybody. Black is the picture.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKS: Final = "osD^vPXp*"
_COLUMNS: Final = 2
_MOST: Final = 12.0
"""Points lost, or answers changed, at the top of a panel; what is worse is of no use to anybody."""
_LEAST: Final = -3.0
_LONGEST: Final = 52
"""Characters of a cut's name."""


def draw_bench(report: BenchReport, path: Path) -> None:
    """Draw it into a file; its ending says the format.

    With labels the height is the points lost, of accuracy or precision, with the 95 % interval;
    without, the share of answers that are no longer the uncut model's. Filled marks are good enough
    by loss and agreement. Codecs for comparison are dashed, and without their intervals.
    """
    check_picture(path)
    cuts = [cut for cut in report.cuts if cut.rows]
    columns = min(_COLUMNS, len(cuts))
    rows = -(-len(cuts) // columns)
    families = list(dict.fromkeys(_family(r.row.codec) for cut in cuts for r in cut.rows))
    looks = {
        family: (_COLOURS[at % len(_COLOURS)], _MARKS[at % len(_MARKS)])
        for at, family in enumerate(sorted(families))
    }
    with plt.rc_context(ONE_SCALE):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(1 + 5.5 * columns, 1.6 + 3.4 * rows),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        panels = list(grid.flat)
        for axes, cut in zip(panels, cuts, strict=False):
            _draw_cut(axes, cut, report.anchors, looks)
        for axes in panels[len(cuts) :]:
            axes.set_axis_off()
        for axes in panels[max(0, len(cuts) - columns) : len(cuts)]:
            axes.set_xlabel("bytes a frame (median)")
            axes.tick_params(labelbottom=True)
        has_labels = report.labelled > 0
        for axes in grid[:, 0]:
            axes.set_ylabel(_lost(report.terms) if has_labels else report.terms.unlike)
        lines: dict[str, Any] = {}
        for axes in panels[: len(cuts)]:
            handles, names = axes.get_legend_handles_labels()
            lines |= {name: line for line, name in zip(handles, names, strict=True)}
        ordered = sorted(lines, key=lambda name: (name in looks, name))
        figure.legend(
            [lines[name] for name in ordered],
            ordered,
            loc="outside lower center",
            ncols=4,
            fontsize=9,
            frameon=False,
        )
        figure.suptitle(
            f"{printable(report.model)}, {report.pictures} pictures; filled: {_limits(report)}",
            size=11,
        )
        save_picture(figure, path)


def _draw_cut(
    axes: Any, cut: CutReport, anchors: Sequence[Row], looks: dict[str, tuple[str, str]]
) -> None:
    name = cut.name if len(cut.name) <= _LONGEST else f"...{cut.name[3 - _LONGEST :]}"
    shapes = ", ".join("x".join(map(str, spec.shape[1:])) for spec in cut.boundary[:2])
    axes.set_title(
        f"{printable(name)}\n{shapes}, {cut.macs_pct:.0f} % of the MACs", loc="left", size=9
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: bytes_text(value))
    axes.set_ylim(_LEAST, _MOST)
    axes.axhspan(_LEAST, MOST_LOSS, color="#0000000a", linewidth=0)
    axes.grid(True, color="#0001")
    jpeg = [row for row in anchors if row.codec.startswith("jpeg")]
    _draw_line(axes, "the picture as JPEG", jpeg, "#000000", ".")
    for row in anchors:
        if row not in jpeg:
            words = {"png": "the picture as PNG", "raw": "the picture raw"}
            mark = {"png": "x", "raw": "+"}.get(row.codec, "1")
            _draw_line(axes, words.get(row.codec, row.codec), [row], "#000000", mark)
    for family, (colour, mark) in looks.items():
        found = [one.row for one in cut.rows if _family(one.row.codec) == family]
        _draw_line(axes, family, found, colour, mark)
        if not is_tiles(family):
            for row in found:
                if row.score.loss is not None:
                    ends = row.score.loss.low, row.score.loss.high
                    axes.vlines(row.payload_bytes.value, *ends, colour, linewidth=0.7, alpha=0.4)


def _draw_line(axes: Any, name: str, rows: Sequence[Row], colour: str, mark: str) -> None:
    if not rows:
        return
    rows = sorted(rows, key=lambda row: row.payload_bytes.value)
    places = [row.payload_bytes.value for row in rows]
    costs = [_cost(row) for row in rows]
    dashes = "--" if is_tiles(name) else "-"
    look: dict[str, Any] = {"color": colour, "marker": mark, "markersize": 5, "linewidth": 1.2}
    axes.plot(places, costs, dashes, label=name, markerfacecolor="white", **look)
    good = [
        (x, y) for x, y, row in zip(places, costs, rows, strict=True) if within_limits(row.score)
    ]
    if good:
        axes.plot(*zip(*good, strict=True), linestyle="none", **look)


def _limits(report: BenchReport) -> str:
    """What a filled mark says."""
    agrees = report.terms.agrees.format(report.least_agreement_pct)
    if not report.labelled:
        return agrees
    return f"loses at most {report.most_loss_points:g} {report.terms.point}, {agrees}"


def _lost(terms: Terms) -> str:
    return (
        "points of accuracy lost"
        if terms.kind == "classes"
        else f"{terms.point} lost".replace("point", "points", 1)
    )


def _cost(row: Row) -> float:
    """What is drawn upwards."""
    loss = row.score.loss
    return 100 - row.score.agreement.pct if loss is None else loss.points


def _family(codec: str) -> str:
    """Codecs that differ in numbers only are one line: `quantize:4+zstd:3` and `quantize:6+zstd:3`.

    Arguments with a name keep it (`clip=p99.9` and `clip=mse` are two lines), but for a budget; a
    codec whose payloads were cut off is on the line of those that were not.
    """
    return re.sub(r"@\d+%$|[:,]budget_bytes=\d+|:\d+(?=[,+@]|$)", "", codec)
