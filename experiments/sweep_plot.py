"""The picture of a sweep of the network: end to end over rate, a line for each point."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from itertools import product
from typing import Any, Final

import matplotlib
import matplotlib.pyplot as plt

from experiments.drawing import ONE_SCALE, drawn
from experiments.network_sweep import Configuration, Sweep, SweptLink
from experiments.summary import Summary
from experiments.verdict import Verdict
from netem.profiles import find_profile

# Okabe and Ito, "Color universal design" (2008): told apart by everybody.
_COLOURS: Final = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKS: Final = "osD^vPXp"
_LONGEST: Final = 40
"""Characters of a name."""
_LABEL_HEIGHT: Final = 0.075
"""Of a panel."""


def sweep_plot(
    sweep: Sweep, found: Mapping[Configuration, Summary], verdicts: Mapping[str, Verdict]
) -> bytes:
    """SVG: a row of panels for each loss, a column for each delay; whole links in one below."""
    combined = sorted((link for link in sweep.links if link.rate), key=_mbps)
    whole = [link for link in sweep.links if not link.rate]
    losses, delays = (
        list(dict.fromkeys(getattr(link, of) for link in sweep.links if link.rate)) or [""]
        for of in ("loss", "delay")
    )
    rows = len(losses) * bool(combined) + bool(whole)
    last, labelled = None, []
    with plt.rc_context(ONE_SCALE):
        figure = plt.figure(figsize=(1 + 3.6 * len(delays), 0.6 + 3.4 * rows))
        grid = figure.add_gridspec(rows, len(delays), wspace=0.1, hspace=0.45)
        for at, (loss, delay) in enumerate(product(losses, delays) if combined else ()):
            links = [link for link in combined if (link.delay, link.loss) == (delay, loss)]
            row, column = divmod(at, len(delays))
            last = figure.add_subplot(grid[row, column], sharey=last)
            last.set_xscale("log")
            last.set_xticks([_mbps(link) for link in links], [f"{_mbps(one):g}" for one in links])
            last.set_xticks([], minor=True)
            last.set_xlabel("rate, Mbit/s")
            words = f"delay {delay} one way" if delay else "no delay"
            last.set_title(f"{words}, {loss} lost" if loss else words, loc="left", size=10)
            lines = _draw(last, sweep, {link: _mbps(link) for link in links}, found, verdicts)
            last.tick_params(which="both", labelleft=column == 0)
            labelled += [(last, lines)] if column == len(delays) - 1 else []
        if whole:
            last = figure.add_subplot(grid[-1, :], sharey=last)
            names = [link.text for link in whole]
            last.set_xticks(range(len(whole)), names, rotation=15, ha="right")
            last.set_xlim(-0.5, len(whole) - 0.5)
            places = {link: at for at, link in enumerate(whole)}
            labelled.append((last, _draw(last, sweep, places, found, verdicts)))
        for axes, lines in labelled:
            _label(axes, lines)
        figure.suptitle(
            f"{sweep.options.model.stem}: ms a frame, end to end: median, whisker to the 95th "
            "percentile;\nfilled: the fastest that keeps its accuracy"
            f"{'; crossed: beyond capacity' * any(r.flow.beyond_capacity for r in found.values())}"
            f"\n{textwrap.fill(sweep.conditions, 72)}",
            x=figure.subplotpars.left,
            y=figure.subplotpars.top + 0.4 / figure.get_figheight(),
            ha="left",
            va="bottom",
            size=11,
        )
        return drawn(figure)


def _mbps(link: SweptLink) -> float:
    return (find_profile(link.text).up.rate_bps or 0) / 1e6


def _draw(
    axes: Any,
    sweep: Sweep,
    places: Mapping[SweptLink, float],
    found: Mapping[Configuration, Summary],
    verdicts: Mapping[str, Verdict],
) -> dict[str, Any]:
    """One panel; its lines by name. What was not measured leaves a gap."""
    lines = {}
    axes.set_yscale("log")
    for which in ("major", "minor"):
        axis = getattr(axes.yaxis, f"set_{which}_formatter")
        axis(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")
    axes.grid(True, axis="y", color="#0001")
    is_line = any(link.rate for link in places)
    for number, point in enumerate(sweep.points):
        runs = {link: found.get(Configuration(*point, link.text)) for link in places}
        (line,) = axes.plot(
            places.values(),
            [run.total_ms["p50"].value if run else math.nan for run in runs.values()],
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKS[number % len(_MARKS)],
            markerfacecolor="white",
            linestyle="-" if is_line else "none",
        )
        lines[" ".join(point)] = line
        look = {"color": line.get_color(), "marker": line.get_marker()}
        for link, run in runs.items():
            if run is not None:
                at, middle = [places[link]], run.total_ms["p50"].value
                high = run.total_ms["p95"].value
                axes.vlines(at, middle, high, line.get_color(), linewidth=1, zorder=1)
                if run.flow.beyond_capacity:
                    axes.plot(at, [middle], color="black", marker="x", linestyle="none")
                if verdicts[link.text].winner == run.run_id:
                    axes.plot(at, [middle], **look)
    return lines


def _label(axes: Any, lines: Mapping[str, Any]) -> None:
    """The name of each line beside its end, in the lines' order, moved up where two would touch."""
    axes.get_ylim()  # settles where the values stand
    ends = []
    for name, line in lines.items():
        values = [value for value in line.get_ydata() if not math.isnan(value)]
        if values:
            end = axes.transAxes.inverted().transform(axes.transData.transform((1, values[-1])))
            ends.append((math.prod(values) ** (1 / len(values)), end[1], name, line))
    lowest = 0.0
    for _, height, name, line in sorted(ends, key=lambda end: end[:2]):
        lowest = max(lowest, height)
        place = matplotlib.transforms.ScaledTranslation
        beside = axes.transAxes + place(1 / 6, 0, axes.figure.dpi_scale_trans)
        axes.plot(
            [1],
            [lowest],
            color=line.get_color(),
            marker=line.get_marker(),
            markerfacecolor="white",
            transform=beside,
            clip_on=False,
        )
        axes.annotate(
            name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}",
            (1, lowest),
            (20, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=line.get_color(),
            size=9,
            va="center",
        )
        lowest += _LABEL_HEIGHT
