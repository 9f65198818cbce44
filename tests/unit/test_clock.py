"""Two clocks: whatever link and clocks do within the model, the truth lies inside the bound."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbed.clock import (
    BOUND_SHARE,
    ClockHistory,
    ClockOffset,
    ClockTrack,
    LeastDelays,
    OffsetAt,
    OneWays,
    is_possible,
    offset_of,
    one_ways,
    own_instant,
)
from splitbed.clock_model import MOST_RATE, WANDER
from splitbed.session import ClockExchange
from tests.unit.clocks import Clock

MS, S = 1_000_000, 1_000_000_000
durations = st.integers(0, 10**10)
offsets = st.integers(-(10**15), 10**15)


def exchange(
    there_ns: int, back_ns: int, offset_ns: int, start_ns: int = 0, work_ns: int = 0
) -> ClockExchange:
    """What two clocks show of one exchange: `peer clock = own clock + offset_ns`."""
    received = start_ns + there_ns
    answered = received + work_ns
    return ClockExchange(
        sent_ns=start_ns,
        peer_received_ns=received + offset_ns,
        peer_sent_ns=answered + offset_ns,
        received_ns=answered + back_ns,
    )


class Link:
    """Fixed delays, by a fast clock of its own; queues are usually short, and sometimes not."""

    def __init__(self, least: LeastDelays, queued_ns: int, seed: int) -> None:
        self.least, self._queued_ns, self._random = least, queued_ns, random.Random(seed)

    def _queue_ns(self) -> int:
        return int(self._queued_ns * self._random.expovariate(1) ** 3)

    def exchange(self, clock: Clock, start_ns: int, work_ns: int = 0) -> ClockExchange:
        """One over this link, from the own time `start_ns` on."""
        came = start_ns + int(self.least.up_ns * (1 - MOST_RATE)) + self._queue_ns()
        went = came + work_ns
        back = went + int(self.least.down_ns * (1 - MOST_RATE)) + self._queue_ns()
        return ClockExchange(start_ns, clock.reads(came), clock.reads(went), back)


clocks = st.builds(
    Clock,
    offset_ns=st.integers(-(10**15), 10**15),
    rate=st.floats(-MOST_RATE, MOST_RATE),
    wander=st.floats(-WANDER, WANDER),
    period_s=st.floats(0.1, 1000),
)
links = st.builds(
    Link,
    least=st.builds(LeastDelays, st.integers(0, 300 * MS), st.integers(0, 300 * MS)),
    queued_ns=st.sampled_from([0, 1000, 100_000, 20 * MS]),
    seed=st.integers(0, 10**6),
)
gaps = st.lists(st.integers(0, 100 * S), min_size=1, max_size=30)


def is_known(at: OffsetAt, clock: Clock, own_ns: int) -> bool:
    """Whether the offset is known there, and the truth within its bound."""
    found = at(own_ns)
    return found is not None and abs(found.offset_ns - clock.offset(own_ns)) <= found.error_ns


def exchanged(clock: Clock, link: Link, gaps: list[int]) -> list[ClockExchange]:
    found, now_ns = [], 10**12
    for gap_ns in gaps:
        found.append(link.exchange(clock, now_ns, work_ns=gap_ns % 1000))
        now_ns = found[-1].received_ns + gap_ns
    return found


@settings(deadline=None)
@given(clock=clocks, link=links, gaps=gaps, later=st.integers(0, 1000 * S), knows=st.booleans())
def test_the_truth_is_within_the_bound(
    clock: Clock, link: Link, gaps: list[int], later: int, knows: bool
) -> None:
    least = link.least if knows else LeastDelays()
    exchanges = exchanged(clock, link, gaps)
    track = ClockTrack(least)
    for one in exchanges:
        track.add(one)
        assert not track.contradicted
        assert is_known(track.at, clock, one.received_ns)
        assert is_known(track.at, clock, one.received_ns + later)
        assert is_known(track.at, clock, one.sent_ns)
    history = ClockHistory(exchanges, least)
    assert not history.contradicted
    end_ns = exchanges[-1].received_ns + later
    for share in (0.0, 0.1, 0.37, 0.5, 0.9, 1.0):
        assert is_known(history.at, clock, 10**12 + int(share * (end_ns - 10**12)))
    for one in exchanges:
        assert is_known(history.at, clock, one.sent_ns)
        assert is_known(history.at, clock, one.received_ns)


@settings(deadline=None)
@given(clock=clocks, link=links, gaps=gaps, start=st.integers(0, 100 * S), work=durations)
def test_one_way_times_are_within_their_bounds(
    clock: Clock, link: Link, gaps: list[int], start: int, work: int
) -> None:
    exchanges = exchanged(clock, link, gaps)
    sent = 10**12 + start
    frame = link.exchange(clock, sent, work)
    history = ClockHistory(exchanges, link.least)
    track = ClockTrack(link.least)
    for one in exchanges:
        track.add(one)
    for at in (history.at, track.at):
        found = own_instant(at, frame.peer_received_ns, sent)
        assert found is not None
        came = sent
        # The peer's clock is turned back to the own one by halving, which needs no arithmetic.
        low, high = sent, frame.received_ns
        while low < high:
            came = (low + high) // 2
            low, high = (
                (came + 1, high) if clock.reads(came) < frame.peer_received_ns else (low, came)
            )
        assert abs(frame.peer_received_ns + found.offset_ns - low) <= found.error_ns + 1
        peer_ns = frame.peer_sent_ns - frame.peer_received_ns
        ways = one_ways(at, sent, frame.received_ns, frame.peer_received_ns, peer_ns)
        if ways.uplink_ns is not None and ways.uplink_error_ns is not None:
            assert abs(ways.uplink_ns - (low - sent)) <= ways.uplink_error_ns + 1
            assert ways.uplink_error_ns <= BOUND_SHARE * ways.uplink_ns
        if ways.downlink_ns is not None and ways.downlink_error_ns is not None:
            assert abs(ways.downlink_ns - (frame.received_ns - low - work)) <= (
                ways.downlink_error_ns + 1
            )


# --- how tight ----------------------------------------------------------------------------------


def bound_ns(at: OffsetAt, own_ns: int) -> int:
    found = at(own_ns)
    assert found is not None
    return found.error_ns


def steady(
    least: LeastDelays, queued_ns: int, count: int, gap_ns: int, rate: float = 100e-6
) -> tuple[Clock, list[ClockExchange]]:
    clock = Clock(7 * S, rate)
    return clock, exchanged(clock, Link(least, queued_ns, 1), [gap_ns] * count)


def test_without_queues_known_delays_leave_next_to_nothing() -> None:
    least = LeastDelays(20 * MS, 20 * MS)
    _, exchanges = steady(least, 0, 1, 0)
    found = ClockTrack(least)
    found.add(exchanges[0])
    # 20 ms by a clock that is 520 ppm off are 10.4 us either way, and nothing else is unknown.
    assert 10_000 < bound_ns(found.at, exchanges[0].received_ns) < 25_000
    without = ClockTrack()
    without.add(exchanges[0])
    assert 20 * MS <= bound_ns(without.at, exchanges[0].sent_ns + 20 * MS) < 20.1 * MS


def test_the_bound_is_half_of_what_queued_least_either_way() -> None:
    """Each way by itself: no single exchange need be lucky twice."""
    track = ClockTrack()
    track.add(exchange(there_ns=1000, back_ns=900_000, offset_ns=70))
    track.add(exchange(there_ns=800_000, back_ns=3000, offset_ns=70, start_ns=1_000_000))
    found = track.at(1_900_000)
    assert found is not None
    assert found.error_ns < (1000 + 3000) / 2 + 0.00052 * 1_900_000
    assert offset_of(exchange(1000, 900_000, 70)).error_ns == 450_501


def test_drift_is_learnt_and_the_bound_grows_with_wander_only() -> None:
    clock, exchanges = steady(LeastDelays(), 50_000, 60, S)
    track = ClockTrack()
    for one in exchanges:
        track.add(one)
    drift = track.drift
    assert drift is not None
    assert abs(drift.ppm - 100) <= drift.error_ppm < WANDER * 1e6 + 5
    end_ns = exchanges[-1].received_ns
    grown = bound_ns(track.at, end_ns + 10 * S) - bound_ns(track.at, end_ns)
    assert grown < 10 * S * (2 * WANDER + 5e-6)
    assert is_known(track.at, clock, end_ns + 10 * S)


def test_hindsight_knows_more_than_foresight() -> None:
    clock, exchanges = steady(LeastDelays(), 50_000, 2, 100 * S)
    track = ClockTrack()
    track.add(exchanges[0])
    history = ClockHistory(exchanges)
    late_ns = exchanges[1].sent_ns - S
    assert bound_ns(history.at, late_ns) < bound_ns(track.at, late_ns) / 20
    assert is_known(history.at, clock, late_ns)


def test_between_bursts_the_bound_is_hardly_larger_than_at_them() -> None:
    """A line within 1 ms at both ends is within 1 ms on the way, though its drift is not known."""
    clock = Clock(7 * S, 100e-6)
    slow = LeastDelays(MS, MS)
    exchanges = [Link(slow, 0, 1).exchange(clock, start_ns) for start_ns in (0, 2 * S)]
    history = ClockHistory(exchanges)
    ends = max(bound_ns(history.at, MS), bound_ns(history.at, 2 * S + MS))
    assert 0.9 * MS < ends < 1.1 * MS
    for share in (0.25, 0.5, 0.75):
        assert bound_ns(history.at, int(2 * S * share)) < ends + 2.2 * WANDER * S


def test_a_long_run_stays_cheap_and_true() -> None:
    clock = Clock(-S, 40e-6, WANDER, period_s=7)
    exchanges = exchanged(clock, Link(LeastDelays(), 30_000, 2), [S] * 3000)
    track = ClockTrack()
    for one in exchanges:
        track.add(one)
    assert track._belief is not None
    assert len(track._belief.corners) < 40
    assert is_known(track.at, clock, exchanges[-1].received_ns)


# --- what cannot be -----------------------------------------------------------------------------


def test_no_exchange_shows_no_offset() -> None:
    assert ClockTrack().at(0) is None
    assert ClockTrack().drift is None
    assert ClockHistory([]).at(0) is None
    assert one_ways(ClockTrack().at, 0, 9, 3, 1) == OneWays()


def test_peer_that_claims_more_time_than_passed_is_not_believed() -> None:
    honest = exchange(there_ns=1000, back_ns=1000, offset_ns=70)
    # 500 ns passed here, and the peer says that it worked for 9000 of them.
    lie = ClockExchange(sent_ns=0, peer_received_ns=0, peer_sent_ns=9000, received_ns=500)
    assert not is_possible(lie)
    track = ClockTrack()
    track.add(lie)
    track.add(honest)
    assert track.exchanges == 1
    assert ClockHistory([lie, honest]).at(0) == ClockHistory([honest]).at(0) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one: msgspec.structs.replace(
            one,
            peer_received_ns=one.peer_received_ns + S,
            peer_sent_ns=one.peer_sent_ns + S,
        ),
        lambda one: msgspec.structs.replace(one, received_ns=one.received_ns - 30 * MS),
    ],
    ids=["a clock that was set", "a link faster than it is said to be"],
)
def test_contradictions_are_seen(wrong: Callable[[ClockExchange], ClockExchange]) -> None:
    least = LeastDelays(20 * MS, 20 * MS)
    _, exchanges = steady(least, 1000, 10, S)
    exchanges[5] = wrong(exchanges[5])
    track, seen = ClockTrack(least), []
    for one in exchanges:
        track.add(one)
        seen.append(track.contradicted)
    assert seen == [False] * 5 + [True] * 5
    assert track.at(exchanges[9].sent_ns) is None
    history = ClockHistory(exchanges, least)
    assert history.contradicted
    assert history.at(exchanges[2].sent_ns) is None


@settings(deadline=None)
@given(
    stamps=st.lists(
        st.builds(ClockExchange, *[st.integers(-(2**64), 2**64)] * 4), min_size=1, max_size=8
    )
)
def test_no_time_stamps_whatever_break_it(stamps: list[ClockExchange]) -> None:
    track = ClockTrack(LeastDelays(5, 5))
    for one in stamps:
        track.add(one)
    track.at(0)
    history = ClockHistory(stamps)
    for one in stamps:
        history.at(one.sent_ns)
        one_ways(history.at, one.sent_ns, one.received_ns, one.peer_received_ns, 1)


# --- one exchange, and the arithmetic by hand ---------------------------------------------------


@given(there=durations, back=durations, offset=offsets, start=offsets, work=durations)
def test_one_exchange_by_itself(there: int, back: int, offset: int, start: int, work: int) -> None:
    found = offset_of(exchange(there, back, offset, start, work))
    assert abs(found.offset_ns - offset) <= found.error_ns
    # Nor is the bound larger than half the path, but for its rounding.
    assert 0 < found.error_ns <= (there + back) / 2 + 1


@given(delay=durations, offset=offsets, start=offsets, work=durations)
def test_symmetric_paths_show_the_exact_offset(
    delay: int, offset: int, start: int, work: int
) -> None:
    found = offset_of(exchange(delay, delay, offset, start, work))
    assert found == ClockOffset(offset_ns=offset, error_ns=delay + 1)


def test_bound_is_tight_for_the_most_asymmetric_path() -> None:
    found = offset_of(exchange(there_ns=1000, back_ns=0, offset_ns=70))
    assert found == ClockOffset(offset_ns=570, error_ns=501)


def test_the_ways_of_a_frame_by_hand() -> None:
    def at(_: int) -> ClockOffset:
        return ClockOffset(5_000 * MS, 1 * MS)

    # Sent at 100 ms; came at 130, left at 150, back at 165 ms, by the own clock.
    found = one_ways(at, 100 * MS, 165 * MS, 5_130 * MS, 20 * MS)
    assert (found.uplink_ns, found.downlink_ns) == (30 * MS, 15 * MS)
    assert (found.uplink_error_ns, found.downlink_error_ns) == (1_000_521, 1_000_521)
    # A tenth of 8 ms is less than the bound.
    found = one_ways(at, 100 * MS, 158 * MS, 5_130 * MS, 20 * MS)
    assert (found.uplink_ns, found.downlink_ns) == (30 * MS, None)


def test_an_instant_at_which_the_offset_is_not_what_it_was() -> None:
    def at(own_ns: int) -> ClockOffset:
        return ClockOffset(0 if own_ns < 50 * MS else MS, 100)

    # 0 at first; where that leads it is 1 ms, on the way to which clocks part by 520 ns.
    found = own_instant(at, peer_ns=100 * MS, near_ns=0)
    assert found == ClockOffset(-MS, 621)
