"""The probe against the kernel's netem: what is shaped is what is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from splitbed.certificate import DatagramMeasurement, LinkMeasurement
from splitbed.chance import lost_between
from splitbed.link import BurstLoss, Direction, LinkProfile, Way
from tests.netem.conftest import Bed, certified

MS = 1_000_000
Make = Callable[[LinkProfile], Bed]


def link(up_mbit: float, down_mbit: float, delay_ms: float, **effects: Any) -> LinkProfile:
    """Both ways the same delay and effects; `up_` and `down_` effects are of one way only."""
    sides: dict[str, dict[str, Any]] = {"up": {}, "down": {}}
    for name, value in effects.items():
        way, _, effect = name.partition("_")
        for side in sides if way not in sides else (way,):
            sides[side][effect if way in sides else name] = value
    up, down = (
        Direction(rate_bps=round(mbit * 1e6), delay_ns=round(delay_ms * MS), **sides[side])
        for side, mbit in (("up", up_mbit), ("down", down_mbit))
    )
    return LinkProfile(f"{up_mbit:g}/{down_mbit:g} Mbit/s {delay_ms:g} ms", up, down)


def datagrams(found: LinkMeasurement, way: Way) -> DatagramMeasurement:
    counted = found.datagrams(way)
    assert counted is not None
    return counted


BURSTS = BurstLoss(to_bad_pct=1, to_good_pct=25)
LINKS = {
    "no loss": link(20, 50, 10),
    "no loss, slow": link(1, 2, 30),
    "no loss, 200": link(200, 100, 10),
    "loss 1": link(20, 50, 10, loss_pct=1.0),
    "loss 5": link(50, 20, 20, loss_pct=5.0),
    "loss 1 and 5, far": link(10, 50, 75, up_loss_pct=1.0, down_loss_pct=5.0),
    "loss 5, slow": link(2, 5, 20, loss_pct=5.0),
    "loss 1, fast": link(150, 100, 5, loss_pct=1.0),
    "bursts up": link(50, 50, 10, up_burst_loss=BURSTS),
    "bursts down": link(50, 50, 10, down_burst_loss=BURSTS),
    "bursts, leaky": link(20, 20, 10, burst_loss=BurstLoss(2, 20, 70, 0.5)),
    "twice and damaged": link(20, 20, 10, duplicate_pct=3.0, corrupt_pct=2.0),
}


@pytest.mark.parametrize("profile", LINKS.values(), ids=LINKS)
def test_what_is_asked_is_found(make_bed: Make, profile: LinkProfile) -> None:
    found = certified(make_bed(profile), 4)
    ways: tuple[Way, ...] = ("up", "down")
    for way in ways:
        counted, direction = datagrams(found, way), profile.direction(way)
        low, high = lost_between(counted.sent, direction)
        rate = "" if counted.rate_bps is None else f"UDP {counted.rate_bps / 1e6:7.3f} Mbit/s, "
        goodput = found.up_goodput_bps if way == "up" else found.down_goodput_bps
        print(
            f"\n{profile.name:24} {way:4} {rate}TCP {goodput / 1e6:7.3f} Mbit/s, lost "
            f"{counted.lost} of {counted.sent} ({low} to {high}), {counted.duplicated} twice, "
            f"round trip {found.rtt_median_ns / 1e6:.2f} ms in {found.seconds:.1f} s",
            end="",
        )
        if direction.packet_effects:
            assert direction.rate_bps is not None
            assert counted.rate_bps is not None
            whole = direction.rate_bps * (1 - direction.corrupt_pct / 100)
            assert counted.rate_bps == pytest.approx(whole, rel=0.03)
        assert low <= counted.lost - (0 if direction.corrupt_pct else counted.overflowed) <= high
    assert found.misses(profile) == []


def test_goodput_is_honest_on_a_long_path(make_bed: Make) -> None:
    """Slow start takes longer than the time that is given."""
    found = certified(make_bed(link(100, 50, 40)), 2)
    assert found.up_goodput_bps == pytest.approx(96.5e6, rel=0.03)
    assert found.down_goodput_bps == pytest.approx(48.3e6, rel=0.03)
    assert found.seconds < 10


def test_loss_that_nobody_asked_for_is_a_miss(make_bed: Make) -> None:
    bed = make_bed(link(50, 50, 5, up_loss_pct=1.0))
    found = bed.measure(link(50, 50, 5), 3)
    assert any(
        miss.startswith("uplink lost ") and miss.endswith(" asked 0 %: none)")
        for miss in found.misses(link(50, 50, 5))
    )
    assert datagrams(found, "down").lost == 0


def test_less_loss_than_asked_is_a_miss(make_bed: Make) -> None:
    wanted = link(50, 50, 5, down_loss_pct=5.0)
    found = make_bed(link(50, 50, 5, down_loss_pct=1.0)).measure(wanted, 4)
    (miss,) = [miss for miss in found.misses(wanted) if " lost " in miss]
    assert miss.startswith("downlink lost ")


def test_another_rate_is_a_miss(make_bed: Make) -> None:
    wanted = link(20, 20, 5, loss_pct=1.0)
    found = make_bed(link(18, 20, 5, loss_pct=1.0)).measure(wanted, 4)
    assert any(miss.startswith("uplink rate 1") for miss in found.misses(wanted))


def test_reordering_is_seen(make_bed: Make) -> None:
    profile = link(20, 20, 10, up_reorder_pct=5.0)
    found = certified(make_bed(profile), 3)
    assert datagrams(found, "up").reordered > 0
    assert datagrams(found, "down").reordered == 0
    assert datagrams(found, "up").lost == 0


def test_jitter_is_measured(make_bed: Make) -> None:
    profile = link(20, 20, 30, jitter_ns=5 * MS)
    found = make_bed(profile).measure(profile, 6)
    assert len(found.rtt_ns) >= 20
    assert 3 * MS < found.rtt_sd_ns < 20 * MS
    assert not any(miss.startswith(("jitter", "round trip")) for miss in found.misses(profile))
    calm = link(20, 20, 30)
    found = make_bed(calm).measure(profile, 6)
    assert any(miss.startswith("jitter") for miss in found.misses(profile))


def test_the_command_prints_it(make_bed: Make) -> None:
    bed = make_bed(link(10, 10, 5, loss_pct=1.0))
    for _ in range(4):
        done = bed.certify("--profile", "rate=10mbit,delay=5ms,loss=1%", "--seconds", "4")
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "uplink UDP     9." in done.stdout or "uplink UDP     10" in done.stdout
    assert "not asked of TCP under loss" in " ".join(done.stdout.split())
    assert "downlink loss  " in done.stdout
    assert done.stderr.splitlines()[-1] == f"measuring {bed.address}: rate down by UDP ..."
    done = bed.certify("--profile", "rate=10mbit,delay=5ms", "--seconds", "3")
    assert done.returncode == 4
    assert "outside tolerance: " in done.stdout
