"""The measure for key points: how far they are from the uncut model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from experiments.preparation import PreparedModel
from experiments.score import Cell, Column, PooledScore, Score, Terms, agreement_cell, pct
from experiments.statistics import Share, clustered_share, share
from splitbed.errors import TaskError
from splitbed.task import KeyPointFinder
from splitbed.tensor import Array

Points = NDArray[np.float64]
"""One picture's key points: x, y, score, relative to the input; then x, y, score of the best place
near where the uncut model has it."""

SEEN: Final = 0.5
"""Key points to which the uncut model gives this score count."""
WITHIN: Final = 0.01
"""Distance, in relative coordinates, up to which a key point is where the uncut model has it."""
JUMP: Final = 0.1

TERMS: Final = Terms(
    kind="key points",
    columns=(
        *(Column("within %", 12), Column("median", 8)),
        *(Column("largest", 8), Column("all in", 7)),
    ),
    point="",
    agrees="has {:g} % of the key points within 0.01",
    unlike="key points off by more than 0.01, %",
)


class KeyPointScore(Score, frozen=True):
    """Distances of key points in relative coordinates; agreement is the share within 0.01.

    Only key points to which the uncut model gives a score of at least 0.5 count, and only pictures
    that have one.
    """

    median_distance: float
    largest_distance: float
    jumped: int
    """Key points off by more than 0.1: the best score is at another person or limb now."""
    near: Share
    """Key points of which the best place within two cells is within 0.01: no more jumps."""
    pictures: Share | None
    """Pictures with all of their key points within 0.01; None where no picture has any."""
    largest_by_picture: tuple[float | None, ...]
    """In the pictures' order; None where the uncut model sees no key point."""

    def cells(self) -> tuple[Cell, ...]:
        """The share of pictures without its interval, for want of room."""
        return (
            agreement_cell(self),
            Cell(f"{self.median_distance:.4f}"),
            Cell(f"{self.largest_distance:.4f}"),
            Cell("" if self.pictures is None else pct(self.pictures.pct)),
        )


class KeyPointMetric:
    """Key points of all pictures against the uncut model's. Labels are not asked for."""

    terms = TERMS
    labelled = 0

    def __init__(self, model: PreparedModel) -> None:
        task = model.task
        if task.key_points is None or task.size is None:
            raise TaskError(f"the answers of {model.name} are no key points")
        self._finder = KeyPointFinder(task.key_points, task.size, model.canonical.outputs)
        self._uncut: Sequence[Points] = ()

    def answer(self, place: int, outputs: Mapping[str, Array]) -> Points:
        """The key points."""
        found = self._finder.find(outputs)
        near = self._finder.find_near(outputs, self._uncut[place]) if self._uncut else found
        return np.concatenate([found, near], axis=1).astype(np.float64)

    def compare_with(self, uncut: Sequence[Points]) -> None:
        """Set the uncut model's key points, in the pictures' order."""
        self._uncut = uncut

    def score(self, answers: Sequence[Points]) -> KeyPointScore:
        """Over the key points that the uncut model sees."""
        found = self._distances(answers)
        seen = [of for of in found if len(of)]
        every = np.concatenate(found)
        whole = sum(bool((of <= WITHIN).all()) for of in seen)
        return KeyPointScore(
            agreement=_within(found),
            accuracy=None,
            loss=None,
            median_distance=float(np.median(every)) if len(every) else 0.0,
            largest_distance=float(every.max(initial=0.0)),
            jumped=int((every > JUMP).sum()),
            near=_within(
                [distances(one[:, 3:], of) for one, of in zip(answers, self._uncut, strict=True)]
            ),
            pictures=share(whole, len(seen)) if seen else None,
            largest_by_picture=tuple(float(of.max()) if len(of) else None for of in found),
        )

    def pooled(self, runs: Sequence[Sequence[Points]]) -> PooledScore:
        """Every cut counts the same: each has the same key points."""
        every = [of for run in runs for of in self._distances(run)]
        return PooledScore(_within(every).pct, None, None)

    def close(self) -> None:
        """Nothing is kept."""

    def _distances(self, answers: Sequence[Points]) -> list[NDArray[np.float64]]:
        """Of the key points that count, by picture."""
        return [distances(*pair) for pair in zip(answers, self._uncut, strict=True)]


def distances(given: Points, uncut: Points) -> NDArray[np.float64]:
    """How far the key points that count are from the uncut model's, in relative coordinates."""
    off = given[:, :2] - uncut[:, :2]
    found: NDArray[np.float64] = np.hypot(off[:, 0], off[:, 1])[uncut[:, 2] >= SEEN]
    return found


def _within(found: Sequence[NDArray[np.float64]]) -> Share:
    """Over key points, which come in pictures; where none counts, pictures agree on that."""
    hits = [int((of <= WITHIN).sum()) for of in found]
    trials = [len(of) for of in found]
    if not sum(trials):
        hits = trials = [1] * len(found)
    return clustered_share(hits, trials)
