"""What a measurement spends its time on, and how fast its datagrams are sent."""

from __future__ import annotations

from typing import Any

import pytest

from netem.allotment import DatagramSize, allotted_s, loss_plan, quiet_ns, rate_plan
from splitbed.link import PAYLOAD_SHARE, BurstLoss, Direction, LinkKind, LinkProfile, Way

MS = 1_000_000
SIZE = DatagramSize(1472, 1500, 200 * MS)
BITS = 12_000


def link(up: dict[str, Any] | None = None) -> LinkProfile:
    plain: dict[str, Any] = {"rate_bps": 10_000_000, "delay_ns": 10 * MS}
    return LinkProfile("p", Direction(**(plain | (up or {}))), Direction(**plain))


@pytest.mark.parametrize("kind", ["relay", "kernel", "direct"])
@pytest.mark.parametrize("up", [{}, {"loss_pct": 1.0}, {"jitter_ns": MS}, {"rate_bps": None}])
def test_the_parts_are_the_whole(kind: LinkKind, up: dict[str, Any]) -> None:
    parts = allotted_s(link(up), kind, 6.0)
    assert sum(parts.values()) == pytest.approx(6.0)
    assert {"trips", "transfer up", "transfer down"} <= set(parts)
    assert all(part > 0.3 for part in parts.values())


def test_through_a_relay_there_are_no_datagrams() -> None:
    parts = allotted_s(link({"loss_pct": 1.0}), "relay", 6.0)
    assert parts == {"trips": 2, "transfer up": 2, "transfer down": 2}


def test_the_rate_by_datagrams_is_measured_where_packets_are_touched() -> None:
    assert "rate up" not in allotted_s(link(), "kernel", 6.0)
    parts = allotted_s(link({"loss_pct": 1.0}), "kernel", 6.0)
    assert "rate up" in parts
    assert "rate down" not in parts
    assert parts["loss up"] > parts["loss down"]
    assert "rate up" not in allotted_s(link({"loss_pct": 1.0, "rate_bps": None}), "kernel", 6.0)


def test_jitter_gets_more_round_trips() -> None:
    more = allotted_s(link({"jitter_ns": MS}), "kernel", 6.0)["trips"]
    assert more > 1.5 * allotted_s(link(), "kernel", 6.0)["trips"]


@pytest.mark.parametrize(
    ("up", "goodput_bps", "offered_bps"),
    [
        ({}, 9.6e6, 5e6),
        ({}, 2e6, 1.1e6 / PAYLOAD_SHARE),  # a link that is not what it should be
        ({"rate_bps": None}, 20e6, 11e6 / PAYLOAD_SHARE),
        ({"rate_bps": None}, 9e9, 100e6),
        ({"rate_bps": 1_000_000_000}, 9e8, 100e6),
        ({"loss_pct": 5.0}, 1e5, 5e6),  # TCP says nothing of it
        ({"rate_bps": None, "loss_pct": 5.0}, 1e5, 25e6),
    ],
)
def test_loss_is_measured_at_half_the_rate(
    up: dict[str, Any], goodput_bps: float, offered_bps: float
) -> None:
    plan = loss_plan("up", link(up).up, goodput_bps, SIZE, 1.0)
    assert BITS * 1e9 / plan.gap_ns == pytest.approx(offered_bps)
    assert plan.count == pytest.approx(offered_bps / BITS, abs=1)
    assert plan.lead_ns == 0
    # Small bursts: two milliseconds of a link at half its rate.
    assert plan.late_ns == 2 * MS
    assert (plan.payload_bytes, plan.quiet_ns) == (1472, 200 * MS)


@pytest.mark.parametrize("rate_bps", [1000, 64_000, 1_000_000_000])
@pytest.mark.parametrize("seconds", [0.001, 1, 600])
@pytest.mark.parametrize("way", ["up", "down"])
def test_plans_can_be_carried_out(way: Way, rate_bps: int, seconds: float) -> None:
    lossy = Direction(rate_bps=rate_bps, loss_pct=1.0)
    for plan in (
        loss_plan(way, lossy, 0.0, SIZE, seconds),
        loss_plan(way, Direction(), 0.0, SIZE, seconds),
        rate_plan(way, lossy, SIZE, seconds),
    ):
        assert plan.way == way
        assert 1 <= plan.count <= 1_000_000
        assert plan.count * plan.gap_ns <= 30e9


@pytest.mark.parametrize(
    ("rate_bps", "seconds", "lasts_s"),
    [(10_000_000, 1.0, 1.0), (200_000_000, 1.0, 0.24), (200_000_000, 0.05, 0.24)],
)
def test_the_rate_is_measured_above_it(rate_bps: int, seconds: float, lasts_s: float) -> None:
    plan = rate_plan("down", Direction(rate_bps=rate_bps, loss_pct=5.0), SIZE, seconds)
    assert BITS * 1e9 / plan.gap_ns == pytest.approx(1.1 * rate_bps / 0.95)
    assert plan.count * plan.gap_ns / 1e9 == pytest.approx(lasts_s, rel=0.02)
    assert 0.12 <= plan.lead_ns / 1e9 <= lasts_s / 2


def test_bursts_of_loss_count_with_their_mean() -> None:
    burst = Direction(rate_bps=10_000_000, burst_loss=BurstLoss(10, 40))
    plan = rate_plan("up", burst, SIZE, 1.0)
    assert BITS * 1e9 / plan.gap_ns == pytest.approx(1.1 * 10_000_000 / 0.8)


def test_late_datagrams_are_waited_for() -> None:
    assert quiet_ns(0) == 200 * MS
    assert quiet_ns(300 * MS) == 350 * MS
    assert quiet_ns(60_000 * MS) == 2000 * MS
