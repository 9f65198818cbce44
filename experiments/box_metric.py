"""The measure for boxes: COCO's average precision, and boxes that are the uncut model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from experiments.average_precision import (
    IOUS,
    TrueBoxes,
    assigned,
    average_precision,
    matched,
)
from experiments.preparation import PreparedModel
from experiments.score import (
    Cell,
    Column,
    PooledScore,
    Score,
    Terms,
    accuracy_cells,
    agreement_cell,
    pct,
)
from experiments.statistics import Estimate, Loss, Share, clustered_share
from splitbed.errors import TaskError
from splitbed.student import Z95
from splitbed.task import BoxFinder
from splitbed.tensor import Array

Found = NDArray[np.float64]
"""One picture's, best first: class, score, left, top, right, bottom, relative to the input."""

SEEN: Final = 0.3
"""Boxes with this score count as seen."""
SEEN_STILL: Final = 0.15
"""With this they are found again: a score that moves a little past a limit is no other answer."""
SAME_IOU: Final = 0.5
RESAMPLES: Final = 1000
"""Sets of pictures that an interval is made from."""

TERMS: Final = Terms(
    kind="boxes",
    columns=(
        *(Column("AP", 5), Column("AP 50", 6)),
        *(Column("loss", 13), Column("as uncut %", 11)),
    ),
    point="point of AP 50:95",
    agrees="has {:g} % of the boxes as uncut",
    unlike="boxes changed, %",
)


class BoxScore(Score, frozen=True):
    """Average precision in points of 100; `accuracy` and `loss` are of AP 50:95.

    Agreement is the share of boxes, of the uncut model and of the cut one, with a score of at least
    0.3, that the other one has too: same class, IoU of at least 0.5, score of at least 0.15.
    """

    ap50: Estimate | None
    ap50_loss: Loss | None

    def cells(self) -> tuple[Cell, ...]:
        """AP 50:95 and AP 50 without their intervals, which are of the pictures, not of coding."""
        accuracy, loss = accuracy_cells(self)
        ap50 = "" if self.ap50 is None else pct(self.ap50.pct)
        return Cell(accuracy.figure), Cell(ap50), loss, agreement_cell(self)


