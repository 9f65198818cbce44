"""Symbols coarse to fine: what lies in what, and which table codes the next finer one.

A symbol stands for the whole number `value = symbol - zero`. At depth k it is known by its *bin*:
2**k values are in each, from the bin around zero outwards, and bins have numbers from there. The
bin around zero is that of the depth before, at odd depths with its two neighbours: 0; -1 to 1 at
depth 1 and 2; -5 to 5 at 3 and 4. So it is between 0.7 and 1.5 times as wide as others, zero is in
the bin 0 at every depth, and every other bin is two of the finer depth. (With the bin around zero
twice as wide at every depth, as in pictures' codecs, MobileNetV2's 64x14x14 cut off at half of its
bytes had half as much more error.)

Every layer comes in two passes, the places whose row + column is even before those where it is odd,
so that each of the latter is coded with its four neighbours, of the same channel, at hand.

* Of the coarsest bins, even ones have a table for each channel (or several alike), odd ones one for
  the channel's class and their neighbours.
* Of a refinement is coded which part of its bin a value lies in, with a table for the pass, the
  channel's class, the bin, and how far the eight neighbours lie above or below, each as finely as
  it is known by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bins = NDArray[np.int16]
Symbols = NDArray[np.uint8]
Numbers = NDArray[np.uint16]

MOST_LAYERS: Final = 6
CLASSES: Final = 2
"""Of channels, by how large their values are."""
PARTS: Final = 3
"""Of a bin: two of those away from zero, the nearer one first; -1, 0 and 1 of the one around it, or
0 alone."""
_MOST_SUM: Final = 4
_MOST_SIZE: Final = 6
COARSEST_KINDS: Final = (_MOST_SIZE + 1) * (2 * _MOST_SUM + 1)
"""Of four neighbours: their magnitudes' sum up to 6, their own sum from -4 to 4."""
FURTHEST_BIN: Final = 3
"""Bins further out are taken as this one."""
BINS: Final = 2 * FURTHEST_BIN + 1
_EDGES: Final = (1, 3, 6, 10, 16, 24, 34)
"""Where classes of leaning begin: neighbours beside count 2, across 1, in finer bins."""
LEANINGS: Final = 2 * len(_EDGES) + 1
FURTHEST: Final = _EDGES[-1]
_KINDS: Final = BINS * LEANINGS
FINER_TABLES: Final = 2 * CLASSES * _KINDS
"""Of one refinement."""

NOTHING: Final = 0x7FFF
"""No bin is as large."""


def _leaning(total: int) -> int:
    magnitude = sum(abs(total) >= edge for edge in _EDGES)
    return len(_EDGES) + (magnitude if total >= 0 else -magnitude)


LEANING_OF: Final = np.array(
    [_leaning(total) for total in range(-_EDGES[-1], _EDGES[-1] + 1)], np.uint16
)
"""From -FURTHEST to FURTHEST."""


def first_finer(class_of: NDArray[np.integer[Any]], odd: bool) -> Numbers:
    """The first table, in one refinement and one pass, of channels of these classes."""
    return (odd * CLASSES + class_of).astype(np.uint16) * np.uint16(_KINDS)


@dataclass(frozen=True)
class Nesting:
    """The bins of an alphabet, depth by depth."""

    alphabet: int
    zero: int

    def ends(self, depth: int) -> tuple[int, int]:
        """The lowest and the highest bin of a depth."""
        low, high = _bins(np.array([-self.zero, self.alphabet - 1 - self.zero]), depth)
        return int(low), int(high)

    def width(self, depth: int) -> int:
        """How many bins there are at a depth."""
        low, high = self.ends(depth)
        return high - low + 1

    def bins(self, depth: int) -> Bins:
        """The bin of each symbol, int16 [256]."""
        return _bins(np.arange(256) - self.zero, depth)

    def span(self, found: int, depth: int) -> tuple[int, int]:
        """The lowest and the highest symbol of a bin."""
        reach = around_zero(depth)
        near = reach + 1 + ((abs(found) - 1) << depth)
        far = near + (1 << depth) - 1
        low, high = (-reach, reach) if found == 0 else (near, far) if found > 0 else (-far, -near)
        return max(low + self.zero, 0), min(high + self.zero, self.alphabet - 1)

    def parts(self, depth: int) -> Symbols:
        """Which part of its bin of the next coarser depth each symbol's is, uint8 [256]."""
        coarse, fine = self.bins(depth + 1), self.bins(depth)
        away = np.abs(fine) - _first_part(np.abs(coarse), depth)
        return np.where(coarse == 0, fine + 1, away).astype(np.uint8)

    def refined(self, depth: int) -> Bins:
        """The bin of each part of each bin of the next coarser depth, [bins x 3]; NOTHING for
        parts that hold no symbol.
        """
        low, high = self.ends(depth + 1)
        coarse = np.repeat(np.arange(low, high + 1), PARTS)
        part = np.tile(np.arange(PARTS), high - low + 1)
        away = np.sign(coarse) * (_first_part(np.abs(coarse), depth) + part)
        fine = np.where(coarse == 0, part - 1, away)
        first, last = self.ends(depth)
        whole = around_zero(depth + 1) == around_zero(depth)
        known = np.where(coarse == 0, (part == 1) | (not whole), part < 2)
        known &= (fine >= first) & (fine <= last)
        return np.where(known, fine, NOTHING).astype(np.int16)


