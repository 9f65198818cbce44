"""A link's profile, what was measured of it, and what the certificate says of both."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from splitbed.certificate import LinkCertificate, LinkMeasurement
from splitbed.link import PAYLOAD_SHARE, Direction, LinkProfile

MBIT = 1_000_000
MS = 1_000_000
UP, DOWN = 10 * MBIT, 20 * MBIT

PROFILE = LinkProfile("test", Direction(UP, 10 * MS), Direction(DOWN, 15 * MS))
UNSHAPED = LinkProfile("none", Direction(), Direction())


def measured(
    up_pct: float = 0.0, down_pct: float = 0.0, rtt_ms: float = 25.0, **fields: Any
) -> LinkMeasurement:
    """The test's profile, off by these percentages."""
    figures: dict[str, Any] = {
        "rtt_ns": (round(rtt_ms * MS),) * 9,
        "up_goodput_bps": UP * PAYLOAD_SHARE * (1 + up_pct / 100),
        "down_goodput_bps": DOWN * PAYLOAD_SHARE * (1 + down_pct / 100),
        "up_probe_bytes": 1000,
        "down_probe_bytes": 1000,
        "seconds": 1.0,
    }
    return LinkMeasurement(**(figures | fields))


def certificate(
    before: LinkMeasurement, after: LinkMeasurement | None, profile: LinkProfile = PROFILE
) -> LinkCertificate:
    return LinkCertificate("relay", profile, before, after)


# ------------------------------------------------------------------------------------------ profile


def test_payload_is_1448_of_1500_bytes() -> None:
    assert Direction(15 * MBIT).payload_bps == pytest.approx(14.48 * MBIT)
    assert Direction().payload_bps is None


def test_round_trip_is_both_delays() -> None:
    assert PROFILE.rtt_ns == 25 * MS


@pytest.mark.parametrize(
    ("direction", "shaped"),
    [
        (Direction(), False),
        (Direction(rate_bps=1000), True),
        (Direction(delay_ns=1), True),
        (Direction(jitter_ns=1), True),
        (Direction(loss_pct=0.1), True),
    ],
)
def test_anything_asked_of_either_direction_is_shaping(direction: Direction, shaped: bool) -> None:
    assert LinkProfile("p", direction, Direction()).is_shaped == shaped
    assert LinkProfile("p", Direction(), direction).is_shaped == shaped


@pytest.mark.parametrize(
    "fields", [{"rate_bps": 999}, {"delay_ns": -1}, {"jitter_ns": -1}, {"loss_pct": 101}, {"x": 1}]
)
def test_figures_that_cannot_be_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Direction)


# -------------------------------------------------------------------------------------- measurement


@pytest.mark.parametrize(
    ("samples", "median", "p95"),
    [
        ([7], 7, 7),
        ([3, 1, 2], 2, 3),
        (list(range(20, 0, -1)), None, 19),  # nearest rank: the 19th of 20
        (list(range(1, 102)), 51, 96),
    ],
)
def test_round_trip_median_and_95th_percentile(
    samples: list[int], median: int | None, p95: int
) -> None:
    found = measured(rtt_ns=tuple(samples))
    assert found.rtt_p95_ns == p95
    if median is not None:
        assert found.rtt_median_ns == median


def test_exact_link_misses_nothing() -> None:
    assert measured().misses(PROFILE) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_rate_tolerance_is_three_percent_either_way(sign: int) -> None:
    assert measured(up_pct=sign * 2.99, down_pct=sign * 2.99).misses(PROFILE) == []
    (miss,) = measured(up_pct=sign * 3.01).misses(PROFILE)
    assert miss == f"uplink goodput {9.65 * (1 + sign * 0.0301):.3g} Mbit/s ({sign * 3.0:+.1f} %)"
    (miss,) = measured(down_pct=sign * 3.01).misses(PROFILE)
    assert miss.startswith("downlink goodput")


