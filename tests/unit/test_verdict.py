"""Which configuration wins: clear wins, draws, and who may not take part."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from experiments.availability import Availability
from experiments.evaluation import Evaluation
from experiments.flow import Flow, Load
from experiments.run_facts import Setting
from experiments.setting import told_apart
from experiments.statistics import PairedLoss, paired_loss, share
from experiments.summary import STAGES, Summary
from experiments.verdict import decide, decide_by_link
from splitbed.graph import INPUT_CUT, OUTPUT_CUT
from splitbed.load import SHARES
from splitbed.percentile import Percentile
from splitbed.task import PICTURE_CUT, RESULT_CUT

FLOW = Flow(None, None, "head", 10.0, None, None, beyond_capacity=False)


def loss(points: float) -> PairedLoss:
    return PairedLoss(points, points - 1, points + 1, 0, 0)


def evaluation(points: float) -> Evaluation:
    half = share(5, 10)
    return Evaluation(10, 100.0, half, half, loss(points), half)


def summary(
    cut: str, ms: float, width_ms: float | None = 1.0, device_ms: float = 1.0, **fields: Any
) -> Summary:
    """A run with this median, its interval that wide either way, and this time on the device."""
    ends = (None, None) if width_ms is None else (ms - width_ms, ms + width_ms)
    stages = {stage: dict.fromkeys(SHARES, 0.0) for stage in STAGES}
    stages["head"] = dict.fromkeys(SHARES, device_ms)
    figures: dict[str, Any] = {
        "run_id": f"run of {cut}",
        "folder": "",
        "model": "net",
        "model_digest": "",
        "setting": Setting(1, 1, 0, "cpu"),
        "certified": None,
        "is_anchor": cut.startswith("@"),
        "cut": cut,
        "codec": "raw",
        "link": "slow",
        "link_kind": "relay",
        "replay": None,
        "outcome": "complete",
        "complete": True,
        "violations": (),
        "link_attempts": 1,
        "preparation": {},
        "frames_wanted": 10,
        "frames_ok": 10,
        "frames_late": 0,
        "frames_dropped": 0,
        "frames_failed": 0,
        "memory": 0,
        "load": Load("single"),
        "flow": FLOW,
        "availability": Availability(None, ()),
        "warmup_frames": 0,
        "total_ms": dict.fromkeys(SHARES, Percentile(ms, *ends)),
        "stages_ms": stages,
        "raw_bytes": 0,
        "payload_bytes": 0.0,
        "request_bytes": 0.0,
        "reply_bytes": 0.0,
        "head_bytes": 0,
        "head_fetch_ms": 0.0,
        "tail_bytes": 0,
        "rest_pct": 0.0,
        "arithmetic_ms": None,
        "transport_excess_ms": None,
        "accuracy": None,
        "anchor_accuracy": None,
        "loss": None,
        "agreement": None,
        "max_difference": None,
        "rms_difference_pct": None,
        "use": {},
        "evaluation": None,
    }
    return Summary(**(figures | fields))


# ------------------------------------------------------------------------------------------ winners


def test_split_wins_where_the_intervals_are_apart() -> None:
    found = decide([summary("relu3", 20), summary(PICTURE_CUT, 30), summary(RESULT_CUT, 40)])
    assert found.splitting_helps is True
    assert found.winner == "run of relu3"
    assert found.outlook == ""
    assert found.sentence == (
        "On slow splitting helps: the cut at relu3 coded raw wins with 20.0 ms end to end, against "
        "30.0 ms for the best anchor, all on the edge, fed with raw."
    )


@pytest.mark.parametrize(
    ("anchor", "words"),
    [
        (PICTURE_CUT, "all on the edge, fed with raw wins"),
        (INPUT_CUT, "all on the edge wins"),
        (RESULT_CUT, "all on the device wins"),
        (OUTPUT_CUT, "all on the device wins"),
    ],
)
def test_anchor_wins_where_the_intervals_are_apart(anchor: str, words: str) -> None:
    found = decide([summary("relu3", 40), summary("relu5", 50), summary(anchor, 20)])
    assert found.splitting_helps is False
    assert found.winner == f"run of {anchor}"
    assert found.sentence.startswith("On slow splitting does not help: ")
    assert words in found.sentence
    assert "the best split, the cut at relu3 coded raw, takes 40.0 ms" in found.sentence
    assert found.outlook


@pytest.mark.parametrize("width_ms", [4.0, None], ids=["overlap", "too few frames"])
@pytest.mark.parametrize(("split_ms", "anchor_ms"), [(20, 25), (25, 20)])
def test_nobody_wins_where_the_intervals_overlap(
    split_ms: float, anchor_ms: float, width_ms: float | None
) -> None:
    found = decide([summary("relu3", split_ms, width_ms), summary(RESULT_CUT, anchor_ms, width_ms)])
    assert found.splitting_helps is None
    assert found.winner == ("run of relu3" if split_ms < anchor_ms else f"run of {RESULT_CUT}")
    assert "cannot tell whether splitting helps" in found.sentence
    assert "measure more frames" in found.sentence


def test_a_split_that_can_hardly_be_faster_does_not_help() -> None:
    # At the most 19.8 against 20.4 ms: 2.9 %.
    found = decide([summary("relu3", 20, 0.2), summary(RESULT_CUT, 20.2, 0.2)])
    assert found.splitting_helps is False
    assert found.winner == "run of relu3"
    assert found.sentence == (
        "On slow splitting does not help: the cut at relu3 coded raw takes 20.0 ms and all on the "
        "device 20.2 ms end to end, which leaves the split at most 2.9 % faster."
    )
    assert decide([summary("r", 20, 0.6), summary(RESULT_CUT, 20.2, 0.6)]).splitting_helps is None


def test_one_interval_without_its_end_cannot_tell() -> None:
    assert decide([summary("relu3", 20, None), summary(RESULT_CUT, 90)]).splitting_helps is None
    assert decide([summary("relu3", 20), summary(RESULT_CUT, 90, None)]).splitting_helps is None


def test_intervals_that_touch_are_not_apart() -> None:
    assert decide([summary("r", 20, 5), summary(RESULT_CUT, 30, 5)]).splitting_helps is None
    assert decide([summary("r", 20, 5), summary(RESULT_CUT, 30, 4.9)]).splitting_helps is True


def test_order_of_the_runs_is_nothing() -> None:
    runs = [summary("relu3", 40), summary("relu5", 50), summary(RESULT_CUT, 20)]
    assert decide(runs) == decide(runs[::-1])


# ----------------------------------------------------------------------------------- who takes part


def test_a_run_that_did_not_keep_up_cannot_win() -> None:
    behind = msgspec.structs.replace(FLOW, beyond_capacity=True)
    fast = summary("fast", 10, flow=behind)
    assert decide([fast, summary("r", 20), summary(RESULT_CUT, 30)]).winner == "run of r"
    loaded = Setting(4, 1, 0, "cpu", "30 frames/s")
    found = decide([summary("a", 10, flow=behind, setting=loaded)])
    assert (found.winner, found.splitting_helps) == ("", None)
    assert found.sentence.startswith("On slow with 30 frames/s no configuration keeps up")


@pytest.mark.parametrize("where", ["loss", "evaluation"])
def test_split_that_loses_accuracy_cannot_win(where: str) -> None:
    def fast(points: float) -> Summary:
        lost: dict[str, Any] = {
            where: loss(points) if where == "loss" else evaluation(points),
        }
        return summary("fast", 10, **lost)

    others = [summary("exact", 20, loss=loss(0.0)), summary(RESULT_CUT, 30)]
    assert decide([fast(1.0), *others]).winner == "run of fast"
    assert decide([fast(1.1), *others]).winner == "run of exact"


def test_more_pictures_decide_over_fewer() -> None:
    fast = summary("fast", 10, loss=loss(5.0), evaluation=evaluation(0.2))
    assert decide([fast, summary(RESULT_CUT, 30)]).winner == "run of fast"
    fast = msgspec.structs.replace(fast, loss=loss(0.0), evaluation=evaluation(5.0))
    assert decide([fast, summary("exact", 20), summary(RESULT_CUT, 30)]).winner == "run of exact"


def test_incomplete_run_cannot_win() -> None:
    runs = [summary("fast", 10, complete=False), summary("r", 20), summary(RESULT_CUT, 30)]
    assert decide(runs).winner == "run of r"


def known(**figures: Any) -> dict[str, Any]:
    return figures


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (known(agreement=share(99, 100)), known(agreement=share(98, 100))),
        (known(rms_difference_pct=1.0), known(rms_difference_pct=1.1)),
        (known(codec="raw+zstd:3"), known(codec="quantize:4+zstd:3")),
        (known(codec="png"), known(codec="jpeg:90")),
        # What is known comes first: a lossy codec that loses nothing takes part.
        (known(codec="jpeg:90", agreement=share(9, 9)), known(codec="raw", agreement=share(8, 9))),
    ],
)
def test_without_labels_answers_must_be_the_uncut_models(
    good: dict[str, Any], bad: dict[str, Any]
) -> None:
    others = [summary("exact", 20), summary(RESULT_CUT, 30)]
    assert decide([summary("fast", 10, **good), *others]).winner == "run of fast"
    assert decide([summary("fast", 10, **bad), *others]).winner == "run of exact"


def test_a_winner_that_loses_something_says_so() -> None:
    lost = paired_loss([True] * 99 + [False], [True] * 98 + [False] * 2)
    words = decide([summary("r", 20, loss=lost), summary(RESULT_CUT, 30)]).sentence
    assert re.search(r"20\.0 ms end to end and loses 1\.0 points of accuracy \(-?\d", words)


def test_first_layers_only_is_an_anchor_where_it_was_called_one() -> None:
    found = decide([summary("stem", 20, is_anchor=True), summary("r", 30)])
    assert found.splitting_helps is False
    assert "first layers only, the cut at stem coded raw, wins" in found.sentence


def test_nothing_complete() -> None:
    found = decide([summary("fast", 10, complete=False)])
    assert (found.winner, found.splitting_helps) == ("", None)
    assert "No configuration was measured completely" in found.sentence


def test_nothing_keeps_its_accuracy() -> None:
    found = decide([summary("fast", 10, loss=loss(9.0)), summary("other", 20, loss=loss(8.0))])
    assert (found.winner, found.splitting_helps) == ("", None)
    assert "measured completely" not in found.sentence
    assert "accuracy" in found.sentence


def test_single_run_has_nothing_to_compare_with() -> None:
    found = decide([summary("relu3", 20)])
    assert (found.winner, found.splitting_helps) == ("run of relu3", None)
    assert "measure other cuts and the anchors" in found.sentence


@pytest.mark.parametrize(
    ("cuts", "missing"), [(("a", "b"), "anchor"), ((RESULT_CUT, PICTURE_CUT), "split")]
)
def test_only_splits_or_only_anchors(cuts: tuple[str, str], missing: str) -> None:
    found = decide([summary(cuts[0], 30), summary(cuts[1], 20)])
    assert (found.winner, found.splitting_helps) == (f"run of {cuts[1]}", None)
    assert f"there is no {missing} to compare it with" in found.sentence


# ------------------------------------------------------------------------------------------ outlook


def test_outlook_names_the_slowdowns_between_which_a_split_begins_to_win() -> None:
    # At factor f: split 30 + 5 (f - 1), device 20 + 15 (f - 1), each 1 ms more or less. The split
    # is ahead from f = 1.8 on by the ends that favour it, from 2.2 by those that do not.
    found = decide([summary("relu3", 30, 1, device_ms=5), summary(RESULT_CUT, 20, 1, device_ms=15)])
    assert found.outlook == (
        "By arithmetic from these frames, not by measurement: with the same edge and link, the cut "
        "at relu3 coded raw would win from a device 1.8 to 2.2 times slower than this one on."
    )


def test_outlook_looks_at_every_split_and_every_anchor() -> None:
    runs = [
        summary("early", 40, 0.01, device_ms=1),
        summary("late", 30, 0.01, device_ms=18),
        # `late` never overtakes it while `early` is behind: 10 ms behind, 2 ms a step.
        summary(RESULT_CUT, 20, 0.01, device_ms=20),
        summary(PICTURE_CUT, 90, 0.01, device_ms=0.5),
    ]
    # early overtakes the device from f - 1 = 20 / 19 on, and the edge is far behind until f = 101.
    assert "2.1 to 2.1 times slower" in decide(runs).outlook
    assert "the cut at early" in decide(runs).outlook


def test_outlook_that_only_begins_within_reach() -> None:
    found = decide([summary("r", 30, 2, device_ms=14.97), summary(RESULT_CUT, 20, 2, device_ms=15)])
    assert found.splitting_helps is False
    assert "would not gain" in found.outlook
    found = decide(
        [summary("r", 20, 0.2, device_ms=15), summary(RESULT_CUT, 20, 0.2, device_ms=15)]
    )
    assert "on a slower device" in found.outlook
    assert "these frames do not tell" in found.outlook
    found = decide([summary("r", 30, 3, device_ms=14.9), summary(RESULT_CUT, 20, 3, device_ms=15)])
    assert re.search(r"at least 4\d\.\d times slower .* before the cut at r", found.outlook)


def test_outlook_without_hope() -> None:
    found = decide([summary("relu3", 30, device_ms=15), summary(RESULT_CUT, 20, device_ms=15)])
    assert "up to 100 times slower" in found.outlook
    assert "would not gain" in found.outlook


def test_no_outlook_where_these_frames_cannot_tell() -> None:
    for split_ms, anchor_ms in ((20, 25), (25, 20)):
        found = decide([summary("relu3", split_ms, 9), summary(RESULT_CUT, anchor_ms, 9)])
        assert found.splitting_helps is None
        assert found.outlook == ""


# ------------------------------------------------------------------------------------------- groups


def test_one_verdict_for_each_link_and_model() -> None:
    runs = [
        summary("a", 20, link="slow"),
        summary("a", 20, link="fast"),
        summary(RESULT_CUT, 30, link="slow"),
        summary(RESULT_CUT, 10, link="fast"),
        summary("a", 5, link="fast", model="other"),
        summary("a", 5, link="fast", setting=Setting(8, 1, 0, "cpu")),
        summary("a", 5, link="fast", model_digest="a later file"),
        summary("a", 5, link="fast", setting=Setting(8, 1, 0, "cpu", "30 frames/s")),
    ]
    found = decide_by_link(runs)
    assert [verdict.splitting_helps for verdict in found] == [True, False, None, None, None, None]
    assert [verdict.sentence.split()[1] for verdict in found] == [
        "slow",
        *["fast"] * 5,
    ]
    assert "On fast for other the cut" in found[2].sentence
    assert "On fast for net with 8 frames in flight the cut" in found[3].sentence
    assert "On fast for net with 30 frames/s the cut" in found[5].sentence
    assert decide_by_link([]) == []


def test_verdicts_say_what_sets_their_runs_apart() -> None:
    alone = Setting(1, 1, 0, "cpu")
    weak = Setting(1, 1, 0, "cpu", cpus="0", cpu_quota=0.5)
    runs = [
        summary("a", 20, setting=alone),
        summary("a", 25, setting=weak),
        summary("a", 30, setting=Setting(4, 1, 0, "cpu", "offline")),
        summary("a", 15, setting=Setting(1, 2, 0, "cpu")),
    ]
    places = [verdict.sentence.partition(" the cut")[0] for verdict in decide_by_link(runs)]
    assert places == [
        "On slow with head on 1 thread",
        "On slow with the device on core 0 and 0.5 of a core, head on 1 thread",
        "On slow with all frames due at once, head on 1 thread",
        "On slow with head on 2 threads",
    ]
    found = told_apart(runs[:3])
    assert found == ["", "the device on core 0 and 0.5 of a core", "all frames due at once"]
    assert told_apart(runs[:1]) == [""]
    assert told_apart([]) == []


def test_windows_are_told_apart_in_open_loop() -> None:
    runs = [
        summary("a", 20, setting=Setting(window, 1, 0, "cpu", load))
        for window, load in ((2, "30 frames/s"), (4, "30 frames/s"), (8, ""))
    ]
    assert told_apart(runs) == [
        "30 frames/s, 2 in flight at most",
        "30 frames/s, 4 in flight at most",
        "8 frames in flight",
    ]
    assert told_apart(runs[1:]) == ["30 frames/s", "8 frames in flight"]
