"""How far chance alone may take a measurement from what was asked. Arithmetic only.

A link that loses one packet in a hundred does not lose ten of every thousand. What it may lose is
an interval; a measurement outside of it is the link's fault, and chance's once in a thousand.
"""

from __future__ import annotations

import math
from typing import Final

from splitbed.link import BurstLoss, Direction, LinkProfile

OUTSIDE: Final = 0.001
"""Share of good measurements that fall outside an interval, both sides together."""

_FEWEST_FOR_SPREAD: Final = 20
"""Round trips below which nothing is said of their spread."""


def binomial_interval(trials: int, low: float, high: float) -> tuple[int, int]:
    """Fewest and most successes of `trials` where each has a probability from `low` to `high`.

    Exact: at most half of `OUTSIDE` lies below the fewest at `low`, and above the most at `high`
    (C. J. Clopper, E. S. Pearson, Biometrika 26 (1934), read the other way round).
    """
    return _quantile(trials, low, OUTSIDE / 2), _quantile(trials, high, 1 - OUTSIDE / 2)


def _quantile(trials: int, share: float, level: float) -> int:
    """Fewest successes that are reached with a probability of more than `level`."""
    if share <= 0 or share >= 1:
        return trials if share >= 1 else 0
    mean = trials * share
    spread = math.sqrt(mean * (1 - share))
    # What lies below counts for less than 1e-15.
    count = max(0, math.floor(mean - 9 * spread) - 40)
    whole, yes, no = math.lgamma(trials + 1), math.log(share), math.log1p(-share)
    below = 0.0
    while count < trials:
        ways = whole - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
        below += math.exp(ways + count * yes + (trials - count) * no)
        if below > level:
            break
        count += 1
    return count


def burst_factor(burst: BurstLoss) -> float:
    """How much more the number of lost packets varies than if each were lost on its own.

    The two states are a Markov chain whose memory fades by rho = 1 - p - r a packet. The covariance
    of two losses k packets apart is c rho^k of a loss's own variance, with c the share of that
    variance which comes from the state: pi_b pi_g (loss_b - loss_g)^2 / (m (1 - m)). Summed over
    all pairs of a long run, the variance of the count is the binomial one times
    1 + 2 c rho / (1 - rho). Where states alternate (rho < 0) the factor is left at 1.
    """
    p, r = burst.to_bad_pct / 100, burst.to_good_pct / 100
    mean = burst.mean_pct / 100
    if not 0 < mean < 1:
        return 1.0
    bad = p / (p + r)
    states = bad * (1 - bad) * ((burst.bad_loss_pct - burst.good_loss_pct) / 100) ** 2
    rho = 1 - p - r
    return max(1.0, 1 + 2 * states / (mean * (1 - mean)) * rho / (1 - rho))


def lost_between(sent: int, direction: Direction) -> tuple[int, int]:
    """Fewest and most of `sent` packets that may be missing at the receiver.

    A packet with a flipped bit counts as missing, because its checksum drops it. netem duplicates a
    packet before it loses one of the two, so that duplication may hide its share of the losses.
    With bursts, packets come in clusters of `burst_factor` that are lost or not together: the
    interval is that of so many fewer packets, and one cluster more above it, because the lengths of
    bursts are skewed.
    """
    loss, copies, flips = (
        share / 100
        for share in (direction.mean_loss_pct, direction.duplicate_pct, direction.corrupt_pct)
    )
    low, high = (1 - (1 - each) * (1 - flips) for each in (loss * (1 - copies), loss))
    if direction.burst_loss is None:
        return binomial_interval(sent, low, high)
    clusters = max(1, round(sent / burst_factor(direction.burst_loss)))
    fewest, most = binomial_interval(clusters, low, high)
    size = sent / clusters
    return math.floor(fewest * size), min(sent, math.ceil((most + 1) * size))


def duplicated_between(sent: int, direction: Direction) -> tuple[int, int]:
    """Fewest and most of `sent` packets that may arrive twice.

    Either of the two may be lost, or dropped for a flipped bit, on its own.
    """
    copies = direction.duplicate_pct / 100
    whole = (1 - direction.mean_loss_pct / 100) * (1 - direction.corrupt_pct / 100)
    return binomial_interval(sent, copies * whole**2, copies)


def spread_between(samples: int, profile: LinkProfile) -> tuple[float, float]:
    """Least and most standard deviation of the round trip, in nanoseconds, of so many samples.

    Both directions add in quadrature. From below, a direction counts for less where its delay is
    cut at zero (half a normal distribution keeps 0.58 of its deviation), where jitter is uniform
    (an interval of that half width has 0.58 of it) and where successive values are mixed, which
    narrows them by sqrt((1 - c) / (1 + c)). The deviation of n samples errs by 1 / sqrt(2 n), twice
    that with long tails; three of those errors and one millisecond are allowed either way.
    """
    if samples < _FEWEST_FOR_SPREAD:
        return 0.0, math.inf
    least = 0.0
    for direction in (profile.up, profile.down):
        narrowed = math.sqrt(_independent(direction))
        narrowed *= 0.58 if _is_cut(direction) else 1.0
        narrowed *= 0.58 if direction.jitter_distribution == "uniform" else 1.0
        least += (direction.jitter_ns * narrowed) ** 2
    error = 3 / math.sqrt(2 * _samples_alone(samples, profile))
    if any(_is_long_tailed(direction) for direction in (profile.up, profile.down)):
        error *= 2
    most = profile.up.jitter_ns**2 + profile.down.jitter_ns**2
    return (
        max(0.0, math.sqrt(least) * (1 - error) - 1e6),
        math.sqrt(most) * (1 + error) + 1e6,
    )


def median_error_ns(samples: int, profile: LinkProfile) -> float:
    """How far the median of so many round trips may be from the delays, for their jitter alone.

    Two directions of jitter add in quadrature; the median of n normal values strays by about
    1.25 sigma / sqrt(n), and three of those are no fault of the link. Where a distribution is
    skewed, by its long tail or by its cut at zero, its median is up to half a deviation from its
    mean.
    """
    both = (profile.up, profile.down)
    sigma = math.hypot(*(direction.jitter_ns for direction in both))
    skewed = sum(d.jitter_ns for d in both if _is_cut(d) or _is_long_tailed(d))
    return 3 * 1.25 * sigma / math.sqrt(_samples_alone(samples, profile)) + skewed / 2


def _is_cut(direction: Direction) -> bool:
    return direction.delay_ns < 2 * direction.jitter_ns


def _is_long_tailed(direction: Direction) -> bool:
    return bool(direction.jitter_ns) and direction.jitter_distribution.startswith("pareto")


def _independent(direction: Direction) -> float:
    """(1 - c) / (1 + c): what is left of a sample where each is mixed with the one before."""
    mixed = min(direction.jitter_correlation_pct, 99) / 100
    return (1 - mixed) / (1 + mixed)


def _samples_alone(samples: int, profile: LinkProfile) -> float:
    return max(1.0, samples * min(_independent(profile.up), _independent(profile.down)))
