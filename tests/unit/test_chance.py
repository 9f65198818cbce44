"""What chance may do: exact intervals, bursts and jitter against what really happens."""

from __future__ import annotations

import math
import random
import statistics
from fractions import Fraction

import pytest

from splitbed.chance import (
    OUTSIDE,
    binomial_interval,
    burst_factor,
    duplicated_between,
    lost_between,
    median_error_ns,
    spread_between,
)
from splitbed.link import BurstLoss, Direction, LinkProfile

MS = 1_000_000


def below(count: int, trials: int, share: Fraction) -> Fraction:
    """Exact probability of fewer than `count` successes."""
    return sum(
        (
            math.comb(trials, k) * share**k * (1 - share) ** (trials - k)
            for k in range(min(count, trials + 1))
        ),
        Fraction(0),
    )


@pytest.mark.parametrize("trials", [1, 10, 137, 1000])
@pytest.mark.parametrize("share", [Fraction(1, 1000), Fraction(1, 100), Fraction(1, 3)])
def test_the_interval_is_the_exact_one(trials: int, share: Fraction) -> None:
    half = Fraction(OUTSIDE) / 2
    low, high = binomial_interval(trials, float(share), float(share))
    assert below(low, trials, share) <= half < below(low + 1, trials, share)
    above = [1 - below(high + more, trials, share) for more in (0, 1)]
    assert above[1] <= half <= above[0]


@pytest.mark.parametrize("trials", [0, 1, 5000])
def test_certainties(trials: int) -> None:
    assert binomial_interval(trials, 0, 0) == (0, 0)
    assert binomial_interval(trials, 1, 1) == (trials, trials)


def test_many_packets() -> None:
    # No underflow where a single probability is far below the smallest number.
    low, high = binomial_interval(1_000_000, 0.4, 0.4)
    spread = math.sqrt(1_000_000 * 0.24)
    assert (400_000 - low) / spread == pytest.approx(3.29, abs=0.02)
    assert (high - 400_000) / spread == pytest.approx(3.29, abs=0.02)


def test_a_range_of_shares_has_the_widest_interval() -> None:
    low, high = binomial_interval(1000, 0.01, 0.02)
    assert low == binomial_interval(1000, 0.01, 0.01)[0]
    assert high == binomial_interval(1000, 0.02, 0.02)[1]


# --------------------------------------------------------------------------------------- bursts

BURSTS = [
    BurstLoss(1, 25),
    BurstLoss(0.5, 30),
    BurstLoss(2, 50, 80, 0.1),
    BurstLoss(5, 20, 50, 1),
]


def lost_in_bursts(burst: BurstLoss, sent: int, chance: random.Random) -> int:
    bad = chance.random() < burst.to_bad_pct / (burst.to_bad_pct + burst.to_good_pct)
    lost = 0
    for _ in range(sent):
        turns = burst.to_good_pct if bad else burst.to_bad_pct
        bad ^= chance.random() * 100 < turns
        lost += chance.random() * 100 < (burst.bad_loss_pct if bad else burst.good_loss_pct)
    return lost


@pytest.mark.parametrize("burst", BURSTS)
def test_bursts_vary_as_the_factor_says(burst: BurstLoss) -> None:
    chance, sent, runs = random.Random(7), 800, 700
    counts = [lost_in_bursts(burst, sent, chance) for _ in range(runs)]
    mean = burst.mean_pct / 100
    assert statistics.fmean(counts) == pytest.approx(sent * mean, rel=0.1)
    factor = statistics.variance(counts) / (sent * mean * (1 - mean))
    assert factor == pytest.approx(burst_factor(burst), rel=0.2)
    low, high = lost_between(sent, Direction(burst_loss=burst))
    assert sum(not low <= count <= high for count in counts) <= 4
    # And not so wide that nothing is outside.
    assert high < sent * mean + 6 * statistics.stdev(counts)


def test_the_classic_model_in_closed_form() -> None:
    # All lost in the bad state, none in the good one: (1 + rho) / (1 - rho).
    rho = 1 - 0.01 - 0.25
    assert burst_factor(BurstLoss(1, 25)) == pytest.approx((1 + rho) / (1 - rho))


def test_bursts_that_are_none() -> None:
    assert burst_factor(BurstLoss(1, 99)) == 1  # no memory
    assert burst_factor(BurstLoss(90, 90)) == 1  # states alternate
    assert burst_factor(BurstLoss(5, 20, 3, 3)) == 1  # the same in both
    assert burst_factor(BurstLoss(5, 20, 0, 0)) == 1
    assert lost_between(500, Direction(burst_loss=BurstLoss(5, 20, 0, 0)))[0] == 0


