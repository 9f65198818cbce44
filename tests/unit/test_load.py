"""When frames are due, and when a run has seen enough: arithmetic, without time."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_node.arrivals import due_times
from device_node.options import DeviceOptions
from device_node.stopping import Stopping
from splitbed.errors import UsageError
from splitbed.latency import is_known
from splitbed.load import LONGEST_S, LoadPlan, Target, plan_load
from splitbed.percentile import interval_ranks

S = 1_000_000_000
RATES = st.floats(0.01, 100_000)


def asked(**given: Any) -> DeviceOptions:
    return DeviceOptions(edge="e:1", model="m", cut="c", **given)


# --- what a person asks for ---------------------------------------------------------------------


def test_what_is_asked_for_by_default() -> None:
    plan = plan_load(asked(), 10)
    assert (plan.kind, plan.is_open, plan.is_serial, plan.frames) == ("single", False, True, 10)
    plan = plan_load(asked(window=8), 10)
    assert (plan.kind, plan.is_open, plan.is_serial) == ("closed", False, False)
    assert plan_load(asked(load="closed"), 1).is_serial
    plan = plan_load(asked(load="rate:12.5", deadline_ms=40.0, late="drop"), 1)
    assert (plan.kind, plan.rate_fps, plan.deadline_ns, plan.drop) == ("rate", 12.5, 40e6, True)
    assert plan.is_open
    assert not plan.is_serial
    plan = plan_load(asked(until="p99.9:2.5%", load="poisson:30", seed=3), 1)
    assert (plan.until, plan.max_s, plan.seed) == (Target(0.999, 0.025), LONGEST_S, 3)
    assert plan_load(asked(until="p50:10%", max_s=9.0), 1).max_s == 9
    assert plan_load(asked(load="offline", window=2), 1).is_open


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"load": "single", "window": 8}, "--load single has one frame in flight"),
        ({"load": "fast"}, "choose from single, closed, rate:FPS, poisson:FPS and offline"),
        ({"load": "closed:8"}, "closed takes nothing after a colon"),
        ({"load": "rate"}, "give frames a second after a colon, as in rate:30"),
        ({"load": "rate:0"}, "give frames a second"),
        ({"load": "poisson:-1"}, "as in poisson:30"),
        ({"load": "rate:nan"}, "give frames a second"),
        ({"load": "rate:1e9"}, "up to 100,000"),
        ({"late": "keep"}, "say when they are late with --deadline-ms"),
        ({"load": "offline", "deadline_ms": 5.0}, "--deadline-ms has no meaning there"),
        ({"load": "offline", "min_s": 5.0}, "--min-s has no meaning there"),
        ({"load": "offline", "until": "p50:5%"}, "--until has no meaning there"),
        ({"load": "offline", "max_s": 5.0}, "--max-s has no meaning there"),
        ({"max_frames": 20}, "bounds a run that goes on for --min-s or --until"),
        ({"max_frames": 9, "min_s": 1.0}, "less than the 10 frames"),
        ({"max_s": 1.0, "min_s": 2.0}, "ends a run before its --min-s 2"),
        ({"until": "p99"}, "write a percentile and how near"),
        ({"until": "p98:5%"}, "percentiles are p50, p90, p95, p99, p99.9"),
        ({"until": "p99:0%"}, "0.1 to 100 % is near"),
        ({"until": "p99:nan%"}, "0.1 to 100 % is near"),
    ],
)
def test_contradictions(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        plan_load(asked(**given), 10)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


# --- schedules ------------------------------------------------------------------------------------


@given(RATES, st.integers(0, 2000))
def test_a_fixed_rate_does_not_drift(rate: float, number: int) -> None:
    few = list(itertools.islice(due_times(LoadPlan("rate", rate)), number + 1))
    assert few[0] == 0
    assert few == sorted(few)
    # Far into the run, too, a frame is due where its number says.
    assert abs(few[-1] - number * S / rate) <= 1 + few[-1] * 1e-12


@given(RATES, st.integers(0, 2**63))
@settings(max_examples=40)
def test_poisson_arrivals_are_in_order_and_the_seed_s(rate: float, seed: int) -> None:
    plan = LoadPlan("poisson", rate, seed)
    few = list(itertools.islice(due_times(plan), 100))
    assert few == sorted(few)
    assert few[0] >= 0
    assert few == list(itertools.islice(due_times(plan), 100))
    assert few != list(itertools.islice(due_times(LoadPlan("poisson", rate, seed + 1)), 100))


@pytest.mark.parametrize("rate", [3.0, 250.0])
def test_poisson_arrivals_are_exponential(rate: float) -> None:
    few = list(itertools.islice(due_times(LoadPlan("poisson", rate, 7)), 20_000))
    gaps = np.diff(few) * rate / S
    assert statistics.fmean(gaps) == pytest.approx(1, abs=0.03)
    assert float(np.std(gaps)) == pytest.approx(1, abs=0.05)
    assert float(np.median(gaps)) == pytest.approx(np.log(2), abs=0.03)
    # Independent of the gap before.
    assert abs(float(np.corrcoef(gaps[1:], gaps[:-1])[0, 1])) < 0.03


def test_other_schedules() -> None:
    assert list(itertools.islice(due_times(LoadPlan("offline")), 3)) == [0, 0, 0]
    for kind in ("single", "closed"):
        with pytest.raises(ValueError, match="has no schedule"):
            due_times(LoadPlan(kind))


# --- when it has seen enough ------------------------------------------------------------------


def test_a_fixed_number_of_frames() -> None:
    stopping = Stopping(LoadPlan(frames=5))
    assert [stopping.ends(n, n * S) for n in range(6)] == [False] * 5 + [True]
    assert stopping.stopped_by == "frames"


def test_frames_and_seconds_at_least() -> None:
    stopping = Stopping(LoadPlan(frames=5, min_s=3.0))
    assert not stopping.ends(4, 10 * S)
    assert not stopping.ends(100, 3 * S - 1)
    assert stopping.ends(5, 3 * S)
    assert stopping.stopped_by == "min-s"


@pytest.mark.parametrize(
    ("begun", "at_s", "by"), [(50, 1, "max-frames"), (10, 60, "max-s"), (49, 59, None)]
)
def test_a_run_always_ends(begun: int, at_s: int, by: str | None) -> None:
    plan = LoadPlan(frames=5, until=Target(0.99, 0.01), max_frames=50, max_s=60.0)
    stopping = Stopping(plan)
    assert stopping.ends(begun, at_s * S) is (by is not None)
    assert stopping.stopped_by == (by or "running")


def test_until_a_percentile_is_known() -> None:
    stopping = Stopping(LoadPlan(frames=5, until=Target(0.5, 0.05), max_frames=10_000))
    chance, seen, now_ns = np.random.default_rng(0), 0, 0
    while not stopping.ends(seen, now_ns):
        stopping.saw(float(chance.normal(20, 2)))
        seen += 1
        now_ns += S // 50
        stopping.look(now_ns)
    assert stopping.stopped_by == "until"
    assert 32 <= seen < 400
    # Frames of an open loop that were due before that are begun all the same.
    assert not stopping.ends(seen, now_ns - S)


def test_frames_without_an_answer_make_nothing_known() -> None:
    stopping = Stopping(LoadPlan(until=Target(0.5, 0.2), max_frames=10**6))
    for _ in range(200):
        stopping.saw(None)
    stopping.look(S)
    assert not stopping.ends(200, S)
    for _ in range(200):
        stopping.saw(5.0)
    stopping.look(2 * S)
    assert stopping.ends(400, 2 * S)


@given(st.lists(st.floats(0.1, 1e3), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
@settings(max_examples=60)
def test_a_narrow_interval_is_within_its_width(totals: list[float], share: float) -> None:
    sample = np.array(totals)
    within = 0.1
    if not is_known(sample, Target(share, within)):
        return
    lower, upper = interval_ranks(len(sample), share)
    ordered = np.sort(sample)
    assert ordered[upper - 1] - ordered[lower - 1] <= 2 * within * ordered[upper - 1]


def test_frames_that_waited_together_are_fewer_than_they_seem() -> None:
    """One stretch of slow frames is one event, however many frames it holds."""
    chance = np.random.default_rng(0)
    apart = np.where(chance.random(2000) < 0.3, 30, 10) + chance.normal(0, 1, 2000)
    together = np.sort(apart)
    target = Target(0.5, 0.1)
    assert is_known(apart, target)
    assert not is_known(together, target)


def test_a_narrow_interval_holds_the_truth() -> None:
    """The rule looks again and again, which may only cost it a little of its 95 %."""
    held = 0
    for seed in range(100):
        chance = np.random.default_rng(seed)
        stopping = Stopping(LoadPlan(until=Target(0.5, 0.05), max_frames=10**6))
        totals: list[float] = []
        while not stopping.ends(len(totals) or 1, S) or not totals:
            totals.append(float(chance.exponential(10)) + 10)
            stopping.saw(totals[-1])
            stopping.look(S)
        lower, upper = interval_ranks(len(totals), 0.5)
        ordered, truth = sorted(totals), 10 + 10 * float(np.log(2))
        held += ordered[lower - 1] <= truth <= ordered[upper - 1]
    assert held >= 85
