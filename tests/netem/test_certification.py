"""The probe against the kernel's netem: what is shaped is what is measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.children import start_module
from netem.hosts_link import HostsLink
from splitbed.certificate import DatagramMeasurement, LinkMeasurement
from splitbed.chance import lost_between
from splitbed.link import BurstLoss, Direction, LinkProfile, Way

MS = 1_000_000
ATTEMPTS = 6
"""A busy machine may be late, but not so many times in a row."""

Make = Callable[[LinkProfile], HostsLink]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes two hosts and the link between them."""
    made: list[HostsLink] = []

    def made_as(profile: LinkProfile) -> HostsLink:
        made.append(HostsLink(profile, tmp_path / "hosts.log", start_module))
        return made[-1]

    yield made_as
    for link in made:
        link.close()


def asked(up_mbit: float, down_mbit: float, delay_ms: float, **effects: Any) -> LinkProfile:
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


def certified(link: HostsLink, seconds: float) -> LinkMeasurement:
    """A measurement without a miss, or the last of a few."""
    for _ in range(ATTEMPTS):
        found = link.measure(seconds)
        if not found.misses(link.profile):
            break
    return found


def datagrams(found: LinkMeasurement, way: Way) -> DatagramMeasurement:
    counted = found.datagrams(way)
    assert counted is not None
    return counted


def certify(link: HostsLink, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, from the device's host."""
    host, port = link.probe_at
    command = [sys.executable, "-m", "netem", "certify", f"{host}:{port}", *arguments]
    with link.on_device():
        return subprocess.run(command, capture_output=True, text=True)


BURSTS = BurstLoss(to_bad_pct=1, to_good_pct=25)
LINKS = {
    "no loss": asked(20, 50, 10),
    "loss 1": asked(20, 50, 10, loss_pct=1.0),
    "loss 1 and 5, far": asked(10, 50, 75, up_loss_pct=1.0, down_loss_pct=5.0),
    "loss 5, slow": asked(2, 5, 20, loss_pct=5.0),
    "bursts up": asked(50, 50, 10, up_burst_loss=BURSTS),
    "bursts, leaky": asked(20, 20, 10, burst_loss=BurstLoss(2, 20, 70, 0.5)),
    "twice and damaged": asked(20, 20, 10, duplicate_pct=3.0, corrupt_pct=2.0),
    "far": asked(100, 50, 150),
}


@pytest.mark.parametrize("profile", LINKS.values(), ids=LINKS)
def test_what_is_asked_is_found(make: Make, profile: LinkProfile) -> None:
    found = certified(make(profile), 4)
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
    assert found.facts is not None
    assert found.facts.kind == "kernel"


def test_goodput_is_honest_on_a_long_path(make: Make) -> None:
    """Slow start takes longer than the time that is given."""
    found = certified(make(asked(100, 50, 40)), 2)
    assert found.up_goodput_bps == pytest.approx(96.5e6, rel=0.03)
    assert found.down_goodput_bps == pytest.approx(48.3e6, rel=0.03)
    assert found.seconds < 10


def test_buffers_that_are_too_small_are_named(make: Make) -> None:
    link = make(asked(50, 50, 50))
    with link.on_edge():
        Path("/proc/sys/net/ipv4/tcp_rmem").write_text("4096 131072 262144")
    misses = link.measure(2).misses(link.profile)
    assert len(misses) == 1
    assert misses[0].startswith("uplink goodput ")
    assert "where the hosts' TCP buffers allow about 10.4 over 10" in misses[0]


def test_loss_that_is_not_the_one_asked_for(make: Make) -> None:
    link = make(asked(50, 50, 5, up_loss_pct=1.0))
    found = link.measure(4)
    none = [miss for miss in found.misses(asked(50, 50, 5)) if " lost " in miss]
    assert len(none) == 1
    assert none[0].startswith("uplink lost ")
    assert none[0].endswith(" asked 0 %: none)")
    more = found.misses(asked(50, 50, 5, up_loss_pct=5.0))
    assert any(miss.startswith("uplink lost ") for miss in more)
    faster = found.misses(asked(60, 50, 5, up_loss_pct=1.0))
    assert any(miss.startswith("uplink rate ") for miss in faster)


def test_reordering_is_seen(make: Make) -> None:
    found = make(asked(20, 20, 10, up_reorder_pct=5.0)).measure(3)
    assert datagrams(found, "up").reordered > 0
    assert datagrams(found, "down").reordered == 0
    assert datagrams(found, "up").lost == 0


@pytest.mark.parametrize("distribution", ["normal", "uniform", "pareto", "paretonormal"])
def test_jitter_is_measured(make: Make, distribution: str) -> None:
    profile = asked(20, 20, 30, jitter_ns=5 * MS, jitter_distribution=distribution)
    found = make(profile).measure(6)
    assert len(found.rtt_ns) >= 20
    print(f"\n{distribution}: {found.rtt_sd_ns / 1e6:.2f} ms of {50**0.5:.2f}", end="")
    missed = [miss for miss in found.misses(profile) if miss.startswith(("jitter", "round"))]
    assert missed == []
    assert any(
        miss.startswith("jitter") for miss in found.misses(asked(20, 20, 30, jitter_ns=15 * MS))
    )


def test_the_command_prints_it(make: Make) -> None:
    link = make(asked(10, 10, 5, loss_pct=1.0))
    for _ in range(ATTEMPTS):
        done = certify(link, "--seconds", "4")
        if done.returncode == 0:
            break
    print(f"\n{done.stdout}", end="")
    assert done.returncode == 0, done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "\nlink           kernel; " in done.stdout
    assert "not asked of TCP under loss" in " ".join(done.stdout.split())
    assert "\nuplink UDP     " in done.stdout
    assert "\ndownlink loss  " in done.stdout
    assert done.stderr.splitlines()[-1].endswith(": rate down by UDP ...")
    done = certify(link, "--profile", "rate=10mbit,delay=5ms", "--seconds", "3")
    assert done.returncode == 4
    assert "outside tolerance: " in done.stdout
