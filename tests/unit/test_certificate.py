"""What was measured of a link, and what the certificate says of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from splitbed.certificate import DatagramMeasurement, LinkCertificate, LinkMeasurement
from splitbed.link import PAYLOAD_SHARE, BurstLoss, Direction, LinkFacts, LinkKind, LinkProfile

MBIT = 1_000_000
MS = 1_000_000
UP, DOWN = 10 * MBIT, 20 * MBIT

PROFILE = LinkProfile("test", Direction(UP, 10 * MS), Direction(DOWN, 15 * MS))
UNSHAPED = LinkProfile("none", Direction(), Direction())
EXACT = DatagramMeasurement(sent=1000, arrived=1000, duplicated=0, reordered=0, offered_bps=5e6)


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


def counted(**fields: Any) -> DatagramMeasurement:
    return msgspec.structs.replace(EXACT, **fields)


def by_datagrams(
    up: DatagramMeasurement = EXACT, down: DatagramMeasurement = EXACT, **fields: Any
) -> LinkMeasurement:
    return measured(up_datagrams=up, down_datagrams=down, **fields)


def asking(**up: Any) -> LinkProfile:
    return LinkProfile("p", Direction(UP, 10 * MS, **up), PROFILE.down)


def certificate(
    before: LinkMeasurement, after: LinkMeasurement | None, profile: LinkProfile = PROFILE
) -> LinkCertificate:
    return LinkCertificate("relay", profile, before, after)


# ---------------------------------------------------------------------------------- rate by TCP


def test_exact_link_misses_nothing() -> None:
    assert measured().misses(PROFILE) == []
    assert by_datagrams().misses(PROFILE) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_rate_tolerance_is_three_percent_either_way(sign: int) -> None:
    assert measured(up_pct=sign * 2.99, down_pct=sign * 2.99).misses(PROFILE) == []
    (miss,) = measured(up_pct=sign * 3.01).misses(PROFILE)
    assert miss == f"uplink goodput {9.65 * (1 + sign * 0.0301):.3g} Mbit/s ({sign * 3.0:+.1f} %)"
    (miss,) = measured(down_pct=sign * 3.01).misses(PROFILE)
    assert miss.startswith("downlink goodput")


def test_profile_may_set_its_own_tolerance() -> None:
    wide = msgspec.structs.replace(PROFILE, rate_tolerance_pct=10.0, rtt_tolerance_ns=9 * MS)
    assert measured(up_pct=-9, down_pct=9, rtt_ms=33).misses(wide) == []
    assert len(measured(up_pct=-11, down_pct=11, rtt_ms=35).misses(wide)) == 3


def test_direction_without_a_rate_has_no_goodput_to_miss() -> None:
    profile = LinkProfile("p", Direction(None, 10 * MS), Direction(DOWN, 15 * MS))
    assert measured(up_pct=900).misses(profile) == []


def test_unshaped_link_misses_nothing() -> None:
    lossy = counted(arrived=900, duplicated=3)
    assert by_datagrams(lossy, lossy, rtt_ms=99).misses(UNSHAPED) == []


def test_buffers_that_are_too_small_for_the_path_are_named() -> None:
    # 25 ms at 9.65 Mbit/s are 30 kB.
    (miss,) = measured(up_pct=-20, up_window_bytes=24_000).misses(PROFILE)
    assert miss.startswith("uplink goodput 7.72 Mbit/s (-20.0 %), where the hosts' TCP buffers ")
    assert "allow about 7.68 over 25 ms" in miss
    (miss,) = measured(up_pct=-20, up_window_bytes=40_000).misses(PROFILE)
    assert miss.endswith("(-20.0 %)")
    (miss,) = measured(down_pct=20, down_window_bytes=1000).misses(PROFILE)
    assert miss.endswith("(+20.0 %)")


# -------------------------------------------------------------------------- rate by datagrams


def test_where_packets_are_lost_the_rate_is_that_of_datagrams() -> None:
    lossy, fifty = asking(loss_pct=5.0), counted(arrived=950, rate_bps=0.971 * UP)
    assert by_datagrams(fifty, up_pct=-90).misses(lossy) == []
    slower = msgspec.structs.replace(fifty, rate_bps=0.969 * UP, rate_offered_bps=1.2 * UP)
    assert by_datagrams(slower).misses(lossy) == ["uplink rate 9.69 Mbit/s (-3.1 %)"]
    # One way only: downwards TCP still counts.
    assert by_datagrams(fifty, down_pct=-10).misses(lossy) == [
        "downlink goodput 17.4 Mbit/s (-10.0 %)"
    ]


def test_a_sender_that_was_too_slow_is_named() -> None:
    slow = counted(arrived=950, rate_bps=0.9 * UP, rate_offered_bps=0.9 * UP)
    assert by_datagrams(slow).misses(asking(loss_pct=5.0)) == [
        "uplink rate 9 Mbit/s (-10.0 %; only 9 were sent)"
    ]


def test_damaged_packets_take_their_time_and_do_not_arrive() -> None:
    profile = asking(corrupt_pct=10.0)
    found = counted(arrived=900, rate_bps=0.9 * UP, overflowed=100)
    assert by_datagrams(found).misses(profile) == []
    assert len(by_datagrams(msgspec.structs.replace(found, rate_bps=UP)).misses(profile)) == 1


@pytest.mark.parametrize(
    "effect", [{"loss_pct": 1.0}, {"duplicate_pct": 1.0}, {"reorder_pct": 1.0}, {"corrupt_pct": 1}]
)
def test_effects_that_could_not_be_measured_are_a_miss(effect: dict[str, float]) -> None:
    why = "a relay carries no datagrams"
    (miss,) = measured(without_datagrams=why).misses(asking(**effect))
    assert miss.startswith("uplink ")
    assert miss.endswith(f" not measured ({why})")
    assert measured(without_datagrams=why).misses(PROFILE) == []


# ----------------------------------------------------------------------------------------- loss


def test_any_loss_is_a_miss_where_none_is_asked() -> None:
    assert by_datagrams(counted(arrived=999)).misses(PROFILE) == [
        "uplink lost 1 of 1000 packets (0.1 %, asked 0 %: none)"
    ]
    assert by_datagrams(down=counted(duplicated=2)).misses(PROFILE) == [
        "downlink duplicated 2 of 1000 packets (0.2 %, asked 0 %: none)"
    ]


def test_what_the_receivers_socket_dropped_was_not_lost_on_the_link() -> None:
    assert by_datagrams(counted(arrived=990, overflowed=10)).misses(PROFILE) == []
    (miss,) = by_datagrams(counted(arrived=989, overflowed=10)).misses(PROFILE)
    assert miss.startswith("uplink lost 1 of 1000")


@pytest.mark.parametrize(
    ("arrived", "misses"), [(1000, 1), (999, 1), (998, 0), (990, 0), (979, 0), (978, 0), (977, 1)]
)
def test_loss_is_held_against_the_binomial_interval(arrived: int, misses: int) -> None:
    found = by_datagrams(counted(arrived=arrived, rate_bps=UP)).misses(asking(loss_pct=1.0))
    assert len(found) == misses
    if misses:
        assert found[0].endswith("asked 1 %: 2 to 22)")


def test_loss_in_bursts_may_stray_further() -> None:
    thirty = counted(arrived=970, rate_bps=UP)
    assert len(by_datagrams(thirty).misses(asking(loss_pct=1.0))) == 1
    bursts = BurstLoss(to_bad_pct=0.25, to_good_pct=24.75)
    assert bursts.mean_pct == pytest.approx(1.0)
    assert by_datagrams(thirty).misses(asking(burst_loss=bursts)) == []
    half = counted(arrived=500, rate_bps=UP)
    assert len(by_datagrams(half).misses(asking(burst_loss=bursts))) == 1


def test_duplicates_are_held_against_their_interval() -> None:
    profile = asking(duplicate_pct=2.0)
    assert by_datagrams(counted(duplicated=20, rate_bps=UP)).misses(profile) == []
    (miss,) = by_datagrams(counted(duplicated=0, rate_bps=UP)).misses(profile)
    assert miss.startswith("uplink duplicated 0 of 1000 packets (0 %, asked 2 %: ")


# ----------------------------------------------------------------------------------- round trip


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
        assert found.rtt_rise_ns == p95 - median


def test_jitter_is_the_standard_deviation() -> None:
    assert measured(rtt_ns=(2, 4, 4, 4, 5, 5, 7, 9)).rtt_sd_ns == pytest.approx((32 / 7) ** 0.5)
    assert measured(rtt_ns=(5,)).rtt_sd_ns == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_round_trip_tolerance_is_two_milliseconds_either_way(sign: int) -> None:
    assert measured(rtt_ms=25 + sign * 2).misses(PROFILE) == []
    (miss,) = measured(rtt_ms=25 + sign * 2.02).misses(PROFILE)
    assert miss.startswith(f"round trip {25 + sign * 2.02:.2f} ms ({sign * 2.0:+.1f}")


@pytest.mark.parametrize("sign", [1, -1])
def test_on_a_long_path_two_percent_is_more(sign: int) -> None:
    long = LinkProfile("p", Direction(UP, 150 * MS), Direction(DOWN, 150 * MS))
    assert measured(rtt_ms=300 + sign * 6).misses(long) == []
    assert len(measured(rtt_ms=300 + sign * 6.1).misses(long)) == 1


def from_a(kind: LinkKind, rtt_ms: float) -> LinkMeasurement:
    return measured(rtt_ms=rtt_ms, facts=LinkFacts(kind, UNSHAPED))


def test_a_ping_takes_its_time_at_a_slow_rate() -> None:
    # 61 bytes at 100 kbit/s are 4.88 ms, each way; none of it where a token bucket lets it pass.
    slow = LinkProfile("p", Direction(100_000, 10 * MS), Direction(100_000, 10 * MS))
    fast = {"up_goodput_bps": 1e5 * PAYLOAD_SHARE, "down_goodput_bps": 1e5 * PAYLOAD_SHARE}
    for rtt_ms, misses in ((17.9, 1), (18, 0), (31.76, 0), (31.77, 1)):
        found = msgspec.structs.replace(from_a("kernel", rtt_ms), **fast)
        assert len(found.misses(slow)) == misses, rtt_ms
    # The relay shapes the payload of nine bytes only: 0.75 ms.
    for rtt_ms, misses in ((23.49, 0), (23.5, 1)):
        found = msgspec.structs.replace(from_a("relay", rtt_ms), **fast)
        assert len(found.misses(slow)) == misses, rtt_ms


def test_jitter_widens_the_tolerance_by_three_deviations_of_the_median() -> None:
    profile = LinkProfile(
        "p", Direction(UP, 10 * MS, jitter_ns=3 * MS), Direction(DOWN, 15 * MS, jitter_ns=4 * MS)
    )
    # sigma = 5 ms in quadrature; of 25 samples' median 1.25 * 5 / 5 ms; three of those: 3.75 ms.
    for off_ms, misses in ((5.74, 0), (5.77, 1)):
        samples = (round((25 + off_ms) * MS),) * 25
        found = measured(rtt_ns=samples).misses(profile)
        assert len([miss for miss in found if miss.startswith("round trip")]) == misses
    # A hundred samples know the median twice as well.
    more = (round(30.7 * MS),) * 100
    assert measured(rtt_ns=more).misses(profile)[0].startswith("round trip")


def spread(sigma_ms: float, count: int = 101) -> tuple[int, ...]:
    """Round trips of 25 ms with about this standard deviation, evenly spread."""
    steps = [(2 * i / (count - 1) - 1) * 3**0.5 for i in range(count)]
    return tuple(round((25 + sigma_ms * step) * MS) for step in steps)


def test_jitter_that_is_asked_for_must_be_there() -> None:
    profile = LinkProfile(
        "p", Direction(UP, 10 * MS, jitter_ns=3 * MS), Direction(DOWN, 15 * MS, jitter_ns=4 * MS)
    )
    for sigma_ms, misses in ((0, 1), (2, 1), (3.5, 0), (5, 0), (6.5, 0), (8.5, 1)):
        found = measured(rtt_ns=spread(sigma_ms)).misses(profile)
        assert len(found) == misses, sigma_ms
        assert all(miss.startswith("jitter of the round trip ") for miss in found)
    # A few samples say nothing; neither does jitter that nobody asked for.
    assert measured(rtt_ns=spread(0, 15)).misses(profile) == []
    assert measured(rtt_ns=spread(30)).misses(PROFILE) == []


def test_late_answers_of_a_busy_machine_are_no_jitter() -> None:
    profile = asking(jitter_ns=3 * MS)
    late = (*spread(3), *(400 * MS,) * 5)
    assert measured(rtt_ns=late).rtt_sd_ns > 20 * MS
    assert measured(rtt_ns=late).misses(profile) == []


# -------------------------------------------------------------------------------------- certificate


def test_certified_figures_are_means_of_before_and_after() -> None:
    before, after = measured(rtt_ms=24, up_pct=1), measured(rtt_ms=27, up_pct=-2)
    found = certificate(before, after)
    assert found.rtt_ns == 25.5 * MS
    assert found.up_goodput_bps == pytest.approx(UP * PAYLOAD_SHARE * 0.995)
    assert found.down_goodput_bps == pytest.approx(DOWN * PAYLOAD_SHARE)
    alone = certificate(before, None)
    assert (alone.rtt_ns, alone.up_goodput_bps) == (24 * MS, before.up_goodput_bps)
    assert (alone.loss_pct("up"), alone.udp_bps("up")) == (None, None)


def test_certified_loss_is_of_all_packets_together() -> None:
    before = by_datagrams(counted(arrived=900, rate_bps=8e6))
    after = by_datagrams(counted(sent=3000, arrived=3000, rate_bps=9e6))
    found = certificate(before, after)
    assert found.loss_pct("up") == pytest.approx(2.5)
    assert found.loss_pct("down") == 0
    assert found.udp_bps("up") == 8.5e6
    assert found.udp_bps("down") is None
    assert certificate(before, measured()).loss_pct("up") == 10


def test_what_a_link_carries_is_not_what_tcp_makes_of_losses() -> None:
    lossy = by_datagrams(counted(rate_bps=1.5e6), up_pct=-90)
    assert lossy.payload_bps("up") == pytest.approx(1.448e6)
    assert lossy.payload_bps("down") == lossy.down_goodput_bps
    assert measured().payload_bps("up") == measured().up_goodput_bps
    assert certificate(lossy, lossy).payload_bps("up") == pytest.approx(1.448e6)


def test_violations_say_when() -> None:
    assert certificate(measured(), measured()).violations() == []
    before = certificate(measured(up_pct=-10), measured()).violations()
    assert before == ["uplink goodput 8.69 Mbit/s (-10.0 %) before the run"]
    after = certificate(measured(), measured(rtt_ms=99)).violations()
    assert after == ["round trip 99.00 ms (+73.99) after the run"]
    both = certificate(measured(rtt_ms=99, down_pct=9), measured(rtt_ms=99)).violations()
    assert [text.split()[-3] for text in both] == ["before", "before", "after"]
    lossy = certificate(measured(), by_datagrams(counted(arrived=998))).violations()
    assert lossy == ["uplink lost 2 of 1000 packets (0.2 %, asked 0 %: none) after the run"]


def test_run_that_was_not_measured_after_it_is_a_violation() -> None:
    assert certificate(measured(), None).violations() == ["not measured after the run"]
    found = certificate(measured(up_pct=-10), None).violations()
    assert len(found) == 2


@pytest.mark.parametrize("ended", [True, False])
def test_certificate_survives_json(ended: bool) -> None:
    full = by_datagrams(counted(rate_bps=1.5e6), facts=LinkFacts("kernel", PROFILE), rtt_ms=26)
    found = certificate(measured(), full if ended else None)
    text = msgspec.json.encode(found)
    assert msgspec.json.decode(text, type=LinkCertificate) == found
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text.replace(b'"relay"', b'"tunnel"'), type=LinkCertificate)


@pytest.mark.parametrize("sent", [-1, 10**15])
def test_counts_that_cannot_be_are_refused(sent: int) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(EXACT) | {"sent": sent}, DatagramMeasurement)


def test_a_certificate_of_an_earlier_version_is_still_read() -> None:
    """As it was written before there were datagrams: runs on disk are kept."""
    text = (
        b'{"kind":"relay","profile":{"name":"ten","up":{"rate_bps":10000000,"delay_ns":10000000},'
        b'"down":{"rate_bps":20000000,"delay_ns":15000000}},"before":{"rtt_ns":[25000000],'
        b'"up_goodput_bps":9650000.0,"down_goodput_bps":19300000.0,"up_probe_bytes":1,'
        b'"down_probe_bytes":1,"seconds":1.0,"at":"a:1","taken_utc":"2026-01-01T00:00:00+00:00"},'
        b'"after":null,"before_attempts":1}'
    )
    found = msgspec.json.decode(text, type=LinkCertificate)
    assert found.violations() == ["not measured after the run"]
    assert found.rtt_sd_ns == 0


@pytest.mark.parametrize(("port", "wanted"), [(0, "edge:50052"), (50051, "edge:50051")])
def test_frames_go_where_the_link_said(port: int, wanted: str) -> None:
    facts = LinkFacts("kernel", PROFILE, port)
    assert measured(at="edge:50052", facts=facts).frames_at == wanted
    assert measured(at="edge:50052").frames_at == "edge:50052"
