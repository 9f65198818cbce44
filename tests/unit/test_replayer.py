"""A trace's changes at their instants, on a link that only writes them down."""

from __future__ import annotations

import time

import pytest

from netem.qdisc import granted_bits
from netem.replayer import Replayer, _less_grants
from splitbed.errors import LinkError
from splitbed.link import Change, Direction, LinkProfile, Step, Trace

MS = 1_000_000
PROFILE = LinkProfile("p", Direction(9_000_000, 5 * MS), Direction(8_000_000))


class Notes:
    def __init__(self) -> None:
        self.heard: list[tuple[int, str, object, object]] = []

    def change(self, up: Direction, down: Direction) -> None:
        self.heard.append((time.perf_counter_ns(), "all", up, down))

    def change_rates(self, up_bps: int | None, down_bps: int | None) -> None:
        self.heard.append((time.perf_counter_ns(), "rates", up_bps, down_bps))


TRACE = Trace(
    "t",
    (
        Step(0, up=Change(rate_bps=1_000_000)),
        Step(60 * MS, up=Change(rate_bps=0), down=Change(rate_bps=3_000_000)),
        Step(100 * MS, up=Change(rate_bps=2_000_000, delay_ns=7 * MS, loss_pct=1.0)),
    ),
    160 * MS,
)


def test_steps_come_at_their_instants_and_again() -> None:
    notes = Notes()
    replayer = Replayer(TRACE, PROFILE, notes)
    assert replayer.end() is None
    start_ns = time.perf_counter_ns()
    assert replayer.begin() is None
    time.sleep(0.25)
    found = replayer.end()
    assert found is not None
    said = [(kind, up, down) for _, kind, up, down in notes.heard]
    first = 1_000_000 - round(granted_bits(1_000_000) / 0.06)
    middle = 3_000_000 - round(granted_bits(3_000_000) / 0.04)
    owed = granted_bits(0) + granted_bits(2_000_000)  # at rate 0 nothing could be given back
    last = 2_000_000 - round(owed / 0.06)
    back = 8_000_000 - round(granted_bits(8_000_000) / 0.06)
    third = Direction(last, 7 * MS, loss_pct=1.0), Direction(back)
    assert said == [
        ("rates", first, 8_000_000),
        ("rates", 0, middle),
        ("all", *third),
        ("all", Direction(first, 5 * MS), Direction(8_000_000)),  # the delay goes back, too
        ("rates", 0, middle),
        ("all", PROFILE.up, PROFILE.down),
    ]
    due = [0, 60, 100, 160, 220]
    for (at_ns, *_), ms in zip(notes.heard, due, strict=False):
        assert -1 < (at_ns - start_ns) / 1e6 - ms < 40
    assert (found.trace, found.digest, found.changes) == ("t", TRACE.digest, 5)
    assert 0 <= found.drift_p50_ns <= found.drift_max_ns < 40 * MS
    assert 250 * MS <= found.elapsed_ns < 400 * MS


def test_what_a_slow_step_cannot_give_back_the_next_ones_do() -> None:
    grant = granted_bits(10_000)
    rates = _less_grants([10_000, 20_000, 1_000_000, 1_000_000], [100 * MS] * 4)
    assert rates[:2] == [0, 0]
    owed = grant + granted_bits(20_000) + granted_bits(1_000_000) - 1000 - 2000
    assert rates[2:] == [1_000_000 - round(owed * 10), 1_000_000]
    assert _less_grants([5_000_000], [10**9]) == [5_000_000]
    assert _less_grants([None, 0, None], [MS] * 3) == [None, 0, None]


def test_begun_anew_it_tells_of_the_one_before() -> None:
    notes = Notes()
    replayer = Replayer(TRACE, PROFILE, notes)
    replayer.begin()
    time.sleep(0.02)
    before = replayer.begin()
    assert before is not None
    assert before.changes == 1
    assert replayer.end() is not None
    assert replayer.end() is None


def test_a_step_that_makes_no_link_is_refused_before_anything_is_shaped() -> None:
    reorders = LinkProfile("r", Direction(10_000_000, 20 * MS, reorder_pct=1.0), Direction())
    trace = Trace("t", (Step(0), Step(10 * MS, up=Change(delay_ns=0))), 20 * MS)
    with pytest.raises(LinkError, match=r"trace t over the profile 'r' is no link: .*delay"):
        Replayer(trace, reorders, Notes())


@pytest.mark.parametrize("error", [LinkError("eth0 is gone"), OSError(19, "No such device")])
def test_a_replay_that_fails_half_way_says_so_and_is_none(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(Notes):
        def change_rates(self, up_bps: int | None, down_bps: int | None) -> None:
            raise error

    replayer = Replayer(TRACE, PROFILE, Gone())
    replayer.begin()
    time.sleep(0.05)
    assert replayer.end() is None
    assert "the replay of t has ended early: " in capsys.readouterr().err


def test_a_link_that_is_closed_is_not_changed_any_more() -> None:
    notes = Notes()
    replayer = Replayer(Trace("t", (Step(0),), 3600 * 10**9), PROFILE, notes)
    replayer.begin()
    time.sleep(0.05)
    before = len(notes.heard)
    assert replayer.end(restore=False) is not None
    assert len(notes.heard) == before
    assert replayer.end() is None


def test_a_link_that_is_gone_at_the_end_is_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Gone(Notes):
        def change(self, up: Direction, down: Direction) -> None:
            raise LinkError("eth0 is gone")

    replayer = Replayer(TRACE, PROFILE, Gone())
    replayer.begin()
    time.sleep(0.02)
    assert replayer.end() is None
    assert capsys.readouterr().err == "the replay of t has ended early: eth0 is gone\n"


def test_a_long_step_hears_the_end_at_once() -> None:
    notes = Notes()
    trace = Trace("t", (Step(0), Step(3600 * 10**9)), 7200 * 10**9)
    replayer = Replayer(trace, PROFILE, notes)
    replayer.begin()
    time.sleep(0.05)
    start = time.perf_counter()
    replayer.end()
    assert time.perf_counter() - start < 0.5
