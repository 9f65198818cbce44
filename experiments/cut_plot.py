"""The picture of a model's cuts: intermediate data, branches and work along its depth.

After TR 26.847's "intermediate data size and number of branches per node", with the head's share of
the work beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from splitbed.errors import RecordError, UsageError
from splitbed.graph import CanonicalModel, Listing

_FORMATS: Final = (".svg", ".png", ".pdf")
_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "splitbed",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
}
_BLUE, _ORANGE, _GREEN, _GREY = "#3182bd", "#e6550d", "#31a354", "#b0b0b0"


def draw_cuts(model: CanonicalModel, listing: Listing, path: Path) -> None:
    """Draw all cuts of a model into a file; its ending says the format."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"--plot {path}: the picture's name ends with one of {', '.join(_FORMATS)}"
        )
    legal = listing.legal
    places = [cut.point.position for cut in legal]
    sizes = [cut.point.cut.nbytes / 1e6 for cut in legal if cut.point.cut is not None]
    with plt.rc_context(_STYLE):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(10, 6.2), sharex=True, height_ratios=(3, 2), layout="constrained"
        )
        single = [cut.marks.single for cut in legal]
        colours = [_BLUE if one else _GREY for one in single]
        top.bar(places, sizes, width=1.0, color=colours, linewidth=0)
        top.set_yscale("log")
        top.set_ylabel("intermediate data, MB (10⁶ bytes)")
        given = sum(spec.nbytes for spec in model.inputs) / 1e6
        top.axhline(given, color=_ORANGE, linewidth=1, linestyle="--")
        top.text(
            places[-1], given, "the model's input", color=_ORANGE, ha="right", va="bottom", size=9
        )
        _name_stages(top, legal)
        handles = [Rectangle((0, 0), 1, 1, color=c) for c in (_BLUE, _GREY)]
        top.legend(
            handles,
            ["one tensor crosses", "several cross"],
            loc="lower left",
            fontsize=9,
            framealpha=0.9,
        )
        refused = [cut.point.position for cut in listing.cuts if cut.cost is None]
        if refused:
            top.plot(
                refused, [min(sizes)] * len(refused), "x", color=_ORANGE, markersize=4, zorder=3
            )
        bottom.step(
            places, [len(cut.point.tensors) for cut in legal], where="mid", color=_BLUE, linewidth=1
        )
        bottom.set_ylabel("branches", color=_BLUE)
        bottom.set_ylim(bottom=0)
        bottom.yaxis.get_major_locator().set_params(integer=True)
        bottom.set_xlabel("nodes in the head, in topological order")
        share = bottom.twinx()
        for values, whole, colour, label in (
            ([c.cost.head_macs for c in legal if c.cost], listing.macs, _GREEN, "MACs"),
            (
                [c.cost.head_parameters for c in legal if c.cost],
                listing.parameters,
                _ORANGE,
                "parameters",
            ),
        ):
            shares = [100 * value / max(1, whole) for value in values]
            share.plot(places, shares, color=colour, linewidth=1.5, label=f"{label} in the head")
        share.set_ylabel("share of the model, %")
        share.set_ylim(0, 102)
        share.legend(loc="upper left", fontsize=9, framealpha=0.9)
        top.set_title(
            f"{model.source.path.name}: {len(legal)} cuts, {listing.parameters / 1e6:.2f} M "
            f"parameters, {listing.macs / 1e6:,.0f} M MACs",
            loc="left",
            size=11,
        )
        top.set_xlim(-0.5, places[-1] + 0.5)
        try:
            # A date in the file would make every picture another file.
            plain = {"Date": None} if path.suffix.lower() == ".svg" else None
            figure.savefig(path, dpi=150, metadata=plain)
        except OSError as error:
            raise RecordError(f"cannot write the picture {path}: {error.strerror}") from error
        finally:
            plt.close(figure)


def _name_stages(axes: Any, legal: Any) -> None:
    """A mark at the end of each stage, with its bytes."""
    width = legal[-1].point.position
    labelled = -width
    for cut in legal:
        if cut.marks.stage and cut.point.cut is not None:
            size = cut.point.cut.nbytes / 1e6
            axes.plot([cut.point.position], [size], marker="v", color="#222", markersize=5)
            if cut.point.position - labelled < 0.035 * width:
                continue  # two labels in one place cannot be read
            labelled = cut.point.position
            axes.annotate(
                f"{size:.2g}",
                (cut.point.position, size),
                textcoords="offset points",
                xytext=(0, 5),
                ha="center",
                size=8,
            )
