"""The picture of a model's cuts: intermediate data, branches and work along its depth.

After TR 26.847's "intermediate data size and number of branches per node", with the head's share of
the work beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from experiments.drawing import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    STYLE,
    bytes_text,
    check_picture,
    save_picture,
)
from splitbed.graph import CanonicalModel, Listing


def draw_cuts(model: CanonicalModel, listing: Listing, path: Path) -> None:
    """Draw all cuts of a model into a file; its ending says the format."""
    check_picture(path)
    legal = listing.legal
    places = [cut.point.position for cut in legal]
    with plt.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(10, 7), sharex=True, height_ratios=(3, 2), layout="constrained"
        )
        figure.suptitle(
            f"{model.source.path.name}: {len(legal)} cuts, {listing.parameters / 1e6:.2f} M "
            f"parameters, {listing.macs / 1e6:,.0f} M MACs",
            x=0.01,
            ha="left",
            size=11,
        )
        _draw_bytes(top, model, listing)
        bottom.step(
            places, [len(cut.point.tensors) for cut in legal], where="mid", color=BLUE, linewidth=1
        )
        bottom.set_ylabel("branches (tensors that cross)", color=BLUE)
        bottom.set_ylim(bottom=0)
        bottom.yaxis.get_major_locator().set_params(integer=True)
        bottom.set_xlabel("nodes in the head: `at` in the table of `splitbed model cuts`")
        share = bottom.twinx()
        for values, whole, colour, label in (
            ([c.cost.head_macs for c in legal if c.cost], listing.macs, GREEN, "MACs"),
            (
                [c.cost.head_parameters for c in legal if c.cost],
                listing.parameters,
                ORANGE,
                "parameters",
            ),
        ):
            shares = [100 * value / max(1, whole) for value in values]
            share.plot(places, shares, color=colour, linewidth=1.5, label=f"{label} in the head")
        share.set_ylabel("share of the model, %")
        share.set_ylim(0, 102)
        share.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, frameon=False)
        top.set_xlim(-0.5, places[-1] + 0.5)
        save_picture(figure, path)


def _draw_bytes(axes: Any, model: CanonicalModel, listing: Listing) -> None:
    """Bars on a scale of powers of ten; what no other cut beats in the strong colour."""
    legal = listing.legal
    places = [cut.point.position for cut in legal]
    sizes = [cut.point.cut.nbytes for cut in legal if cut.point.cut is not None]
    kinds = {
        "one tensor crosses": BLUE,
        "several cross": GREY,
        "no other cut has fewer bytes and less work": DARK,
    }
    colours = [
        DARK if not cut.marks.dominated_by else BLUE if cut.marks.single else GREY for cut in legal
    ]
    axes.bar(places, sizes, width=1.0, color=colours, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(bottom=min(sizes) / 2)
    axes.yaxis.set_major_formatter(lambda value, _: bytes_text(value))
    # Between powers of ten only where there is hardly one.
    is_narrow = max(sizes) < 20 * min(sizes)
    axes.yaxis.set_minor_formatter(lambda value, _: bytes_text(value) if is_narrow else "")
    axes.set_ylabel("intermediate data")
    given = sum(spec.nbytes for spec in model.inputs)
    axes.axhline(given, color=ORANGE, linewidth=1, linestyle="--")
    axes.text(
        places[-1], given, "the model's input ", color=ORANGE, ha="right", va="bottom", size=9
    )
    refused = [cut.point.position for cut in listing.cuts if cut.cost is None]
    handles: list[Any] = [Rectangle((0, 0), 1, 1, color=colour) for colour in kinds.values()]
    labels = list(kinds)
    if refused:
        (mark,) = axes.plot(refused, [min(sizes)] * len(refused), "x", color=ORANGE, markersize=4)
        handles.append(mark)
        labels.append("cannot be cut")
    ends = [(c.point.position, c.point.cut.nbytes) for c in legal if c.marks.stage and c.point.cut]
    (mark,) = axes.plot(*zip(*ends, strict=True), "v", color="#222", markersize=5)
    _label(axes, ends, legal[-1].point.position)
    axes.legend(
        [*handles, mark],
        [*labels, "a stage ends"],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        fontsize=9,
        frameon=False,
    )


def _label(axes: Any, ends: list[tuple[int, int]], width: int) -> None:
    """Bytes at the ends of stages, as far as they do not stand in each other's place."""
    last = -width
    for at, nbytes in ends:
        if at - last < 0.05 * width:
            continue
        last = at
        axes.annotate(
            bytes_text(nbytes),
            (at, nbytes),
            textcoords="offset points",
            xytext=(0, 5),
            ha="center",
            size=8,
        )
