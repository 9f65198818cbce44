"""Which configuration wins on a link, in one sentence, and when another one would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from experiments.summary import Summary
from splitbed.graph import INPUT_CUT, OUTPUT_CUT
from splitbed.task import PICTURE_CUT, RESULT_CUT

POINTS_ALLOWED: Final = 1.0
"""Net loss of accuracy against the uncut model up to which a configuration may win."""

_DEVICE_STAGES: Final = ("preprocess", "head", "encode", "finish")
_SLOWEST: Final = 100.0

PLACES: Final = {
    PICTURE_CUT: "all on the edge",
    INPUT_CUT: "all on the edge",
    RESULT_CUT: "all on the device",
    OUTPUT_CUT: "all on the device",
}


class Verdict(msgspec.Struct, frozen=True):
    """The answer to: does splitting help on this link?"""

    sentence: str
    outlook: str
    """What a slower device would find, by arithmetic; "" where there is nothing to say."""
    winner: str
    """Run id of the fastest configuration that keeps its accuracy."""
    splitting_helps: bool | None
    """None where the measured frames cannot tell."""


def decide_by_link(summaries: Sequence[Summary]) -> list[Verdict]:
    """One verdict for each link and model among the runs, in their order."""
    groups: dict[tuple[str, str], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault((summary.link, summary.model), []).append(summary)
    return [decide(group) for group in groups.values()]


def decide(summaries: Sequence[Summary]) -> Verdict:
    """Compare the best split with the best anchor, by the intervals of their medians.

    Configurations that are incomplete, or lose more than POINTS_ALLOWED, do not take part.
    """
    fit = [s for s in summaries if s.complete and _keeps_accuracy(s)]
    anchors = sorted((s for s in fit if s.is_anchor), key=_median)
    splits = sorted((s for s in fit if not s.is_anchor), key=_median)
    if not fit and any(s.complete for s in summaries):
        return Verdict(
            f"Every configuration loses more than {POINTS_ALLOWED:g} points of accuracy.",
            "",
            "",
            None,
        )
    if not fit:
        return Verdict("No configuration was measured completely.", "", "", None)
    link = fit[0].link
    if len(fit) == 1:
        sentence = (
            f"On {link} {_called(fit[0])} takes {_time(fit[0])} end to end; measure other cuts and "
            "the anchors (@result, @picture) to compare it with."
        )
        return Verdict(sentence, "", fit[0].run_id, None)
    if not anchors or not splits:
        best = (anchors or splits)[0]
        return Verdict(
            f"On {link} the fastest of {len(fit)} configurations is {_called(best)} with "
            f"{_time(best)}; there is no {'split' if not splits else 'anchor'} to compare it with.",
            "",
            best.run_id,
            None,
        )
    split, anchor = splits[0], anchors[0]
    if _clearly_faster(split, anchor):
        sentence = (
            f"On {link} splitting helps: {_called(split)} wins with {_time(split)} end to end, "
            f"against {_time(anchor)} for the best anchor, {_called(anchor)}."
        )
        return Verdict(sentence, "", split.run_id, True)
    # A split that is ahead already, if not clearly, would win on no slower a device.
    outlook = "" if _median(split) < _median(anchor) else _outlook(splits, anchors)
    if _clearly_faster(anchor, split):
        sentence = (
            f"On {link} splitting does not help: {_called(anchor)} wins with {_time(anchor)} end "
            f"to end; the best split, {_called(split)}, takes {_time(split)}."
        )
        return Verdict(sentence, outlook, anchor.run_id, False)
    sentence = (
        f"On {link} these frames cannot tell whether splitting helps: {_called(split)} takes "
        f"{_time(split)}, the best anchor, {_called(anchor)}, {_time(anchor)}; measure more frames."
    )
    return Verdict(sentence, outlook, min(fit, key=_median).run_id, None)


def _outlook(splits: Sequence[Summary], anchors: Sequence[Summary]) -> str:
    """From which slowdown of the device on a split would win, all else as measured."""
    for factor in np.geomspace(1.0, _SLOWEST, 400)[1:]:
        split = min(splits, key=lambda s: _slowed(s, factor))
        if all(_slowed(split, factor) < _slowed(anchor, factor) for anchor in anchors):
            return (
                f"By arithmetic, not by measurement: on a device {factor:.1f} times slower than "
                f"this one, and the same edge and link, {_called(split)} would win."
            )
    return (
        "By arithmetic, not by measurement: a device up to "
        f"{_SLOWEST:.0f} times slower than this one would not gain from any of these splits either."
    )


def _slowed(summary: Summary, factor: float) -> float:
    own = sum(summary.stages_ms[stage]["p50"] for stage in _DEVICE_STAGES)
    return _median(summary) + (factor - 1) * own


def _keeps_accuracy(summary: Summary) -> bool:
    return summary.points_lost is None or summary.points_lost <= POINTS_ALLOWED


def _median(summary: Summary) -> float:
    return summary.total_ms["p50"].value


def _clearly_faster(one: Summary, other: Summary) -> bool:
    high, low = one.total_ms["p50"].high, other.total_ms["p50"].low
    return high is not None and low is not None and high < low


def _called(summary: Summary) -> str:
    place = PLACES.get(summary.cut)
    if place is None:
        return f"the cut at {summary.cut} coded {summary.codec}"
    if summary.cut == PICTURE_CUT:
        return f"{place}, fed with {summary.codec}"
    return place


def _time(summary: Summary) -> str:
    return f"{_median(summary):.1f} ms"
