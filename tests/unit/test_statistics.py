"""Percentiles, shares and paired losses, against exact probabilities and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.statistics import paired_loss, pooled_loss, share
from splitbed.percentile import percentile

# -------------------------------------------------------------------------------------- percentiles


def ranks(count: int, at: float) -> tuple[int | None, int | None]:
    """Ranks of the order statistics that bound the interval, counted from 1."""
    found = percentile(range(1, count + 1), at)
    low = None if found.low is None else round(found.low)
    high = None if found.high is None else round(found.high)
    return low, high


def binomial(count: int, at: float, fewest: int, most: int) -> float:
    """P(fewest <= Binomial(count, at) <= most), term by term."""
    return math.fsum(
        math.comb(count, k) * at**k * (1 - at) ** (count - k) for k in range(fewest, most + 1)
    )


@pytest.mark.parametrize("at", [0.5, 0.95, 0.99])
def test_interval_covers_by_the_binomial_distribution(at: float) -> None:
    for count in (1, 2, 5, 6, 10, 30, 58, 59, 72, 73, 100, 199, 368, 369, 500):
        low, high = ranks(count, at)
        # Below the lower end lie fewer than `low` samples with at most 2.5 %, and so above.
        if low is not None:
            assert binomial(count, at, 0, low - 1) <= 0.025
        if high is not None:
            assert binomial(count, at, high, count) <= 0.025
        # Nor is it wider than it must be: the next rank inwards would leave more outside.
        assert binomial(count, at, 0, low or 0) > 0.025
        assert binomial(count, at, (high or count + 1) - 1, count) > 0.025


@pytest.mark.parametrize("at", [0.5, 0.95])
@pytest.mark.parametrize("count", [30, 200])
def test_interval_covers_in_a_simulation(count: int, at: float) -> None:
    random = np.random.default_rng(count)
    truth, covered, runs = -math.log(1 - at), 0, 1000
    for sample in random.exponential(size=(runs, count)):
        found = percentile(sample, at)
        low = -math.inf if found.low is None else found.low
        high = math.inf if found.high is None else found.high
        covered += low <= truth <= high
    noise = 3 * math.sqrt(0.95 * 0.05 / runs)
    assert covered / runs >= 0.95 - noise


@pytest.mark.parametrize(
    ("count", "at", "ends"),
    [
        # Conover's tables: of 10 samples the median lies between the 2nd and the 9th.
        (10, 0.5, (2, 9)),
        (6, 0.5, (1, 6)),
        (5, 0.5, (None, None)),
        (1, 0.5, (None, None)),
        (100, 0.5, (40, 61)),
        # 0.95^72 < 0.025: with fewer frames there is no upper end for the 95th percentile.
        (71, 0.95, (63, None)),
        (72, 0.95, (64, 72)),
        (100, 0.99, (97, None)),
        (367, 0.99, (359, None)),
        (368, 0.99, (360, 368)),
    ],
)
def test_small_samples_have_no_end_to_give(
    count: int, at: float, ends: tuple[int | None, int | None]
) -> None:
    assert ranks(count, at) == ends


@settings(deadline=None)
@given(
    # Of two samples the interpolated 99th percentile lies below the larger one, which is its bound.
    samples=st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=300),
    at=st.sampled_from([0.5, 0.95, 0.99]),
)
def test_interval_holds_its_value_and_consists_of_samples(samples: list[float], at: float) -> None:
    found = percentile(samples, at)
    assert found.value == float(np.quantile(samples, at))
    if found.low is not None:
        assert found.low in samples
        assert found.low <= found.value
    if found.high is not None:
        assert found.high in samples
        assert found.value <= found.high


def test_order_of_the_samples_is_nothing() -> None:
    samples = list(np.random.default_rng(0).normal(size=100))
    assert percentile(samples, 0.5) == percentile(sorted(samples), 0.5)


def test_large_samples_do_not_lose_the_tails() -> None:
    low, high = ranks(20_000, 0.99)
    # 19800 +- 1.96 * sqrt(20000 * 0.99 * 0.01)
    assert low == pytest.approx(19_772, abs=2)
    assert high == pytest.approx(19_829, abs=2)


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)


# ------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By symmetry.
        (20, 20, 0.8389, 1.0000),
        (5, 10, 0.2366, 0.7634),
    ],
)
def test_wilson_interval_of_published_examples(
    successes: int, count: int, low: float, high: float
) -> None:
    found = share(successes, count)
    assert (found.successes, found.count) == (successes, count)
    assert found.pct == pytest.approx(100 * successes / count)
    assert found.low_pct == pytest.approx(100 * low, abs=0.005)
    assert found.high_pct == pytest.approx(100 * high, abs=0.005)


@given(count=st.integers(1, 10**6), data=st.data())
def test_wilson_interval_stays_within_bounds(count: int, data: st.DataObject) -> None:
    found = share(data.draw(st.integers(0, count)), count)
    assert 0 <= found.low_pct <= found.pct + 1e-9
    assert found.pct - 1e-9 <= found.high_pct <= 100
    assert found.low_pct < found.high_pct


def test_share_of_nothing() -> None:
    with pytest.raises(ValueError, match="no trials"):
        share(0, 0)


# ------------------------------------------------------------------------------------ paired losses


def pairs(both: int, lost: int, won: int, neither: int) -> tuple[list[bool], list[bool]]:
    anchor = [True] * both + [True] * lost + [False] * won + [False] * neither
    other = [True] * both + [False] * lost + [True] * won + [False] * neither
    return anchor, other


def test_paired_loss_by_hand() -> None:
    found = paired_loss(*pairs(both=80, lost=6, won=2, neither=12))
    assert (found.became_wrong, found.became_right) == (6, 2)
    assert found.points == pytest.approx(4.0)
    # With half a picture added: b = 6.5, c = 2.5, n = 102.
    middle, half = 4 / 102, 1.959964 * math.sqrt(9 - 16 / 102) / 102
    assert found.low == pytest.approx(100 * (middle - half), rel=1e-6)
    assert found.high == pytest.approx(100 * (middle + half), rel=1e-6)


def test_nothing_changed_is_not_nothing_known() -> None:
    few, many = paired_loss(*pairs(10, 0, 0, 0)), paired_loss(*pairs(1000, 0, 0, 0))
    assert few.points == many.points == 0
    assert few.low < many.low < 0 < many.high < few.high
    assert few.high == pytest.approx(-few.low)


def test_gain_is_a_negative_loss() -> None:
    worse, better = paired_loss(*pairs(50, 9, 1, 40)), paired_loss(*pairs(50, 1, 9, 40))
    assert better.points == pytest.approx(-8.0)
    assert [better.points, better.low, better.high] == pytest.approx(
        [-worse.points, -worse.high, -worse.low]
    )


def test_paired_interval_covers_in_a_simulation() -> None:
    random = np.random.default_rng(3)
    runs, count, lost, won = 1500, 100, 0.06, 0.02
    covered = 0
    for _ in range(runs):
        kinds = random.multinomial(count, [0.8, lost, won, 1 - 0.8 - lost - won])
        found = paired_loss(*pairs(*map(int, kinds)))
        covered += found.low <= 100 * (lost - won) <= found.high
    assert covered / runs >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_paired_loss_needs_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_loss([True, False], [True])


def test_paired_loss_of_nothing() -> None:
    with pytest.raises(ValueError, match="no"):
        paired_loss([], [])


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_paired_interval_stays_within_bounds(count: int) -> None:
    found = paired_loss(*pairs(0, count, 0, 0))
    assert found.points == 100
    assert -100 <= found.low <= found.high <= 100


def test_pooled_loss_of_one_trial_each_is_the_paired_loss() -> None:
    before, after = pairs(both=80, lost=6, won=2, neither=12)
    pooled = pooled_loss([(a,) for a in before], [(b,) for b in after])
    assert pooled == paired_loss(before, after)


def test_the_same_trial_again_tells_nothing_new() -> None:
    """Three cuts that change the same answers are no three times as many pictures."""
    before, after = pairs(both=80, lost=6, won=2, neither=12)
    pooled = pooled_loss([(a,) * 3 for a in before], [(b,) * 3 for b in after])
    once = paired_loss(before, after)
    assert [pooled.points, pooled.low, pooled.high] == pytest.approx(
        [once.points, once.low, once.high]
    )
    assert (pooled.became_wrong, pooled.became_right) == (18, 6)


def test_trials_that_err_on_other_pictures_narrow_the_interval() -> None:
    count = 200
    apart = [(True, place % 2 == 0) for place in range(40)] + [(True, True)] * (count - 40)
    together = [(False, False)] * 10 + [(True, True)] * (count - 10)
    anchor = [(True, True)] * count
    independent, repeated = pooled_loss(anchor, apart), pooled_loss(anchor, together)
    assert independent.points == repeated.points == 5
    assert independent.high - independent.low < repeated.high - repeated.low


def test_changes_in_both_directions_cancel() -> None:
    anchor = [(False,) * 3] * 3 + [(True,) * 3]
    other = [(True, False, False)] * 3 + [(False,) * 3]
    assert str(pooled_loss(anchor, other).points) == "0.0"