@pytest.mark.parametrize("sign", [1, -1])
def test_round_trip_tolerance_is_two_milliseconds_either_way(sign: int) -> None:
    assert measured(rtt_ms=25 + sign * 2).misses(PROFILE) == []
    (miss,) = measured(rtt_ms=25 + sign * 2.01).misses(PROFILE)
    assert miss == f"round trip {25 + sign * 2.01:.2f} ms ({sign * 2.01:+.2f})"


def test_profile_may_set_its_own_tolerance() -> None:
    wide = msgspec.structs.replace(PROFILE, rate_tolerance_pct=10.0, rtt_tolerance_ns=9 * MS)
    assert measured(up_pct=-9, down_pct=9, rtt_ms=33).misses(wide) == []
    assert len(measured(up_pct=-11, down_pct=11, rtt_ms=35).misses(wide)) == 3


def test_direction_without_a_rate_has_no_goodput_to_miss() -> None:
    profile = LinkProfile("p", Direction(None, 10 * MS), Direction(DOWN, 15 * MS))
    assert measured(up_pct=900).misses(profile) == []


def test_unshaped_link_misses_nothing() -> None:
    assert measured(rtt_ms=99).misses(UNSHAPED) == []


def test_jitter_widens_the_tolerance_by_three_deviations_of_the_median() -> None:
    profile = LinkProfile(
        "p", Direction(UP, 10 * MS, jitter_ns=3 * MS), Direction(DOWN, 15 * MS, jitter_ns=4 * MS)
    )
    # sigma = 5 ms in quadrature; of 25 samples' median 1.25 * 5 / 5 ms; three of those: 3.75 ms.
    for off_ms, misses in ((5.74, 0), (5.76, 1)):
        samples = (round((25 + off_ms) * MS),) * 25
        assert len(measured(rtt_ns=samples).misses(profile)) == misses
    # A hundred samples know the median twice as well.
    assert len(measured(rtt_ns=(round(30.7 * MS),) * 100).misses(profile)) == 1


# -------------------------------------------------------------------------------------- certificate


def test_certified_figures_are_means_of_before_and_after() -> None:
    before, after = measured(rtt_ms=24, up_pct=1), measured(rtt_ms=27, up_pct=-2)
    found = certificate(before, after)
    assert found.rtt_ns == 25.5 * MS
    assert found.up_goodput_bps == pytest.approx(UP * PAYLOAD_SHARE * 0.995)
    assert found.down_goodput_bps == pytest.approx(DOWN * PAYLOAD_SHARE)
    alone = certificate(before, None)
    assert (alone.rtt_ns, alone.up_goodput_bps) == (24 * MS, before.up_goodput_bps)


def test_violations_say_when() -> None:
    assert certificate(measured(), measured()).violations() == []
    before = certificate(measured(up_pct=-10), measured()).violations()
    assert before == ["uplink goodput 8.69 Mbit/s (-10.0 %) before the run"]
    after = certificate(measured(), measured(rtt_ms=99)).violations()
    assert after == ["round trip 99.00 ms (+74.00) after the run"]
    both = certificate(measured(rtt_ms=99, down_pct=9), measured(rtt_ms=99)).violations()
    assert [text.split()[-3] for text in both] == ["before", "before", "after"]


def test_run_that_was_not_measured_after_it_is_a_violation() -> None:
    assert certificate(measured(), None).violations() == ["not measured after the run"]
    found = certificate(measured(up_pct=-10), None).violations()
    assert len(found) == 2


@pytest.mark.parametrize("ended", [True, False])
def test_certificate_survives_json(ended: bool) -> None:
    found = certificate(measured(), measured(rtt_ms=26) if ended else None)
    text = msgspec.json.encode(found)
    assert msgspec.json.decode(text, type=LinkCertificate) == found
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text.replace(b'"relay"', b'"tunnel"'), type=LinkCertificate)