# --------------------------------------------------------------------- several effects at once


def through(direction: Direction, sent: int, chance: random.Random) -> tuple[int, int]:
    """What netem makes of packets: lost, and arrived twice."""
    lost = twice = 0
    for _ in range(sent):
        copies = 1 + (chance.random() * 100 < direction.duplicate_pct)
        copies -= chance.random() * 100 < direction.loss_pct
        if copies == 2:  # the second one is sent through once more
            copies -= chance.random() * 100 < direction.loss_pct
        arrived = sum(chance.random() * 100 >= direction.corrupt_pct for _ in range(copies))
        lost += arrived == 0
        twice += arrived == 2
    return lost, twice


def test_effects_together() -> None:
    direction = Direction(loss_pct=5, duplicate_pct=10, corrupt_pct=3)
    chance, sent, runs = random.Random(3), 1000, 400
    found = [through(direction, sent, chance) for _ in range(runs)]
    low, high = lost_between(sent, direction)
    assert sum(not low <= lost <= high for lost, _ in found) <= 3
    low, high = duplicated_between(sent, direction)
    assert sum(not low <= twice <= high for _, twice in found) <= 3


def test_nothing_asked_allows_nothing() -> None:
    assert lost_between(1000, Direction()) == (0, 0)
    assert duplicated_between(1000, Direction(loss_pct=5)) == (0, 0)


# --------------------------------------------------------------------------------------- jitter


def jittery(up: Direction, down: Direction) -> LinkProfile:
    return LinkProfile("p", up, down)


def round_trips(profile: LinkProfile, count: int, chance: random.Random) -> list[float]:
    return [
        sum(
            max(0.0, chance.gauss(direction.delay_ns, direction.jitter_ns))
            for direction in (profile.up, profile.down)
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    "profile",
    [
        jittery(Direction(delay_ns=40 * MS, jitter_ns=10 * MS), Direction()),
        jittery(
            Direction(delay_ns=40 * MS, jitter_ns=10 * MS),
            Direction(delay_ns=20 * MS, jitter_ns=8 * MS),
        ),
        jittery(Direction(jitter_ns=10 * MS), Direction(delay_ns=5 * MS, jitter_ns=10 * MS)),
    ],
    ids=["one way", "both ways", "cut at zero"],
)
def test_real_jitter_is_within_its_bounds(profile: LinkProfile) -> None:
    chance, count, runs = random.Random(5), 100, 400
    low, high = spread_between(count, profile)
    error_ns = median_error_ns(count, profile)
    strays = 0
    for _ in range(runs):
        found = round_trips(profile, count, chance)
        off_ns = abs(statistics.median(found) - profile.rtt_ns)
        strays += not (low <= statistics.stdev(found) <= high and off_ns <= error_ns)
    assert strays <= 3
    # Half of it, or twice as much, is outside where nothing is cut.
    if profile.down.delay_ns != 5 * MS:
        sigma = math.hypot(profile.up.jitter_ns, profile.down.jitter_ns)
        assert low > sigma / 2
        assert high < sigma * 2


def test_few_samples_say_nothing_of_a_spread() -> None:
    profile = jittery(Direction(delay_ns=40 * MS, jitter_ns=10 * MS), Direction())
    assert spread_between(19, profile) == (0, math.inf)
    assert spread_between(20, profile)[0] < spread_between(200, profile)[0]


def test_mixed_and_skewed_jitter_is_allowed_more() -> None:
    plain = Direction(delay_ns=40 * MS, jitter_ns=10 * MS)
    mixed = Direction(delay_ns=40 * MS, jitter_ns=10 * MS, jitter_correlation_pct=50)
    tailed = Direction(delay_ns=40 * MS, jitter_ns=10 * MS, jitter_distribution="pareto")
    even = Direction(delay_ns=40 * MS, jitter_ns=10 * MS, jitter_distribution="uniform")
    alone = spread_between(100, jittery(plain, Direction()))
    for direction in (mixed, tailed, even):
        found = spread_between(100, jittery(direction, Direction()))
        assert found[0] < alone[0]
        assert found[1] >= alone[1]
    error_ns = median_error_ns(100, jittery(plain, Direction()))
    assert error_ns == pytest.approx(3 * 1.25 * 10 * MS / 10)
    assert median_error_ns(100, jittery(mixed, Direction())) == pytest.approx(error_ns * 3**0.5)
    assert median_error_ns(100, jittery(tailed, Direction())) == pytest.approx(error_ns + 5 * MS)
    assert median_error_ns(100, jittery(Direction(), Direction())) == 0
