"""Statistics of raw samples: shares and losses, each with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import msgspec
import numpy as np

from splitbed.student import Z95


class Share(msgspec.Struct, frozen=True):
    """A share of successes with its 95 % Wilson interval, in percent."""

    successes: int
    count: int
    pct: float
    low_pct: float
    high_pct: float


def share(successes: int, count: int) -> Share:
    """Wilson's score interval (1927): right also near 0 and 100 %."""
    if count == 0:
        raise ValueError("no trials")
    p = successes / count
    return Share(successes, count, 100 * p, *_wilson(p, count))


def _wilson(p: float, count: float) -> tuple[float, float]:
    """Both ends, in percent."""
    z2 = Z95**2 / count
    middle = (p + z2 / 2) / (1 + z2)
    half = Z95 * math.sqrt(p * (1 - p) / count + z2 / (4 * count)) / (1 + z2)
    # The ends are exact where every trial went one way; rounding must not move them.
    low = 0.0 if p == 0 else middle - half
    high = 1.0 if p == 1 else middle + half
    return 100 * low, 100 * high


def exact_bounds(successes: int, count: int) -> tuple[float, float]:
    """Least and most of a share in percent, each with 95 % confidence on its own side.

    C. J. Clopper and E. S. Pearson, Biometrika 26 (1934): exact also for shares near 100 %, of
    which Wilson's interval shows or denies too much. Without a failure the least is
    0.05 ** (1 / count), the rule of three.
    """
    if count == 0:
        raise ValueError("no trials")
    return (
        0.0 if successes == 0 else 100 - 100 * _most_share(count - successes, count),
        100.0 if successes == count else 100 * _most_share(successes, count),
    )


def _most_share(found: int, count: int) -> float:
    """The share at which `found` or fewer of `count` have a probability of 5 %."""
    if found == 0:
        return -math.expm1(math.log(0.05) / count)
    k = np.arange(found + 1)
    log_factorial = _log_factorial(count)
    ways = log_factorial[count] - log_factorial[k] - log_factorial[count - k]
    low, high = found / count, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        mass = ways + k * math.log(middle) + (count - k) * math.log1p(-middle)
        low, high = (middle, high) if np.exp(mass).sum() > 0.05 else (low, middle)
    return low


def _log_factorial(count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """ln(k!) for k = 0 .. count."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])


class Estimate(msgspec.Struct, frozen=True):
    """Something in percent that is no share of trials, with its 95 % interval."""

    pct: float
    low_pct: float
    high_pct: float


def clustered_share(successes: Sequence[int], trials: Sequence[int]) -> Share:
    """A share of trials that come in groups, as boxes do in pictures; both by group.

    Wilson's interval on the effective number of trials, that is the number of independent ones
    with which the share would vary as much as it does between the groups (N. Dean and M. Pagano, J.
    Surv. Stat. Methodol. 3 (2015)); never more than there are, nor fewer than groups. Where every
    trial went one way the groups count.
    """
    found = share(sum(successes), sum(trials))
    groups = sum(count > 0 for count in trials)
    p = found.successes / found.count
    independent = float(groups)
    if groups > 1 and 0 < p < 1:
        off = sum((s - p * n) ** 2 for s, n in zip(successes, trials, strict=True))
        variance = off / found.count**2 * groups / (groups - 1)
        independent = p * (1 - p) / variance if variance else found.count
    wide = _wilson(p, min(max(independent, groups), found.count))
    return Share(found.successes, found.count, found.pct, *wide)


class Loss(msgspec.Struct, frozen=True):
    """Points lost against an anchor on the same pictures, with a 95 % interval."""

    points: float
    low: float
    high: float


class PairedLoss(Loss, frozen=True):
    """Points of accuracy, which each picture loses whole or not at all."""

    became_wrong: int
    became_right: int


def paired_loss(anchor: Sequence[bool], other: Sequence[bool]) -> PairedLoss:
    """Net loss of `other` against `anchor`, picture by picture.

    The interval is the normal one for a difference of paired proportions, with half a picture added
    to each kind of change so that it is not empty when nothing changed (Agresti and Min, 2005).
    """
    return pooled_loss([(a,) for a in anchor], [(b,) for b in other])


def pooled_loss(anchor: Sequence[Sequence[bool]], other: Sequence[Sequence[bool]]) -> PairedLoss:
    """The same over several trials of each picture: `anchor[picture][trial]`.

    Trials of one picture are no independent pictures, so the interval is over the pictures, each
    with the mean of its trials; with one trial each it is that of `paired_loss`.
    """
    if not anchor:
        raise ValueError("no pairs")
    lost = [
        [int(a) - int(b) for a, b in zip(before, after, strict=True)]
        for before, after in zip(anchor, other, strict=True)
    ]
    # Exact, so that changes in both directions cancel to zero and not to almost zero.
    exact = [Fraction(sum(changes), len(changes)) for changes in lost]
    means = list(map(float, exact))
    count = len(means) + 2
    middle = sum(means) / count
    half = Z95 * math.sqrt((sum(m * m for m in means) + 1) / count - middle**2) / math.sqrt(count)
    return PairedLoss(
        points=float(100 * sum(exact) / len(exact)),
        low=max(-100.0, 100 * (middle - half)),
        high=min(100.0, 100 * (middle + half)),
        became_wrong=sum(change > 0 for changes in lost for change in changes),
        became_right=sum(change < 0 for changes in lost for change in changes),
    )
