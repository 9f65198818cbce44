"""Symbols coarse to fine: what lies in what, and which table codes the next finer one.

A symbol stands for the whole number `value = symbol - zero`. At depth k it is known as
sign(value) * (|value| >> k), its *bin*: bins at depth 0 are the values, and a bin is made of two of
the next finer depth, the one around zero of three. So zero is in the bin 0 at every depth.

What is coded of a refinement is which part of its bin a value lies in, with a table chosen by the
channel's class, by the bin, and by how the eight neighbours, at the coarser depth, lie to it: all of
them are known by then. Of the coarsest bins those at even places (row + column) come first, and
each of the others is coded with its four neighbours at hand.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bins = NDArray[np.int16]

MOST_DEPTH: Final = 6
CLASSES: Final = 8
"""Of channels, by how large their values are."""
PARTS: Final = 3
"""Of a bin: the lower two for those away from zero, -1, 0 and 1 for the one around it."""
BIN_KINDS: Final = 7
"""Bins -3 to 3; those further out are taken as these."""
_EDGES: Final = (1, 2, 5, 9, 15)
LEANINGS: Final = 2 * len(_EDGES) + 1
"""Classes of how far the neighbours lie above or below."""
_FURTHEST: Final = 16
COARSE_KINDS: Final = 25
"""Of four neighbours: their magnitudes' sum up to 4, their own sum from -2 to 2."""


def _leaning(total: int) -> int:
    magnitude = sum(abs(total) >= edge for edge in _EDGES)
    return LEANINGS // 2 + (magnitude if total >= 0 else -magnitude)


_LEANING_OF: Final = np.array(
    [_leaning(total) for total in range(-_FURTHEST, _FURTHEST + 1)], np.uint16
)


def ends(alphabet: int, zero: int, depth: int) -> tuple[int, int]:
    """The lowest and the highest bin of a depth."""
    return -(zero >> depth), (alphabet - 1 - zero) >> depth


def width(alphabet: int, zero: int, depth: int) -> int:
    """How many bins there are at a depth."""
    low, high = ends(alphabet, zero, depth)
    return high - low + 1


def bins_of(values: NDArray[Any], depth: int) -> Bins:
    """The bins of whole numbers."""
    found: Bins = (np.sign(values) * (np.abs(values) >> depth)).astype(np.int16)
    return found


def span(bin_: int, alphabet: int, zero: int, depth: int) -> tuple[int, int]:
    """The lowest and the highest symbol of a bin."""
    size = 1 << depth
    if bin_ == 0:
        low, high = 1 - size, size - 1
    elif bin_ > 0:
        low, high = bin_ * size, bin_ * size + size - 1
    else:
        low, high = bin_ * size - size + 1, bin_ * size
    return max(low + zero, 0), min(high + zero, alphabet - 1)


def parts_of(coarse: Bins, fine: Bins) -> NDArray[np.uint8]:
    """Which part of its coarse bin each fine bin is."""
    away = np.abs(fine) - 2 * np.abs(coarse)
    return np.where(coarse == 0, fine + 1, away).astype(np.uint8)


def refined(coarse: Bins, part: NDArray[np.uint8]) -> Bins:
    """The fine bins again. A part that its bin does not have gives one that lies beyond the bin."""
    given = part.astype(np.int16)
    return np.where(coarse == 0, given - 1, 2 * coarse + np.sign(coarse) * given)


def refinement_tables(coarse: Bins, class_of: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The table of each element, of [channels, height, width]; `class_of` is of the channels."""
    padded = np.pad(coarse, ((0, 0), (1, 1), (1, 1)))
    vertical = padded[:, :-2] + padded[:, 2:]
    total = vertical[:, :, 1:-1] * 2
    total += vertical[:, :, :-2]
    total += vertical[:, :, 2:]
    beside = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    beside *= 2
    total += beside
    total -= 12 * coarse
    np.clip(total, -_FURTHEST, _FURTHEST, out=total)
    total += _FURTHEST
    kind = np.clip(coarse, -(BIN_KINDS // 2), BIN_KINDS // 2)
    kind += BIN_KINDS // 2
    kind *= LEANINGS
    found = _LEANING_OF[total]
    found += kind.view(np.uint16)
    found += (class_of * np.uint16(BIN_KINDS * LEANINGS))[:, None, None]
    return found


REFINEMENT_TABLES: Final = CLASSES * BIN_KINDS * LEANINGS
"""Of one depth."""


def coarsest_kinds(known: Bins) -> NDArray[np.uint16]:
    """By the four neighbours, of [channels, height, width]: of use at odd places."""
    padded = np.pad(known, ((0, 0), (1, 1), (1, 1)))
    total = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    total += padded[:, 1:-1, :-2]
    total += padded[:, 1:-1, 2:]
    np.clip(total, -2, 2, out=total)
    np.abs(padded, out=padded)
    size = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    size += padded[:, 1:-1, :-2]
    size += padded[:, 1:-1, 2:]
    np.minimum(size, 4, out=size)
    size *= 5
    size += total
    size += 2
    return size.view(np.uint16)


def places(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat indices of the even places of a plane, and of the odd ones."""
    row, column = np.divmod(np.arange(height * width, dtype=np.int64), max(1, width))
    odd = (row + column) % 2 == 1
    return np.flatnonzero(~odd), np.flatnonzero(odd)
