"""How delays stray: the distributions that both backends draw from."""

from __future__ import annotations

import random
from functools import cache
from statistics import NormalDist, fmean, pstdev
from typing import Final

from splitbed.link import Direction

TABLE_SIZE: Final = 4096
LARGEST: Final = 32767 / 8192
"""Values end there, in standard deviations: the kernel holds them in 16 bits."""


@cache
def quantiles(name: str) -> tuple[float, ...]:
    """A distribution of mean 0 and standard deviation 1 as 4096 values of equal chance.

    `pareto` has the shape 3 (its variance is finite); `paretonormal` is three parts of it and one
    of normal, drawn independently, as in iproute2. Values end at four standard deviations, and
    what that cuts off is made up for.
    """
    places = [(i + 0.5) / TABLE_SIZE for i in range(TABLE_SIZE)]
    normal = [NormalDist().inv_cdf(place) for place in places]
    pareto = [(1 - place) ** (-1 / 3) for place in places]
    if name == "normal":
        values = normal
    elif name == "uniform":
        values = places
    elif name == "pareto":
        values = pareto
    else:
        random.Random(1).shuffle(normal)
        values = [0.25 * n + 0.75 * p for n, p in zip(normal, _standard(pareto), strict=True)]
    for _ in range(8):
        values = [max(-LARGEST, min(LARGEST, value)) for value in _standard(values)]
    return tuple(values)


class Jitter:
    """Draws what a direction's delay strays by, in nanoseconds, packet by packet.

    With a correlation, so much of a packet's chance is that of the packet before it, as netem has
    it: chance mixes, not the delays, so the spread is a little less.
    """

    def __init__(self, direction: Direction, seed: int) -> None:
        self._jitter_ns = direction.jitter_ns
        self._share = direction.jitter_correlation_pct / 100
        self._places = sorted(quantiles(direction.jitter_distribution))
        self._random = random.Random(seed)
        self._last = self._random.random()

    def draw_ns(self) -> float:
        """The next one; 0.0 where there is no jitter."""
        if not self._jitter_ns:
            return 0.0
        self._last = self._share * self._last + (1 - self._share) * self._random.random()
        return self._jitter_ns * self._places[int(self._last * TABLE_SIZE)]


def _standard(values: list[float]) -> list[float]:
    mean, deviation = fmean(values), pstdev(values)
    return [(value - mean) / deviation for value in values]
