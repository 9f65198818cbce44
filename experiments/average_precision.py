"""Average precision of boxes by COCO's protocol, and how it varies over sets of pictures.

IoU 0.50 to 0.95 in steps of 0.05, precision at 101 recalls, at most 100 boxes of a class in a
picture, areas of all sizes, the mean over the classes that are there; crowds are neither found nor
missed (T.-Y. Lin et al., arXiv:1405.0312, and the authors' evaluation code).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from splitbed.task import intersections, overlaps

IOUS: Final = np.linspace(0.5, 0.95, 10)
"""AP 50:95 is the mean over these; AP 50 takes the first."""
MOST: Final = 100
"""Boxes of a class in a picture that count, the best ones."""
RECALLS: Final = 101

_CHUNK: Final = 1 << 21
"""Elements of a working array."""


class TrueBoxes(msgspec.Struct, frozen=True):
    """What is in one picture. Coordinates are relative to the picture, 0..1."""

    classes: NDArray[np.int64]
    corners: NDArray[np.float64]
    """A row for each: left, top, right, bottom."""
    crowd: NDArray[np.bool_]
    """Which of them are regions with many of a class."""


class Matched(msgspec.Struct, frozen=True):
    """The boxes of one class in all pictures, best first, against what is there."""

    picture: NDArray[np.int64]
    """Of each box."""
    right: NDArray[np.bool_]
    """[IoU, box]: it found something."""
    ignored: NDArray[np.bool_]
    """[IoU, box]: it found a crowd, and does not count."""
    wanted: NDArray[np.int64]
    """How many are there, by picture; crowds not counted."""


def matched(
    found: Sequence[NDArray[np.floating]], there: Sequence[TrueBoxes], ious: NDArray[np.float64]
) -> list[Matched]:
    """Each class that is there, or in a crowd, in any picture.

    `found` holds for each picture rows of class, score, left, top, right, bottom, best first, in
    the coordinates of `there`. A box is given to the one of its class that it overlaps most of
    those that no better box has, at each IoU on its own.
    """
    classes = sorted({int(of) for one in there for of in one.classes})
    return [_matched_class(of, found, there, ious) for of in classes]


def _matched_class(
    of: int,
    found: Sequence[NDArray[np.floating]],
    there: Sequence[TrueBoxes],
    ious: NDArray[np.float64],
) -> Matched:
    scores, pictures, right, ignored, wanted = [], [], [], [], []
    for place, (boxes, truth) in enumerate(zip(found, there, strict=True)):
        own = boxes[boxes[:, 0] == of][:MOST]
        mine = truth.classes == of
        hits, void = assigned(own[:, 2:], truth.corners[mine], truth.crowd[mine], ious)
        scores.append(own[:, 1].astype(np.float64))
        pictures.append(np.full(len(own), place))
        right.append(hits)
        ignored.append(void)
        wanted.append(int(np.count_nonzero(~truth.crowd[mine])))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return Matched(
        picture=np.concatenate(pictures)[order],
        right=np.concatenate(right, axis=1)[:, order],
        ignored=np.concatenate(ignored, axis=1)[:, order],
        wanted=np.array(wanted),
    )


def assigned(
    boxes: NDArray[np.floating],
    truth: NDArray[np.float64],
    crowd: NDArray[np.bool_],
    ious: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[IoU, box]: which boxes of one class, best first, found one of `truth`, and which a crowd."""
    right = np.zeros((len(ious), len(boxes)), np.bool_)
    ignored = np.zeros_like(right)
    if not len(truth):
        return right, ignored
    shared = overlaps(boxes, truth)
    if crowd.any():  # of a crowd, it is enough to lie within
        sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0)
        own = (sides[:, 0] * sides[:, 1])[:, np.newaxis]
        within = intersections(boxes, truth[crowd])
        shared[:, crowd] = np.divide(within, own, out=np.zeros_like(within), where=own > 0)
    free = np.ones((len(ious), len(truth)), np.bool_)
    levels = np.arange(len(ious))
    least = np.minimum(ious, 1 - 1e-10)[:, np.newaxis]
    for at in range(len(boxes)):
        open_ = np.where(free & ~crowd & (shared[at] >= least), shared[at], -1.0)
        # Of equal overlaps the last, as the authors' code has it.
        best = open_.shape[1] - 1 - open_[:, ::-1].argmax(axis=1)
        hit = open_[levels, best] >= 0
        right[:, at] = hit
        free[levels[hit], best[hit]] = False
        ignored[:, at] = ~hit & (crowd & (shared[at] >= least)).any(axis=1)
    return right, ignored


def average_precision(
    classes: Sequence[Matched], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[set, IoU]: the mean of the classes' average precision, 0..1; 0 where no class is there.

    A set of pictures is a row of `weights`: how often each picture is in it. A row of ones is the
    pictures themselves.
    """
    levels = len(classes[0].right) if classes else len(IOUS)
    total = np.zeros((len(weights), levels))
    present = np.zeros((len(weights), 1))
    for one in classes:
        wanted = weights @ one.wanted.astype(np.float64)
        step = max(1, _CHUNK // max(1, len(one.picture)))
        for start in range(0, len(weights), step):
            rows = slice(start, start + step)
            times = weights[rows][:, one.picture]
            for level in range(levels):
                total[rows, level] += _area(
                    times * ~one.ignored[level], one.right[level], wanted[rows]
                )
        present[:, 0] += wanted > 0
    return np.divide(total, present, out=np.zeros_like(total), where=present > 0)


def _area(
    times: NDArray[np.float64], right: NDArray[np.bool_], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The mean precision at the recalls, by row of `times`; 0 where nothing is wanted.

    Precision at a recall is the best one there or further down the list. The recalls that the
    list reaches with each box are counted, so that no row needs a search of its own.
    """
    if not right.any():
        return np.zeros(len(times))
    hits = np.cumsum(times * right, axis=1)
    seen = np.cumsum(times, axis=1)
    # Precision falls with every wrong box: only at right ones can it be the best.
    hits, seen = hits[:, right], seen[:, right]
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / np.maximum(wanted, 1)[:, np.newaxis]
    # With a little added, because 0.29 x 100 is less than 29.
    reached = np.floor(recall * (RECALLS - 1) + 1e-9) + 1
    before = np.concatenate([np.zeros((len(times), 1)), reached[:, :-1]], axis=1)
    area: NDArray[np.float64] = (best * (reached - before)).sum(axis=1) / RECALLS
    return np.where(wanted > 0, area, 0.0)
