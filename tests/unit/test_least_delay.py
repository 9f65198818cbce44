"""What no packet is faster than: checked against what the relay draws."""

from __future__ import annotations

import msgspec
import pytest

from netem.jitter import Jitter
from netem.least_delay import least_delay_ns, least_delays_ns, told_ns
from splitbed.link import Change, Direction, LinkFacts, LinkKind, LinkProfile, Step, Trace

MS = 1_000_000


@pytest.mark.parametrize("name", ["normal", "uniform", "pareto", "paretonormal"])
def test_no_draw_is_below_it(name: str) -> None:
    direction = msgspec.convert(
        {"delay_ns": 50 * MS, "jitter_ns": 5 * MS, "jitter_distribution": name}, Direction
    )
    drawn = Jitter(direction, 1)
    least = min(direction.delay_ns + drawn.draw_ns() for _ in range(50_000))
    found = least_delay_ns(direction)
    assert 0 < found <= least
    assert least - found < 3 * MS  # nor is it further below than the rarest draws


def test_it_is_never_negative() -> None:
    assert least_delay_ns(Direction(delay_ns=MS, jitter_ns=MS)) == 0
    assert least_delay_ns(Direction()) == 0


def test_packets_that_skip_the_delay_take_no_time() -> None:
    assert least_delay_ns(Direction(delay_ns=20 * MS, reorder_pct=1)) == 0


def test_a_trace_may_be_faster_than_its_profile_or_slower() -> None:
    profile = LinkProfile("p", Direction(delay_ns=20 * MS), Direction(delay_ns=10 * MS))
    assert least_delays_ns(profile) == (20 * MS, 10 * MS)
    steps = (
        Step(0, Change(delay_ns=30 * MS), Change(delay_ns=4 * MS)),
        Step(5, Change(rate_bps=1000)),
    )
    assert least_delays_ns(profile, Trace("t", steps, 10)) == (20 * MS, 4 * MS)


@pytest.mark.parametrize(
    ("kind", "trace", "wanted"),
    [("relay", "", (2, 1)), ("kernel", "", (2, 1)), ("relay", "t", (0, 0)), ("direct", "", (0, 0))],
)
def test_a_link_of_others_is_believed_where_it_keeps_still(
    kind: LinkKind, trace: str, wanted: tuple[int, int]
) -> None:
    profile = LinkProfile("p", Direction(delay_ns=2), Direction(delay_ns=1))
    assert told_ns(LinkFacts(kind, profile, trace=trace)) == wanted
    assert told_ns(None) == (0, 0)
