"""Schedules against summing up by hand, and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem.schedule import FREE_BPS, Schedule
from netem.trace_steps import Pieces
from splitbed.link import PAYLOAD_SHARE, Change, Direction

MS = 1_000_000
RATES = st.one_of(st.just(0), st.integers(0, 10_000), st.integers(0, 10**9))


@st.composite
def courses(draw: st.DrawFn) -> tuple[Pieces, int]:
    """Steps of whole milliseconds and their whole duration."""
    count = draw(st.integers(1, 6))
    spans = [draw(st.integers(1, 500)) * MS for _ in range(count)]
    pieces = tuple((sum(spans[:i]), Change(draw(RATES))) for i in range(count))
    return pieces, sum(spans)


def by_hand(pieces: Pieces, period_ns: int, at_ns: int) -> float:
    """Bytes by an instant, one millisecond after the other."""
    total = 0.0
    for begin_ns in range(0, at_ns, MS):
        within_ns = begin_ns % period_ns
        change = [change for start_ns, change in pieces if start_ns <= within_ns][-1]
        total += (change.rate_bps or 0) * PAYLOAD_SHARE / 8e9 * min(MS, at_ns - begin_ns)
    return total


@given(courses(), st.integers(0, 3000 * MS))
def test_bytes_by_an_instant(course: tuple[Pieces, int], at_ns: int) -> None:
    pieces, period_ns = course
    found = Schedule(Direction(), pieces, period_ns).carried_bytes(at_ns)
    assert found == pytest.approx(by_hand(pieces, period_ns, at_ns), rel=1e-9, abs=1e-6)


@given(courses(), st.floats(0.01, 1e7))
def test_the_instant_is_the_earliest_with_so_many_bytes(
    course: tuple[Pieces, int], size: float
) -> None:
    schedule = Schedule(Direction(), *course)
    at_ns = schedule.instant_ns(size)
    if all(change.rate_bps == 0 for _, change in course[0]):
        assert at_ns == math.inf
        return
    assert schedule.carried_bytes(at_ns) == pytest.approx(size, rel=1e-6, abs=2e-3)
    # A nanosecond of the fastest rate is an eighth of a byte.
    assert schedule.carried_bytes(max(0, at_ns - 10)) <= size + 1e-3
    before = schedule.carried_bytes(max(0.0, at_ns - 0.01 * MS))
    assert before < size or at_ns == 0


def test_a_chunk_that_ends_where_a_gap_begins_leaves_before_it() -> None:
    pieces = ((0, Change(8_000_000)), (100 * MS, Change(0)), (200 * MS, Change(8_000_000)))
    schedule = Schedule(Direction(), pieces, 300 * MS)
    whole = 100_000 * PAYLOAD_SHARE
    assert schedule.instant_ns(whole) == pytest.approx(100 * MS)
    assert schedule.instant_ns(whole + 1) == pytest.approx(200 * MS, abs=2000)
    assert schedule.instant_ns(2 * whole) == pytest.approx(300 * MS)
    # It begins anew where it ends.
    assert schedule.instant_ns(3 * whole) == pytest.approx(400 * MS)
    assert schedule.instant_ns(0) == 0


def test_what_a_trace_leaves_to_the_profile() -> None:
    pieces = ((0, Change()), (10 * MS, Change(rate_bps=0, delay_ns=7)), (20 * MS, Change()))
    schedule = Schedule(Direction(8_000_000, delay_ns=3), pieces, 30 * MS)
    assert schedule.carried_bytes(30 * MS) == pytest.approx(20_000 * PAYLOAD_SHARE)
    assert [schedule.delay_ns(at * MS) for at in (0, 9.9, 10, 19.9, 20, 40)] == [3, 3, 7, 7, 3, 7]
    assert schedule.peak_bps == pytest.approx(8e6 * PAYLOAD_SHARE)


def test_a_rate_that_is_left_alone() -> None:
    assert Schedule(Direction()).peak_bps is None
    pieces = ((0, Change(1000)), (10 * MS, Change()))
    schedule = Schedule(Direction(), pieces, 20 * MS)
    assert schedule.peak_bps is None
    assert schedule.carried_bytes(20 * MS) == pytest.approx(
        FREE_BPS / 8 * 0.01 * PAYLOAD_SHARE, rel=1e-3
    )


@given(st.integers(1000, 10**10), st.floats(0, 1e13))
def test_a_steady_rate(rate_bps: int, at_ns: float) -> None:
    schedule = Schedule(Direction(rate_bps))
    wanted = at_ns * rate_bps * PAYLOAD_SHARE / 8e9
    assert schedule.carried_bytes(at_ns) == pytest.approx(wanted)
    assert schedule.instant_ns(wanted) == pytest.approx(at_ns, abs=0.01 * MS)
