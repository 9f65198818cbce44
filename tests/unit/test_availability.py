"""Frames in time: deadlines, budgets, and what a bound of two clocks leaves open."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.availability import availability, frames_needed, in_time
from experiments.flow import Load
from experiments.frame_plot import cumulative, is_worth_drawing, timeline
from experiments.load_table import target_text, verdict_text
from experiments.summary import summarise
from experiments.table import print_comparison, print_run
from splitbed.record import FrameRecord
from tests.unit import queues
from tests.unit.test_summary import MS, THREE, failed, frame, written


def took(*times_ms: float) -> list[tuple[float, float]]:
    return [(ms * MS, ms * MS) for ms in times_ms]


# --------------------------------------------------------------------------------- what frames show


def test_the_rule_of_three() -> None:
    found = in_time(took(*[5] * 12), 33, 99.999)
    assert (found.in_time, found.missed, found.stretches) == (12, 0, 0)
    assert found.at_least_pct == pytest.approx(77.9, abs=0.05)
    assert (found.at_most_pct, found.verdict, found.is_shown) == (100, "met", False)
    assert frames_needed(99.999) == 299_572
    assert frames_needed(99.9) == 2_995
    assert target_text(found) == "at least 77.9 %; 99.999 % takes 299,572 frames without a miss"


def test_a_target_is_shown_by_so_many_frames_and_not_by_one_fewer() -> None:
    assert in_time(took(*[5] * 2995), 33, 99.9).is_shown
    assert not in_time(took(*[5] * 2994), 33, 99.9).is_shown


def test_one_miss_in_ten_thousand_cannot_tell() -> None:
    """At 99.999 % chance alone does as much in every tenth such run."""
    one = in_time(took(40, *[5] * 9_999), 33, 99.999)
    assert (one.verdict, one.missed) == ("cannot tell", 1)
    assert in_time(took(40, *[5] * 999), 33, 99.999).verdict == "missed"


def test_bounds_of_independent_misses_are_the_exact_ones() -> None:
    apart = [40 if number % 50 == 25 else 5 for number in range(1000)]
    found = in_time(took(*apart), 33, 99.0)
    assert (found.missed, found.stretches, found.verdict) == (20, 20, "missed")
    assert (found.at_least_pct, found.at_most_pct) == pytest.approx((97.11, 98.67), abs=0.01)


def test_misses_of_one_stall_say_less_than_as_many_apart() -> None:
    apart = [40 if number % 50 == 25 else 5 for number in range(1000)]
    together = sorted(apart, reverse=True)
    one, many = in_time(took(*together), 33, 99.0), in_time(took(*apart), 33, 99.0)
    assert (one.in_time, one.stretches) == (many.in_time, 1)
    assert one.at_least_pct < many.at_least_pct - 2
    assert one.at_most_pct > many.at_most_pct
    assert one.verdict == "cannot tell"


def test_all_missed() -> None:
    found = in_time(took(*[40] * 20), 33, 99.999)
    assert (found.in_time, found.at_least_pct, found.verdict) == (0, 0, "missed")
    assert found.at_most_pct == pytest.approx(100 * (1 - 0.05 ** (1 / 20)))


# ------------------------------------------------------------------------------------------ budgets


def uploaded(**fields: Any) -> list[str]:
    """The verdicts on uploads of 4000 frames: within 100, 10 and 2 ms."""
    row = frame(1, rtt_ns=60 * MS, edge_ns=30 * MS, **fields)
    return [b.uploaded.verdict for b in availability([row] * 4000, Load("single")).budgets]


def test_without_a_common_clock_both_ways_bound_the_one() -> None:
    assert uploaded() == ["met", "cannot tell", "cannot tell"]


def test_the_bound_of_a_one_way_time_decides_what_can_be_told() -> None:
    assert uploaded(uplink_ns=8 * MS, uplink_error_ns=1 * MS) == ["met", "met", "missed"]
    assert uploaded(uplink_ns=8 * MS, uplink_error_ns=3 * MS) == ["met", "cannot tell", "missed"]
    assert uploaded(uplink_ns=12 * MS, uplink_error_ns=1 * MS) == ["met", "missed", "missed"]
    assert uploaded(uplink_ns=1 * MS, uplink_error_ns=2 * MS)[2] == "cannot tell"


def test_a_bound_that_is_large_still_tells() -> None:
    row = frame(1, rtt_ns=25 * MS, edge_ns=0)
    for way, verdict in (((5 * MS, 3 * MS), "met"), ((11 * MS, 3 * MS), "cannot tell")):
        budgets = availability([row] * 4000, Load("single"), {row.frame_id: way}).budgets
        assert budgets[1].uploaded.verdict == verdict
    # It counts for more than what the row was given at its time.
    early = frame(1, rtt_ns=25 * MS, edge_ns=0, uplink_ns=12 * MS, uplink_error_ns=MS)
    budgets = availability([early] * 4000, Load("single"), {1: (5 * MS, 3 * MS)}).budgets
    assert budgets[1].uploaded.verdict == "met"


def test_what_was_never_sent_never_arrived_and_what_failed_may_have() -> None:
    dropped = frame(2, status="dropped", rtt_ns=0)
    gone = failed(3)
    (one_shot, *_) = availability([frame(1), dropped, gone], Load("single")).budgets
    assert (one_shot.uploaded.in_time, one_shot.uploaded.missed) == (1, 1)
    assert (one_shot.answered.in_time, one_shot.answered.missed) == (1, 2)
    assert "33.3..66.6 %" in verdict_text(one_shot.uploaded)


def test_budgets_are_those_of_the_table() -> None:
    budgets = availability([frame(1)], Load("single")).budgets
    found = [(b.answered.budget_ms, b.uploaded.budget_ms) for b in budgets]
    assert found == [(1000, 100), (33, 10), (5, 2)]
    assert {b.answered.target_pct for b in budgets} == {99.999}
    assert {b.uploaded.target_pct for b in budgets} == {99.9}
    assert availability([frame(1)], Load("single")).deadline is None


def test_a_deadline_counts_every_frame_that_was_due() -> None:
    rows = [*THREE, frame(4, status="late", total_ns=900 * MS), frame(5, status="dropped")]
    found = availability([*rows, failed(6)], Load("rate", 10.0, deadline_ms=200.0)).deadline
    assert found is not None
    assert (found.frames, found.in_time, found.missed) == (6, 3, 3)


def test_frames_that_are_due_all_at_once_have_no_budget() -> None:
    found = availability(THREE, Load("offline", deadline_ms=5.0))
    assert (found.deadline, found.budgets) == (None, ())


# ------------------------------------------------------------------------------ tables and pictures


def printed(folder: Path) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_run(summarise(folder), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


LOADS: dict[str, tuple[list[FrameRecord], dict[str, Any]]] = {
    "evenly": (queues.rows(600, 80), {"stopped_by": "until"}),
    "stalled": (
        queues.rows(3000, 80, poisson=True, deadline_ms=60, stall_s=(6, 2)),
        {"kind": "poisson", "deadline_ms": 60.0, "late": "keep"},
    ),
    "beyond": (queues.rows(600, 120), {"rate_fps": 120.0}),
    "dropping": (
        queues.rows(600, 120, deadline_ms=60, drop=True),
        {"rate_fps": 120.0, "deadline_ms": 60.0, "late": "drop"},
    ),
    "few": (queues.rows(12, 80), {"deadline_ms": 60.0, "late": "keep"}),
    "offline": (queues.rows(100, 1e6), {"kind": "offline", "rate_fps": None}),
}


@pytest.mark.parametrize("name", LOADS)
def test_a_run_fits_80_columns_line_by_line(name: str, tmp_path: Path) -> None:
    rows, load = LOADS[name]
    text = printed(queues.run(tmp_path, rows, **load))
    names = ("load", "throughput", "queue", "in time", "availability", "dependence", "ended")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    for line, after in pairwise(lines):
        if line.startswith(names):  # none of them had to be broken
            assert after[:16].strip()
            assert after[16] == " " or after.startswith("TR")


def test_a_queue_in_words(tmp_path: Path) -> None:
    texts = {n: printed(queues.run(tmp_path / n, r, **load)) for n, (r, load) in LOADS.items()}
    assert "no growth seen; at most" in texts["evenly"]
    assert "20 % beyond capacity" in texts["beyond"]
    assert "dropped, all along: beyond capacity" in texts["dropping"]
    assert "too few frames to say whether it grows" in texts["few"]
    assert "queue" not in texts["offline"]
    assert "12 of 12 within 60 ms; 0 late, 0 dropped" in texts["few"]
    assert "TR 22.874" not in texts["offline"]


def test_the_comparison_marks_what_is_beyond_capacity(tmp_path: Path) -> None:
    found = [
        summarise(queues.run(tmp_path / name, *LOADS[name][:1], **LOADS[name][1]))
        for name in ("evenly", "beyond")
    ]
    console = Console(file=io.StringIO(), width=80)
    print_comparison(found, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "capacity)" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_run_of_before_is_printed_as_well(tmp_path: Path) -> None:
    text = printed(written(tmp_path, THREE))
    assert re.search(r"95 % to +- +- +- +- +-", text)
    assert "frames/s" not in text
    assert "/s answered" in text


def test_pictures_of_frames() -> None:
    load = Load("poisson", 80.0, 4, 60.0, "drop")
    rows = queues.rows(300, 80, poisson=True, deadline_ms=60, drop=True, stall_s=(1, 1))
    rows[5] = failed(5, intended_ns=rows[5].intended_ns)
    assert is_worth_drawing(load)
    assert is_worth_drawing(Load("single", deadline_ms=60.0))
    assert not is_worth_drawing(Load("closed", window=8))
    text = timeline(rows, load)
    for words in ("dropped (", "failed (1)", "answered late", "wait until begun"):
        assert words in text
    assert "without an answer" in cumulative(rows, load)
    assert "within 60 ms" in cumulative(rows, load)


def test_pictures_of_many_frames_stay_small() -> None:
    rows = queues.rows(20_000, 80, poisson=True)
    load = Load("poisson", 80.0)
    assert len(timeline(rows, load)) < 400_000
    assert len(cumulative(rows, load)) < 200_000
