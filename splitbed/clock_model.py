"""What a clock may read, as a region: the model of a drifting clock, and inequalities that cut it.

The rate of a peer's clock against one's own is off by a constant of at most `MOST_RATE`, give or
take `WANDER` at any time (temperature; a time daemon that slews). What is possible is then a convex
polygon in the plane of rate and offset. Each inequality cuts it, passing time shears it and widens
it by WANDER; its largest and smallest offset are bounds that hold. Set-membership estimation
(Schweppe 1968); for clocks, the convex hulls of Moon, Skelly and Towsley (INFOCOM 1999).
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

MOST_RATE: Final = 500e-6
"""Two clocks' rates differ by at most this: 500 ppm, what kernels and NTP allow (RFC 5905)."""

WANDER: Final = 20e-6
"""Within a run the rate stays this near to a constant: 20 ppm, a crystal over all temperatures."""

TOTAL_RATE: Final = MOST_RATE + WANDER


class Limit(NamedTuple):
    """The offset is at most (`sign` 1) or at least (-1) `offset` at the own time `at`."""

    at: float
    sign: int
    offset: float

    def mirrored(self) -> Limit:
        """The same for time that runs backwards."""
        return self._replace(at=-self.at)


class Belief(NamedTuple):
    """Every rate and offset that the clock may have at a time: a convex polygon's corners."""

    at: float
    corners: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, first: Limit, second: Limit) -> Self:
        """A box about what one exchange allows, and every rate."""
        parted = TOTAL_RATE * (second.at - first.at)
        low = min(first.offset, second.offset) - parted
        high = max(first.offset, second.offset) + parted
        rates = (-MOST_RATE, MOST_RATE)
        return cls(first.at, _hull([(rate, end) for rate in rates for end in (low, high)]))

    def between(self, at: float) -> tuple[float, float]:
        """Smallest and largest offset at a time, later or earlier."""
        passed = at - self.at
        offsets = [offset + rate * passed for rate, offset in self.corners]
        wide = WANDER * abs(passed)
        return min(offsets) - wide, max(offsets) + wide

    def joined(self, other: Self) -> Self:
        """What both believe of the same time, with what is believed of rates after mirroring.

        It is not checked whether anything is: where rounding leaves nothing, this one stands.
        """
        left = list(self.corners)
        around = other.corners
        if len(around) < 3:
            return self
        for begin, end in zip(around, (*around[1:], around[0]), strict=True):
            left = _cut(left, begin, end, around)
            if not left:
                return self
        return self._replace(corners=_hull(left))

    def mirrored(self) -> Self:
        """The same for time that runs backwards."""
        # A mirror turns the way round that corners are listed in.
        return self._replace(at=-self.at, corners=tuple((-r, o) for r, o in self.corners[::-1]))

    def moved(self, at: float) -> Self:
        """What it makes of another time, later or earlier."""
        passed = at - self.at
        wide = WANDER * abs(passed)
        return self._replace(
            at=at,
            corners=_hull(
                [
                    (rate, offset + rate * passed + way)
                    for rate, offset in self.corners
                    for way in (-wide, wide)
                ]
            ),
        )

    def is_cut_by(self, limit: Limit) -> bool:
        """False where the limit says nothing that is not believed already."""
        low, high = self.between(limit.at)
        return high > limit.offset if limit.sign > 0 else low < limit.offset

    def limited(self, limit: Limit) -> Self | None:
        """What is left of it, at that limit's time or its own, the later; None where nothing is."""
        here = self if limit.at < self.at else self.moved(limit.at)
        # An earlier limit is one of the offset less what the rate has made since: a slanted cut. To
        # go back to it and forth again would widen by WANDER what was known better.
        passed = here.at - limit.at
        most = limit.offset + limit.sign * WANDER * passed
        left = _clipped(here.corners, limit.sign, most, passed)
        return here._replace(corners=left) if left else None


def believed(pairs: list[tuple[Limit, Limit]]) -> list[Belief] | None:
    """What is known at the time of each limit by all of them; None where they contradict.

    A pair is what one exchange tells, in the order of its times; pairs may overlap.
    """
    before = _beliefs(pairs)
    # Time that runs backwards is a clock like any other, whose drift has the other sign.
    after = _beliefs([(b.mirrored(), a.mirrored()) for a, b in pairs])
    if before is None or after is None:
        return None
    return [
        belief.joined(later.mirrored())
        for belief, later in zip(before, reversed(after), strict=True)
    ]


def _beliefs(pairs: list[tuple[Limit, Limit]]) -> list[Belief] | None:
    if not pairs:
        return []
    found: list[Belief] = []
    belief: Belief | None = Belief.of(*min(pairs, key=lambda pair: pair[0].at))
    for limit in sorted(limit for pair in pairs for limit in pair):
        belief = belief and belief.limited(limit)
        if belief is None:
            return None
        found.append(belief)
    return found


def _clipped(
    corners: tuple[tuple[float, float], ...], sign: int, most: float, slope: float
) -> tuple[tuple[float, float], ...]:
    """A polygon cut at an offset of `most + slope * rate` (Sutherland and Hodgman 1974)."""
    kept: list[tuple[float, float]] = []
    for (rate, offset), (next_rate, next_offset) in zip(
        corners, (*corners[1:], corners[0]), strict=True
    ):
        over = sign * (offset - most - slope * rate)
        next_over = sign * (next_offset - most - slope * next_rate)
        if over <= 0:
            kept.append((rate, offset))
        if over * next_over < 0:
            edge = rate + over / (over - next_over) * (next_rate - rate)
            kept.append((edge, most + slope * edge))
    return tuple(kept)


def _cut(
    corners: list[tuple[float, float]],
    begin: tuple[float, float],
    end: tuple[float, float],
    around: tuple[tuple[float, float], ...],
) -> list[tuple[float, float]]:
    """The part of a polygon to the left of an edge of another one, `around`.

    Between two corners that are all but one, rounding turns an edge any way. So the line that cuts
    runs that way, but past every corner of the other: it cuts off nothing of what they share.
    """
    kept: list[tuple[float, float]] = []
    least = min([_turn(begin, end, corner) for corner in around])
    sides = [_turn(begin, end, corner) - least for corner in corners]
    if min(sides) >= 0:
        return corners
    for here, there, inside, next_inside in zip(
        corners, (*corners[1:], corners[0]), sides, (*sides[1:], sides[0]), strict=True
    ):
        if inside >= 0:
            kept.append(here)
        if inside * next_inside < 0:
            share = inside / (inside - next_inside)
            kept.append(
                (here[0] + share * (there[0] - here[0]), here[1] + share * (there[1] - here[1]))
            )
    return kept


def _hull(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Corners of the convex hull, in order around it (Andrew's monotone chain, 1979)."""
    points = sorted(set(points))
    if len(points) < 3:
        return tuple(points)
    return (*_chain(points), *_chain(points[::-1]))


def _chain(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    chain: list[tuple[float, float]] = []
    for point in points:
        while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    return chain[:-1]


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
