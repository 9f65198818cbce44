"""Intervals of frames that are like the ones before them: do they cover, and when are they wide?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest

from experiments.series import stream_mean
from experiments.statistics import exact_bounds
from splitbed.dependence import effective, memory
from splitbed.latency import stream_percentile
from splitbed.percentile import percentile

Random = np.random.Generator


def alone(count: int, random: Random) -> list[float]:
    return list(random.exponential(size=count))


def alike(count: int, random: Random) -> list[float]:
    """Autoregressive, 0.9 from each to the next."""
    found, value = [], random.normal()
    for step in random.normal(size=count) * math.sqrt(1 - 0.81):
        value = 0.9 * value + step
        found.append(math.exp(value))
    return found


def queued(count: int, random: Random) -> list[float]:
    """Times in a queue at 80 % of its capacity, with Poisson arrivals (from its steady state)."""
    found, wait = [], 0.0
    for gap in random.exponential(1 / 0.8, count + 300):
        found.append(wait + 1)
        wait = max(0.0, wait + 1 - gap)
    return found[300:]


def covered(
    make: Callable[[int, Random], list[float]], truth: float, share: float, is_stream: bool
) -> float:
    random, inside, runs = np.random.default_rng(4), 0, 120
    for _ in range(runs):
        sample = make(1000, random)
        if is_stream:
            found = stream_percentile(sample, share, memory(sample))
        else:
            found = percentile(sample, share)
        low = -math.inf if found.low is None else found.low
        inside += low <= truth <= (math.inf if found.high is None else found.high)
    return inside / runs


@pytest.mark.parametrize(
    ("make", "share", "truth"),
    [
        (alike, 0.5, 1.0),
        (alike, 0.95, math.exp(1.6449)),
        # Of 1.5 million frames.
        (queued, 0.5, 2.28),
        (queued, 0.95, 7.63),
    ],
)
def test_it_covers_where_order_statistics_do_not(
    make: Callable[[int, Random], list[float]], share: float, truth: float
) -> None:
    assert covered(make, truth, share, is_stream=True) > 0.84
    assert covered(make, truth, share, is_stream=False) < 0.7


def test_frames_that_are_independent_keep_their_order_statistics() -> None:
    random, same = np.random.default_rng(0), 0
    for _ in range(50):
        sample = alone(500, random)
        same += stream_percentile(sample, 0.95, memory(sample)) == percentile(sample, 0.95)
    assert same > 35
    assert covered(alone, -math.log(0.05), 0.95, is_stream=True) > 0.9


def test_memory_is_the_length_of_a_likeness() -> None:
    random = np.random.default_rng(1)
    steps = random.normal(size=3000)
    means = np.convolve(steps, np.ones(8) / 8, "valid")  # alike over 7
    assert 5 <= memory(list(means)) <= 12
    assert memory(list(random.normal(size=3000))) <= 2
    assert memory([1.0] * 100) == 0
    assert memory([3.0, 1.0, 2.0]) == 0
    drift = [float(number) for number in range(200)]
    assert memory(drift) > 20


def test_one_stall_cannot_tell_a_tail() -> None:
    """Twenty slow frames in a row are one event, and one event has no upper end."""
    random = np.random.default_rng(2)
    together = list(random.normal(100, 1, 1000))
    together[500:520] = list(np.linspace(2000, 100, 20))
    apart = list(random.permutation(together))
    assert stream_percentile(apart, 0.99, memory(apart)).high is not None
    assert stream_percentile(together, 0.99, memory(together)).high is None
    # The middle of the run knows nothing of it.
    assert stream_percentile(together, 0.5, memory(together)).high == pytest.approx(100, abs=1)


def test_too_few_frames_for_a_tail() -> None:
    sample = alone(300, np.random.default_rng(3))
    found = stream_percentile(sample, 0.999, memory(sample))
    assert found.value == pytest.approx(float(np.quantile(sample, 0.999)))
    assert found.high is None


def test_effective_number() -> None:
    random = np.random.default_rng(5)
    mixed = random.random(2000) < 0.3
    assert effective(mixed, 0) > 1500
    blocks = np.repeat(random.random(100) < 0.3, 20)
    assert 40 < effective(blocks, 0) < 200
    assert effective(np.ones(50, bool), 0) == 50


def test_mean_of_a_stream() -> None:
    random, inside = np.random.default_rng(6), 0
    for _ in range(150):
        found = stream_mean(alike(600, random))
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= math.exp(0.5) <= found.high
    assert inside / 150 > 0.85
    assert stream_mean([1.0, 2.0]).low is None


def test_ten_thousand_frames_take_no_second() -> None:
    """Some milliseconds on an idle core; the bound is for a busy one."""
    sample = alike(10_000, np.random.default_rng(7))
    start = time.process_time()
    for share in (0.5, 0.9, 0.95, 0.99, 0.999):
        stream_percentile(sample, share, memory(sample))
    assert time.process_time() - start < 1


# --------------------------------------------------------------------------------- exact confidence


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (12, 12, 77.91, 100.0),  # 0.05^(1/12)
        (299_572, 299_572, 99.999, 100.0),
        (0, 10, 0.0, 25.89),
        # Clopper and Pearson's one-sided 95 % limits.
        (5, 10, 22.24, 77.76),
        (9, 10, 60.58, 99.49),
    ],
)
def test_exact_bounds(successes: int, count: int, low: float, high: float) -> None:
    assert exact_bounds(successes, count) == pytest.approx((low, high), abs=0.006)


def test_exact_bounds_need_trials() -> None:
    with pytest.raises(ValueError, match="no trials"):
        exact_bounds(0, 0)
