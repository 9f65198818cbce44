"""Throughput, queue growth and what is beyond capacity, of made-up queues whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from experiments.flow import Flow, Load, flow, load_of, queue_growth
from experiments.frame_plot import given_up_ms
from experiments.report import write_report
from experiments.summary import summarise
from splitbed.record import FrameRecord, RunManifest
from splitbed.run_folder import read_manifest, write_manifest
from tests.unit import queues
from tests.unit.test_summary import CERTIFICATE, MANIFEST, MS, THREE, failed, summed

EVENLY = Load("rate", 80.0, 4)
POISSON = Load("poisson", 80.0, 4)


def of(load: Load, count: int, rate_fps: float, **how: Any) -> Flow:
    return flow(queues.rows(count, rate_fps, **how), load, CERTIFICATE)


# --------------------------------------------------------------------------------------- throughput


def test_answers_a_second_below_capacity_are_those_that_were_due() -> None:
    found = of(EVENLY, 800, 80)
    assert found.answered_fps is not None
    assert found.answered_fps.value == pytest.approx(80, rel=0.01)
    assert found.offered_fps == pytest.approx(80, rel=1e-6)
    assert (found.busiest, found.beyond_capacity) == ("head", False)
    assert found.busiest_pct == pytest.approx(80, abs=2)


def test_answers_a_second_beyond_capacity_are_those_that_it_can() -> None:
    found = of(EVENLY, 800, 125)
    assert found.answered_fps is not None
    assert found.answered_fps.low is not None
    assert found.answered_fps.high is not None
    assert found.answered_fps.low < 100 < found.answered_fps.high
    assert found.answered_fps.high - found.answered_fps.low < 4
    assert found.offered_fps == pytest.approx(125, rel=1e-6)
    assert found.busiest_pct == pytest.approx(100, abs=2)


def test_the_uplink_can_be_busiest() -> None:
    """100 kB at 8 Mbit/s take 100 ms of the certified link."""
    rows = [queues.replaced(row, request_bytes=100_000) for row in queues.rows(100, 8)]
    found = flow(rows, EVENLY, CERTIFICATE)
    assert found.busiest == "uplink"
    assert found.busiest_pct == pytest.approx(80, rel=0.02)
    assert flow(rows, EVENLY, None).busiest == "head"  # a traced link has no one rate


def test_one_frame_has_no_throughput() -> None:
    assert flow(queues.rows(1, 8), EVENLY, CERTIFICATE).answered_fps is None


def test_a_batch_runs_once_for_its_frames() -> None:
    rows = [
        queues.replaced(row, edge_tail_ns=40 * MS, edge_batch=8) for row in queues.rows(100, 80)
    ]
    assert flow(rows, EVENLY, None).busiest == "head"


# --------------------------------------------------------------------------------------- the queue


def test_a_queue_beyond_capacity_grows_by_what_it_is_beyond() -> None:
    found = of(EVENLY, 800, 120).growth_ms_per_s
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    # A second brings 120 frames of 10 ms: 200 ms more than it has.
    assert found.low < 200 < found.high
    assert found.high - found.low < 40


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("rate_fps", [50, 80, 95])
def test_a_queue_that_keeps_up_is_seldom_said_to_grow(rate_fps: float, poisson: bool) -> None:
    """Near its limit a queue climbs for a while by itself, as a random walk does."""
    load = POISSON if poisson else EVENLY
    found = [of(load, 300, rate_fps, poisson=poisson, seed=seed) for seed in range(20)]
    assert sum(one.beyond_capacity for one in found) <= 1


def test_one_stall_is_no_growth() -> None:
    for at_s in (1.0, 3.0, 6.5):
        assert not of(EVENLY, 600, 80, stall_s=(at_s, 1.0)).beyond_capacity


def test_too_short_a_run_says_nothing_of_growth() -> None:
    assert of(EVENLY, 59, 120).growth_ms_per_s is None
    assert of(EVENLY, 60, 120).growth_ms_per_s is not None
    assert queue_growth([(5, 0)] * 100) is None  # all due at once


def test_what_drops_keeps_its_queue_short_and_is_beyond_all_the_same() -> None:
    found = of(EVENLY, 600, 120, deadline_ms=60, drop=True)
    assert found.growth_ms_per_s is not None
    assert found.growth_ms_per_s.value < 15
    assert found.dropped is not None
    assert found.dropped.pct == pytest.approx(100 * 20 / 120, abs=2.5)
    assert found.beyond_capacity
    # Dropping in one stall is something else.
    stalled = of(EVENLY, 600, 80, deadline_ms=60, drop=True, stall_s=(3.0, 1.0))
    assert stalled.dropped is not None
    assert stalled.dropped.pct > 10
    assert not stalled.beyond_capacity


@pytest.mark.parametrize("kind", ["single", "closed", "offline"])
def test_only_open_loop_has_a_queue(kind: str) -> None:
    found = of(Load(kind, window=8), 200, 120)
    assert found.growth_ms_per_s is None
    assert found.offered_fps is None
    assert found.dropped is None
    assert not found.beyond_capacity


def test_failed_frames_are_no_answers() -> None:
    rows = [
        failed(row.frame_id, intended_ns=row.intended_ns) if row.frame_id % 2 else row
        for row in queues.rows(400, 80)
    ]
    found = flow(rows, EVENLY, CERTIFICATE)
    assert found.answered_fps is not None
    assert found.answered_fps.value == pytest.approx(40, rel=0.01)
    assert found.offered_fps == pytest.approx(80, rel=1e-6)


# ----------------------------------------------------------------------------------- runs and loads


def test_older_runs_have_a_load_by_their_window(tmp_path: Path) -> None:
    assert load_of(MANIFEST) == Load("single", None, 1)
    eight = msgspec.structs.replace(MANIFEST, config=MANIFEST.config | {"window": 8})
    assert load_of(eight) == Load("closed", None, 8)
    # A manifest on disk that knows nothing of loads.
    assert b'"load"' not in msgspec.json.encode(MANIFEST)
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path).load is None
    found = summed(tmp_path / "old", THREE)
    assert found.load == Load("single")
    assert found.arithmetic_ms is not None
    assert found.complete


def test_a_load_of_later_versions_is_read_as_far_as_it_is_known() -> None:
    told = {"kind": "rate", "rate_fps": 30.0, "window": 4, "deadline_ms": None, "burst": 3}
    manifest = msgspec.structs.replace(MANIFEST, load=told)
    assert load_of(manifest) == Load("rate", 30.0, 4)


def test_open_loop_has_no_arithmetic_and_is_a_setting_of_its_own(tmp_path: Path) -> None:
    rows = queues.rows(100, 80)
    loads: dict[str, dict[str, Any]] = {
        "rate": {},
        "poisson": {"kind": "poisson"},
        "other rate": {"rate_fps": 40.0},
        "dropped": {"deadline_ms": 100.0, "late": "drop"},
        "closed": {"kind": "closed", "rate_fps": None},
    }
    runs = {n: summarise(queues.run(tmp_path / n, rows, **load)) for n, load in loads.items()}
    assert len({run.setting for run in runs.values()}) == len(runs)
    kept = summarise(queues.run(tmp_path / "kept", rows, deadline_ms=100.0, late="keep"))
    assert kept.setting == runs["rate"].setting  # what is kept changes no latency
    for run in runs.values():
        assert run.arithmetic_ms is None
        assert run.transport_excess_ms is not None


def test_a_run_with_dropped_frames_is_complete_where_dropping_was_asked_for(tmp_path: Path) -> None:
    rows = queues.rows(600, 80, deadline_ms=60, drop=True, stall_s=(3.0, 1.0))
    found = summarise(queues.run(tmp_path / "a", rows, deadline_ms=60.0, late="drop"))
    assert found.frames_dropped > 50
    assert found.frames_answered + found.frames_dropped == 600
    assert found.complete
    assert not summarise(queues.run(tmp_path / "b", rows)).complete


def test_rows_are_taken_in_the_order_in_which_frames_were_due(tmp_path: Path) -> None:
    """A dropped frame has its row before those in flight have theirs."""
    rows = queues.rows(300, 120)
    shuffled = list(np.random.default_rng(0).permutation(np.arange(300)))
    mixed: list[FrameRecord] = [rows[at] for at in shuffled]
    in_order, found = (
        summarise(queues.run(tmp_path / name, frames))
        for name, frames in (("a", rows), ("b", mixed))
    )
    assert found.flow == in_order.flow
    assert found.total_ms == in_order.total_ms
    assert found.memory == in_order.memory > 0


def test_the_report_marks_what_is_beyond_capacity_and_draws_frames(tmp_path: Path) -> None:
    folders = [
        queues.run(tmp_path / "keeps up", queues.rows(120, 80)),
        queues.run(tmp_path / "not", queues.rows(300, 120), rate_fps=120.0),
    ]
    page = tmp_path / "report.html"
    write_report([summarise(folder) for folder in folders], page)
    text = page.read_text()
    assert text.count("the load was beyond capacity. Its latencies") == 1
    assert "(beyond capacity), 120 frames/s" in text
    # Bars of what keeps up and of what does not, and two pictures of each run.
    assert text.count("<svg") == 2 + 2 * 2
    assert text.count("queue as long as the run lasts") == 1
    assert text.count('<br><span class="quiet">120 frames/s</span>') == 3
    assert 'class="winner"' not in text  # alone under its load, a run wins against nobody
    assert "video recognition" in text


def test_a_dropped_frame_is_drawn_where_it_was_given_up() -> None:
    row = queues.replaced(
        queues.rows(1, 80)[0],
        **dict.fromkeys(("preprocess_ns", "head_ns", "encode_ns", "queue_ns"), 2_000_000),
        wait_ns=50_000_000, window_ns=500_000, rtt_ns=0, status="dropped",
    )  # fmt: skip
    assert given_up_ms(row) == 58.5


def test_the_manifest_keeps_a_load() -> None:
    manifest = msgspec.structs.replace(MANIFEST, load={"kind": "rate"})
    again = msgspec.json.decode(msgspec.json.encode(manifest), type=RunManifest)
    assert again.load == {"kind": "rate"}