def around_zero(depth: int) -> int:
    """The largest magnitude in the bin around zero."""
    return 0 if depth == 0 else around_zero(depth - 1) + (depth % 2 << (depth - 1))


def _bins(values: NDArray[np.integer[Any]], depth: int) -> Bins:
    beyond = np.abs(values) - around_zero(depth) - 1
    found: Bins = np.where(beyond < 0, 0, np.sign(values) * ((beyond >> depth) + 1))
    return found.astype(np.int16)


def _first_part(coarse: NDArray[Any], depth: int) -> NDArray[Any]:
    """The nearer one of a bin's two, both as distances from the bin around zero."""
    return 2 * coarse - depth % 2


@dataclass(frozen=True, eq=False)
class Plane:
    """Where the places of both passes are, in a plane and in one with zeros around it."""

    height: int
    width: int
    at: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Flat indices of the even places, and of the odd ones, in height x width."""
    framed: tuple[NDArray[np.intp], NDArray[np.intp]]
    """The same in (height + 2) x (width + 2)."""

    @classmethod
    def of(cls, height: int, width: int) -> Plane:
        """Any plane that has a place."""
        row, column = np.divmod(np.arange(height * width, dtype=np.intp), max(1, width))
        odd = (row + column) % 2 == 1
        framed = (row + 1) * (width + 2) + column + 1
        at = np.flatnonzero(~odd), np.flatnonzero(odd)
        return cls(height, width, at, (framed[at[0]], framed[at[1]]))

    @property
    def places(self) -> int:
        """Number of places."""
        return self.height * self.width

    def frame(self, channels: int) -> Bins:
        """Zeros, [channels, (height + 2) x (width + 2)]."""
        return np.zeros((channels, (self.height + 2) * (self.width + 2)), np.int16)

    def finer_tables(self, near: Bins, odd: bool, first: Numbers) -> Numbers:
        """The table of each place of a pass, channel by channel.

        `near` is framed: bins of the finer depth where they are known, twice those of the coarser
        one elsewhere; `first` is of the channels.
        """
        field = near.reshape(-1, self.height + 2, self.width + 2)
        vertical = field[:, :-2] + field[:, 2:]
        total = vertical[:, :, :-2] + vertical[:, :, 2:]
        total += 2 * (vertical[:, :, 1:-1] + field[:, 1:-1, :-2] + field[:, 1:-1, 2:])
        own = near[:, self.framed[odd]]
        leaning = total.reshape(near.shape[0], -1)[:, self.at[odd]] - 12 * own
        np.clip(leaning, -FURTHEST, FURTHEST, out=leaning)
        kind = np.clip(own >> 1, -FURTHEST_BIN, FURTHEST_BIN) + np.int16(FURTHEST_BIN)
        found: Numbers = LEANING_OF[leaning + FURTHEST] + (kind * np.int16(LEANINGS)).astype(
            np.uint16
        )
        found += first[:, None]
        return found.reshape(-1)

    def coarsest_tables(self, near: Bins, first: Numbers) -> Numbers:
        """The table of each odd place, channel by channel, from the framed bins of even ones."""
        row = self.width + 2
        west, east, north, south = (near[:, self.framed[1] + step] for step in (-1, 1, -row, row))
        total = np.clip(west + east + north + south, -_MOST_SUM, _MOST_SUM) + np.int16(_MOST_SUM)
        size = np.abs(west) + np.abs(east) + np.abs(north) + np.abs(south)
        size = np.minimum(size, _MOST_SIZE) * np.int16(2 * _MOST_SUM + 1)
        found: Numbers = (size + total).astype(np.uint16) + first[:, None]
        return found.reshape(-1)
