"""Which configuration wins on a link, in one sentence, and when another one would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from experiments.setting import places
from experiments.summary import Summary
from splitbed import codec
from splitbed.graph import INPUT_CUT, OUTPUT_CUT
from splitbed.task import PICTURE_CUT, RESULT_CUT

POINTS_ALLOWED: Final = 1.0
"""Net loss of accuracy against the uncut model up to which a configuration may win; without labels,
points of agreement with it."""

RMS_ALLOWED_PCT: Final = 1.0
"""For raw outputs: error over output, both root mean square, up to which it may win."""

NO_GAIN: Final = 0.05
"""A split that cannot be faster by more than this share does not help."""

_DEVICE_STAGES: Final = ("preprocess", "head", "encode")
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
    """One verdict for each link, model and setting (threads, load, ...), in their order."""
    groups = comparable(summaries)
    found = places([group[0] for group in groups])
    return [decide(group, place) for group, place in zip(groups, found, strict=True)]


def comparable(summaries: Sequence[Summary]) -> list[list[Summary]]:
    """Runs that may be compared with each other, by link, model and setting."""
    groups: dict[tuple[object, ...], list[Summary]] = {}
    for summary in summaries:
        model = summary.model_digest or summary.model
        groups.setdefault((summary.link, model, summary.setting), []).append(summary)
    return list(groups.values())


def decide(summaries: Sequence[Summary], place: str = "") -> Verdict:
    """Compare the best split with the best anchor, by the intervals of their medians.

    `place` is the link and how frames came to it, as it is to be told.
    Configurations that are incomplete do not take part, nor those that lose too much (`_fits`), nor
    those whose load was beyond capacity: their times say how long the run was.
    """
    link = place or next(iter(places(summaries[:1])), "")
    whole = [s for s in summaries if s.complete]
    complete = [s for s in whole if not s.flow.beyond_capacity]
    fit = [s for s in complete if _fits(s)]
    anchors = sorted((s for s in fit if s.is_anchor), key=_median)
    splits = sorted((s for s in fit if not s.is_anchor), key=_median)
    if whole and not complete:
        sentence = f"On {link} no configuration keeps up: the load is beyond capacity."
        return Verdict(sentence, "", "", None)
    if not complete:
        return Verdict("No configuration was measured completely.", "", "", None)
    if len(complete) == 1:
        only = complete[0]
        sentence = (
            f"On {link} {_called(only)} takes {_time(only)} end to end; measure other cuts "
            "and the anchors (@result, @picture) to compare it with."
        )
        return Verdict(sentence, "", only.run_id if fit else "", None)
    if not fit:
        return Verdict(
            f"Every configuration loses too much: more than {POINTS_ALLOWED:g} points of accuracy "
            "(without labels, of agreement with the uncut model; of raw outputs, "
            f"{RMS_ALLOWED_PCT:g} % of their size), or nothing is known of its answers.",
            "",
            "",
            None,
        )
    if not anchors or not splits:
        best = (anchors or splits)[0]
        return Verdict(
            f"On {link} the fastest of {len(fit)} that may be compared is {_called(best)} with "
            f"{_time(best)}; there is no {'split' if not splits else 'anchor'} to compare it with.",
            "",
            best.run_id,
            None,
        )
    split, anchor = splits[0], anchors[0]
    if _clearly_faster(split, anchor):
        sentence = (
            f"On {link} splitting helps: {_called(split)} wins with {_time(split)} end to end"
            f"{_price(split)}, against {_time(anchor)} for the best anchor, {_called(anchor)}."
        )
        return Verdict(sentence, "", split.run_id, True)
    if _clearly_faster(anchor, split):
        sentence = (
            f"On {link} splitting does not help: {_called(anchor)} wins with {_time(anchor)} end "
            f"to end{_price(anchor)}; the best split, {_called(split)}, takes {_time(split)}."
        )
        return Verdict(sentence, _outlook(splits, anchors), anchor.run_id, False)
    gain = _largest_gain(split, anchor)
    if gain is not None and gain < NO_GAIN:
        sentence = (
            f"On {link} splitting does not help: {_called(split)} takes {_time(split)} and "
            f"{_called(anchor)} {_time(anchor)} end to end, which leaves the split at most "
            f"{100 * gain:.1f} % faster."
        )
        winner = min(split, anchor, key=_median)
        return Verdict(sentence, _outlook(splits, anchors), winner.run_id, False)
    sentence = (
        f"On {link} these frames cannot tell whether splitting helps: {_called(split)} takes "
        f"{_time(split)}, the best anchor, {_called(anchor)}, {_time(anchor)}; measure more frames."
    )
    return Verdict(sentence, "", min(fit, key=_median).run_id, None)


def _outlook(splits: Sequence[Summary], anchors: Sequence[Summary]) -> str:
    """From which slowdown of the device on a split would win, all else as measured.

    Between the slowdown at which it would by the ends of the medians' intervals that favour it, and
    the one by the ends that do not.
    """
    start = "By arithmetic from these frames, not by measurement: "
    least = _turning(splits, anchors, favourable=True)
    if least is None:
        return (
            f"{start}a device up to {_SLOWEST:.0f} times slower than this one would not gain from "
            "any of these splits either."
        )
    most = _turning(splits, anchors, favourable=False)
    if most is None and least[0] == 1:
        return (
            f"{start}on a slower device, with the same edge and link, {_called(least[1])} could "
            "win; from where on, these frames do not tell."
        )
    if most is None:
        return (
            f"{start}with the same edge and link, a device would have to be at least "
            f"{least[0]:.1f} times slower than this one before {_called(least[1])} wins."
        )
    return (
        f"{start}with the same edge and link, {_called(most[1])} would win from a device "
        f"{least[0]:.1f} to {most[0]:.1f} times slower than this one on."
    )


def _turning(
    splits: Sequence[Summary], anchors: Sequence[Summary], favourable: bool
) -> tuple[float, Summary] | None:
    """The smallest slowdown at which a split is ahead of every anchor, and that split."""
    for factor in np.geomspace(1.0, _SLOWEST, 400):
        split = min(splits, key=lambda s: _slowed(s, factor, low=favourable))
        split_ms = _slowed(split, factor, low=favourable)
        if all(split_ms < _slowed(a, factor, low=not favourable) for a in anchors):
            return float(factor), split
    return None


def _slowed(summary: Summary, factor: float, low: bool) -> float:
    own = sum(summary.stages_ms[stage]["p50"] for stage in _DEVICE_STAGES)
    middle = summary.total_ms["p50"]
    end = middle.low if low else middle.high
    return (middle.value if end is None else end) + (factor - 1) * own


def _fits(summary: Summary) -> bool:
    """Whether its answers are near enough to the uncut model's to be compared by time.

    By accuracy where there are labels, else by agreement, else by the outputs themselves. Where
    nothing is known, only what loses nothing takes part.
    """
    if summary.points_lost is not None:
        return summary.points_lost <= POINTS_ALLOWED
    if summary.agreement is not None:
        return 100 - summary.agreement.pct <= POINTS_ALLOWED
    if summary.rms_difference_pct is not None:
        return summary.rms_difference_pct <= RMS_ALLOWED_PCT
    return codec.is_lossless(summary.codec)


def _price(summary: Summary) -> str:
    """What a configuration loses, if anything, as a clause."""
    loss = summary.evaluation.loss if summary.evaluation else summary.loss
    if loss is None or (loss.became_wrong == 0 and loss.became_right == 0):
        return ""
    return f" and loses {loss.points:.1f} points of accuracy ({loss.low:.1f} to {loss.high:.1f})"


def _median(summary: Summary) -> float:
    return summary.total_ms["p50"].value


def _clearly_faster(one: Summary, other: Summary) -> bool:
    high, low = one.total_ms["p50"].high, other.total_ms["p50"].low
    return high is not None and low is not None and high < low


def _largest_gain(split: Summary, anchor: Summary) -> float | None:
    """What a split saves at the most, as a share, by the ends of the intervals that favour it."""
    low, high = split.total_ms["p50"].low, anchor.total_ms["p50"].high
    return None if low is None or high is None else 1 - low / high


def _called(summary: Summary) -> str:
    place = PLACES.get(summary.cut)
    if place is None:
        what = f"the cut at {summary.cut} coded {summary.codec}"
        return f"first layers only, {what}," if summary.is_anchor else what
    if summary.cut == PICTURE_CUT:
        return f"{place}, fed with {summary.codec}"
    return place


def _time(summary: Summary) -> str:
    return f"{_median(summary):.1f} ms"
