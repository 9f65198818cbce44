"""How often a 95 % interval of a latency percentile holds the truth, by three methods.

    python tests/benchmarks/intervals.py [TRIALS]

Streams of latencies are made whose percentiles are known (of two million samples): independent
ones, ones that are like those before them (autoregressive), times in a queue at 80 % of its
capacity with Poisson arrivals, and frames of which one in 400 meets a stall. For each there are the
order statistics of independent samples, the stationary bootstrap (D. N. Politis, J. P. Romano, JASA
89 (1994); 200 resamples, blocks by the rule of Politis and White), and what splitbed prints: order
statistics for as many independent samples as tell as much. `open`: the share of trials in which
splitbed prints a dash for the upper end; such an interval holds whatever lies above.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from splitbed.dependence import memory
from splitbed.latency import stream_percentile
from splitbed.percentile import Floats, Percentile, percentile

Random = np.random.Generator
SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
COUNTS: Final = (200, 1000, 3000)
_TRUTH: Final = 2_000_000
_RESAMPLES: Final = 200


def independent(count: int, random: Random) -> Floats:
    """Exponential latencies."""
    return random.exponential(size=count)


def autoregressive(count: int, random: Random) -> Floats:
    """Log-normal, a correlation of 0.9 from each to the next."""
    steps = random.normal(size=count + 200) * math.sqrt(1 - 0.81)
    value, found = float(random.normal()), np.empty(count + 200)
    for at, step in enumerate(steps.tolist()):
        value = 0.9 * value + step
        found[at] = value
    return np.exp(found[200:] / 2)


def queued(count: int, random: Random) -> Floats:
    """Times in the system of M/D/1 at a load of 0.8, in service times."""
    return _served(random.exponential(1 / 0.8, count + 1000), np.ones(count + 1000))[1000:]


def stalled(count: int, random: Random) -> Floats:
    """Evenly spaced frames, one of 400 of which takes twenty times as long."""
    work = 0.5 + random.exponential(0.05, count + 100)
    work[random.random(count + 100) < 1 / 400] += 20
    return _served(np.ones(count + 100), work)[100:]


def _served(gaps: Floats, work: Floats) -> Floats:
    """Time from arrival to the end of service, first come, first served."""
    left = np.concatenate([[0.0], np.cumsum(work - gaps)[:-1]])  # if a server could work ahead
    return left - np.minimum.accumulate(left) + work


STREAMS: Final[dict[str, Callable[[int, Random], Floats]]] = {
    "independent": independent,
    "autoregressive": autoregressive,
    "queue at 80 %": queued,
    "rare stalls": stalled,
}


def bootstrap(sample: Floats, random: Random) -> list[Percentile]:
    """The percentile intervals of stationary resamples; they always have both ends."""
    count = len(sample)
    fresh = random.random((_RESAMPLES, count)) < 1 / _block(sample)
    fresh[:, 0] = True
    place = np.arange(count)
    begun = np.maximum.accumulate(np.where(fresh, place, 0), axis=1)
    starts = np.take_along_axis(random.integers(0, count, fresh.shape), begun, axis=1)
    shares = list(SHARES.values())
    values = np.quantile(sample[(starts + place - begun) % count], shares, axis=1)
    ends = np.quantile(values, [0.025, 0.975], axis=1).T
    return [
        Percentile(float(np.quantile(sample, share)), float(low), float(high))
        for share, (low, high) in zip(shares, ends, strict=True)
    ]


def _block(sample: Floats) -> float:
    """Mean length of a block, as corrected by A. Patton and others, Econometric Reviews 28."""
    count, lags = len(sample), 2 * max(1, memory(sample.tolist()))
    centred = sample - sample.mean()
    at = np.arange(1, min(lags, count - 1) + 1)
    covariance = np.array([centred[k:] @ centred[: count - k] / count for k in at])
    window = np.minimum(1.0, 2 * (1 - at / lags))
    density = float(centred @ centred) / count + 2 * float(window @ covariance)
    slope = 2 * float(window @ (at * covariance))
    if density <= 0:
        return 1.0
    best = (slope**2 / density**2) ** (1 / 3) * count ** (1 / 3)
    return float(min(max(best, 1.0), min(3 * math.sqrt(count), count / 3)))


def main() -> None:
    """Print the table."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(f"share of {trials} trials in which the 95 % interval holds the true percentile\n")
    print("                                   order       stationary")
    print("stream           frames  at   statistics        bootstrap     splitbed   open")
    for name, make in STREAMS.items():
        random = np.random.default_rng(1)
        truth = np.quantile(make(_TRUTH, random), list(SHARES.values()))
        for count in COUNTS:
            samples = [make(count, random) for _ in range(trials)]
            resampled = [bootstrap(sample, random) for sample in samples]
            alike = [memory(sample) for sample in samples]
            for at, (label, share) in enumerate(SHARES.items()):
                true = truth[at]
                plain = [percentile(sample.tolist(), share) for sample in samples]
                again = [found[at] for found in resampled]
                ours = [
                    stream_percentile(sample.tolist(), share, lags)
                    for sample, lags in zip(samples, alike, strict=True)
                ]
                held = [np.mean([_holds(p, true) for p in found]) for found in (plain, again, ours)]
                is_open = np.mean([found.high is None for found in ours])
                print(
                    f"{name:<16} {count:>6,} {label}  {held[0]:>10.2f} {held[1]:>16.2f} "
                    f"{held[2]:>12.2f} {is_open:>6.2f}",
                    flush=True,
                )
    sample = queued(10_000, np.random.default_rng(2)).tolist()
    start = time.perf_counter()
    over = memory(sample)
    for share in (0.5, 0.9, 0.95, 0.99, 0.999):
        stream_percentile(sample, share, over)
    print(f"\n{1e3 * (time.perf_counter() - start):.0f} ms for five percentiles of 10,000 frames")


def _holds(found: Percentile, truth: float) -> bool:
    low = -math.inf if found.low is None else found.low
    return low <= truth <= (math.inf if found.high is None else found.high)


if __name__ == "__main__":
    main()