class BoxMetric:
    """Boxes of all pictures. Intervals are over the pictures."""

    terms = TERMS

    def __init__(
        self,
        model: PreparedModel,
        sizes: Sequence[tuple[int, int]],
        labels: Sequence[TrueBoxes | None],
        seed: int = 0,
    ) -> None:
        """`sizes` are the pictures' width and height, `labels` what is in them, where known."""
        task = model.task
        if task.boxes is None or task.size is None:
            raise TaskError(f"the answers of {model.name} are no boxes")
        self._finder = BoxFinder(task.boxes, task.size, model.canonical.outputs)
        self._known = [place for place, label in enumerate(labels) if label is not None]
        self._truth = [label for label in labels if label is not None]
        self.labelled = len(self._known)
        height, width = task.size
        self._moves = []
        for size in sizes:
            left, top, inner_width, inner_height = model.preprocessor.placement(*size)
            offset = np.array([left, top] * 2) / ([width, height] * 2)
            scale = np.array([width, height] * 2) / ([inner_width, inner_height] * 2)
            self._moves.append((offset, scale))
        count = len(self._known)
        self._weights = np.ones((1, count))
        if count:
            mixed = np.random.default_rng(seed).multinomial(
                count, np.full(count, 1 / count), RESAMPLES
            )
            self._weights = np.concatenate([self._weights, mixed])
        self._uncut: Sequence[Found] = ()
        self._anchor = np.zeros((0, 0))

    def answer(self, place: int, outputs: Mapping[str, Array]) -> Found:
        """The boxes."""
        return self._finder.find(outputs).astype(np.float64)

    def compare_with(self, uncut: Sequence[Found]) -> None:
        """Set the uncut model's boxes, in the pictures' order."""
        self._uncut = uncut
        self._anchor = self._precision(uncut)

    def score(self, answers: Sequence[Found]) -> BoxScore:
        """Precision and loss over the pictures with labels, agreement over all."""
        agreement = self._agreement(answers)
        if not self._known:
            return BoxScore(agreement, None, None, None, None)
        found = self._precision(answers)
        lost = self._anchor - found
        return BoxScore(
            agreement=agreement,
            accuracy=_estimate(found.mean(axis=1)),
            loss=_loss(lost.mean(axis=1)),
            ap50=_estimate(found[:, 0]),
            ap50_loss=_loss(lost[:, 0]),
        )

    def pooled(self, runs: Sequence[Sequence[Found]]) -> PooledScore:
        """Every cut counts the same; every set of pictures is of all cuts."""
        shares = [self._agreement(run) for run in runs]
        agreement = sum(one.successes for one in shares) / sum(one.count for one in shares)
        if not self._known:
            return PooledScore(100 * agreement, None, None)
        found = np.mean([self._precision(run).mean(axis=1) for run in runs], axis=0)
        loss = _loss(self._anchor.mean(axis=1) - found)
        return PooledScore(100 * agreement, float(100 * found[0]), loss)

    def close(self) -> None:
        """Nothing is kept."""

    def _precision(self, answers: Sequence[Found]) -> NDArray[np.float64]:
        """[set of pictures, IoU], the pictures themselves first; empty without labels."""
        if not self._known:
            return np.zeros((0, len(IOUS)))
        placed = [self._placed(answers[place], place) for place in self._known]
        return average_precision(matched(placed, self._truth, IOUS), self._weights)

    def _placed(self, boxes: Found, place: int) -> Found:
        """Relative to the picture instead of the model's input, and within it.

        IoU does not change when widths and heights are measured on scales of their own.
        """
        offset, scale = self._moves[place]
        corners = ((boxes[:, 2:] - offset) * scale).clip(0, 1)
        return np.concatenate([boxes[:, :2], corners], axis=1)

    def _agreement(self, answers: Sequence[Found]) -> Share:
        pairs = [shared(one, other) for one, other in zip(self._uncut, answers, strict=True)]
        hits, trials = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if not sum(trials):  # nothing is seen by either: they say the same of every picture
            hits = trials = [1] * len(hits)
        return clustered_share(hits, trials)


def shared(one: Found, other: Found) -> tuple[int, int]:
    """How many of the boxes that are seen, in either, the other one has too; and of how many."""
    seen = sum(int(np.count_nonzero(boxes[:, 1] >= SEEN)) for boxes in (one, other))
    return _refound(one, other) + _refound(other, one), seen


def _refound(boxes: Found, again: Found) -> int:
    """How many of the boxes that are seen are there again, each with one of its own."""
    seen, still = boxes[boxes[:, 1] >= SEEN], again[again[:, 1] >= SEEN_STILL]
    count = 0
    for of in np.unique(seen[:, 0]):
        there = still[still[:, 0] == of, 2:]
        crowd = np.zeros(len(there), np.bool_)
        right, _ = assigned(seen[seen[:, 0] == of, 2:], there, crowd, np.array([SAME_IOU]))
        count += int(right.sum())
    return count


def _estimate(values: NDArray[np.float64]) -> Estimate:
    """The first value; the others tell how it varies."""
    low, high = _ends(values)
    return Estimate(float(100 * values[0]), max(0.0, low), min(100.0, high))


def _loss(values: NDArray[np.float64]) -> Loss:
    return Loss(float(100 * values[0]), *_ends(values))


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """Of the first value, by the standard deviation of the others.

    Not by their percentiles: in resampled pictures fewer classes and doubled boxes raise the
    precision itself, so that their middle lies above.
    """
    half = Z95 * float(values[1:].std(ddof=1))
    return float(100 * (values[0] - half)), float(100 * (values[0] + half))
