"""Frames as clock exchanges: the truth stays inside the bound, which they never widen."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitbed.clock import ClockHistory, ClockTrack, LeastDelays, OffsetAt
from splitbed.clock_frames import INTERVAL_NS, TightFrames
from splitbed.clock_model import MOST_RATE, WANDER, Belief, Limit
from splitbed.session import ClockExchange
from tests.unit.clocks import Clock
from tests.unit.test_clock import MS, S, bound_ns, clocks, is_known

START_NS = 10**12
ROUNDING_NS = 3
"""Ends are rounded outwards to whole nanoseconds, and their middle down."""


class Run:
    """A few exchanges, at the ends at least; frames on the way all the time, several at once."""

    def __init__(
        self, clock: Clock, least: LeastDelays, queues_ns: tuple[int, int, int], length_ns: int
    ) -> None:
        self._clock, self.least, self._random = clock, least, random.Random(sum(queues_ns))
        probe_ns, up_ns, down_ns = queues_ns
        starts = {0, 1, 2, length_ns, length_ns + S}
        starts |= {self._random.randrange(length_ns) for _ in range(self._random.randint(0, 2))}
        self.exchanges = [
            self._exchange(START_NS + start, probe_ns, probe_ns, 0) for start in sorted(starts)
        ]
        self.frames: list[ClockExchange] = []
        now_ns = START_NS
        while now_ns < START_NS + length_ns:
            now_ns += self._random.randint(1, length_ns // 20)
            self.frames.append(self._exchange(now_ns, up_ns, down_ns, 50 * MS))
        self.frames.sort(key=lambda one: one.received_ns)
        self.middle_ns = START_NS + length_ns // 2

    def _exchange(self, start_ns: int, up_ns: int, down_ns: int, work_ns: int) -> ClockExchange:
        came = start_ns + int(self.least.up_ns * (1 - MOST_RATE)) + self._queue_ns(up_ns)
        went = came + self._random.randint(0, work_ns)
        back = went + int(self.least.down_ns * (1 - MOST_RATE)) + self._queue_ns(down_ns)
        return ClockExchange(start_ns, self._clock.reads(came), self._clock.reads(went), back)

    def _queue_ns(self, usual_ns: int) -> int:
        return int(usual_ns * self._random.expovariate(1) ** 3)

    def chosen(self, interval_ns: int = INTERVAL_NS) -> list[ClockExchange]:
        """Of the frames, as a report chooses."""
        tight = TightFrames(interval_ns)
        return [*(one for frame in self.frames for one in tight.take(frame)), *tight.rest()]


queues = st.sampled_from([0, 1000, 100_000, 20 * MS, 300 * MS])
runs = st.builds(
    lambda clock, *rest: (clock, Run(clock, *rest)),
    clocks,
    st.builds(LeastDelays, st.integers(0, 300 * MS), st.integers(0, 300 * MS)),
    st.tuples(queues, queues, queues),
    st.integers(S // 100, 300 * S),
)


def is_no_wider(at: OffsetAt, without: OffsetAt, own_ns: int) -> bool:
    found, plain = at(own_ns), without(own_ns)
    assert found is not None
    assert plain is not None
    return (
        found.offset_ns + found.error_ns <= plain.offset_ns + plain.error_ns + ROUNDING_NS
        and found.offset_ns - found.error_ns >= plain.offset_ns - plain.error_ns - ROUNDING_NS
    )


@settings(deadline=None, max_examples=60)
@given(made=runs, knows=st.booleans())
def test_as_it_goes_frames_keep_the_truth_and_never_widen(
    made: tuple[Clock, Run], knows: bool
) -> None:
    clock, run = made
    least = run.least if knows else LeastDelays()
    track, without, tight = ClockTrack(least), ClockTrack(least), TightFrames()
    frames = {id(one) for one in run.frames}
    for one in sorted([*run.exchanges, *run.frames], key=lambda one: one.received_ns):
        if id(one) in frames:
            for chosen in tight.take(one):
                track.add_frame(chosen)
        else:
            track.add(one)
            without.add(one)
        if without.exchanges:
            for own_ns in (one.sent_ns, one.received_ns, one.received_ns + 100 * S, START_NS):
                assert is_known(track.at, clock, own_ns)
                assert is_no_wider(track.at, without.at, own_ns)
    assert track.exchanges == len(run.exchanges)
    assert not track.contradicted


@settings(deadline=None, max_examples=60)
@given(made=runs, knows=st.booleans(), share=st.floats(-0.1, 1.1))
# Corners that are all but one: an edge between them points anywhere.
@example(
    made=(Clock(0), Run(Clock(0), LeastDelays(453_485, 0), (1000, 0, 0), 16_777_216)),
    knows=False,
    share=0.0,
)
def test_with_hindsight_frames_keep_the_truth_and_never_widen(
    made: tuple[Clock, Run], knows: bool, share: float
) -> None:
    clock, run = made
    least = run.least if knows else LeastDelays()
    without = ClockHistory(run.exchanges, least)
    drawn_ns = START_NS + int(share * (run.middle_ns - START_NS) * 2)
    for frames in (run.chosen(), run.frames):
        history = ClockHistory([*run.exchanges, *frames], least)
        for own_ns in (drawn_ns, run.middle_ns, *(one.sent_ns for one in run.frames)):
            assert is_known(history.at, clock, own_ns)
            assert is_no_wider(history.at, without.at, own_ns)


def test_a_busy_minute_is_bounded_in_its_middle_as_at_its_ends() -> None:
    """Between two bursts WANDER leaves 0.6 ms of 30 s; frames that queue for 0.1 ms leave less."""
    clock = Clock(7 * S, 100e-6, 15e-6, 40.0, START_NS)
    run = Run(clock, LeastDelays(20 * MS, 20 * MS), (100_000, 100_000, 100_000), 60 * S)
    for one in run.frames:
        one_ns = one.received_ns - one.sent_ns
        assert one_ns >= 39 * MS
    without = ClockHistory(run.exchanges, run.least)
    history = ClockHistory([*run.exchanges, *run.chosen()], run.least)
    assert bound_ns(history.at, run.middle_ns) < 200_000
    assert bound_ns(history.at, run.middle_ns) < bound_ns(without.at, run.middle_ns) / 2


# --- which frames -------------------------------------------------------------------------------


def frame(sent_ms: float, up_ms: float, down_ms: float, rate: float = 0.0) -> ClockExchange:
    came = sent_ms + up_ms
    stamps = (sent_ms, came * (1 + rate), (came + 1) * (1 + rate), came + 1 + down_ms)
    return ClockExchange(*(int(stamp * MS) for stamp in stamps))


def test_each_interval_gives_the_least_way_up_and_the_least_down() -> None:
    tight = TightFrames(100 * MS)
    frames = [frame(10, 5, 7), frame(20, 3, 9), frame(30, 8, 2), frame(40, 4, 4), frame(200, 1, 1)]
    assert [tight.take(one) for one in frames] == [(), (), (), (), (frames[1], frames[2])]
    assert tight.rest() == (frames[4],)
    assert tight.rest() == ()


def test_what_the_clocks_drift_meanwhile_is_no_way() -> None:
    tight = TightFrames(1000 * MS)
    early, late = frame(10, 5, 5, 400e-6), frame(900, 4.8, 5.2, 400e-6)
    tight.take(early)
    tight.take(late)
    assert tight.rest() == (early, late)  # 0.36 ms of drift hide 0.2 ms of queue
    tight.rate = 400e-6
    tight.take(early)
    tight.take(late)
    assert tight.rest() == (late, early)


def test_frames_that_say_nothing_are_left_out() -> None:
    tight = TightFrames(100 * MS)
    # No stamp at all: an edge that does not say; one that worked longer than the frame was away.
    tight.take(ClockExchange(10 * MS, 0, 0, 20 * MS))
    tight.take(ClockExchange(10 * MS, 15 * MS, 99 * MS, 20 * MS))
    assert tight.rest() == ()


# --- limits in any order ------------------------------------------------------------------------


def test_a_limit_from_earlier_cuts_without_widening() -> None:
    belief = Belief.of(Limit(0, 1, 1e7), Limit(0, -1, -1e7)).moved(1e9)
    earlier = Limit(5e8, 1, 200)
    assert belief.is_cut_by(earlier)
    cut = belief.limited(earlier)
    assert cut is not None
    assert cut.at == belief.at
    # At its own time what it says, and WANDER; at the belief's what a rate may make of that.
    assert cut.between(5e8)[1] == pytest.approx(200 + 2 * WANDER * 5e8)
    assert cut.between(1e9)[1] == pytest.approx(200 + (MOST_RATE + WANDER) * 5e8)
    assert not cut.is_cut_by(Limit(5e8, 1, 200 + 2 * WANDER * 5e8 + 1))


@given(stamps=st.lists(st.builds(ClockExchange, *[st.integers(-(2**64), 2**64)] * 4), max_size=9))
def test_no_time_stamps_whatever_break_it(stamps: list[ClockExchange]) -> None:
    track, tight = ClockTrack(LeastDelays(5, 5)), TightFrames(1)
    for number, one in enumerate(stamps):
        for chosen in (*tight.take(one), *tight.rest()[: number % 2]):
            track.add_frame(chosen)
        if number % 3 == 0:
            track.add(one)
        for own_ns in (0, one.sent_ns):
            found = track.at(own_ns)
            assert found is None or found.error_ns >= 0


def test_a_peer_that_lies_of_frames_is_contradicted() -> None:
    track = ClockTrack()
    track.add(frame(0, 5, 5))
    track.add_frame(frame(20, 5, 5))
    assert track.at(30 * MS) is not None
    track.add_frame(ClockExchange(40 * MS, 5 * S, 5 * S, 50 * MS))
    assert track.contradicted
    assert track.at(50 * MS) is None
    track.add_frame(frame(60, 5, 5))
    assert (track.exchanges, track.frames) == (1, 2)
