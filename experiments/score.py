"""How good the answers of a cut and a codec are: the face that every kind of answer has.

A metric says when an answer is *as the uncut model's*, and where there are labels, how many points
of quality are lost. With these two the bench compares, chooses and draws; what else a kind of
answer can say stands in its own Score, and in the cells of its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from experiments.statistics import Estimate, Loss, Share
from splitbed.tensor import Array

Answer = Any
"""What a metric keeps of one picture."""


class Cell(NamedTuple):
    """A figure in a table, and the interval that stands below it."""

    figure: str
    interval: str = ""


class Score(msgspec.Struct, frozen=True):
    """How good a run's answers are. As it stands, of classes."""

    agreement: Share
    """Answers that are the uncut model's, as the metric counts them."""
    accuracy: Share | Estimate | None
    """Against labels, in points of 100; None without any, as is the loss."""
    loss: Loss | None
    """Points of accuracy lost against the uncut model on the same pictures."""

    def cells(self) -> tuple[Cell, ...]:
        """What stands under the columns of the metric (`Terms.columns`)."""
        return (*accuracy_cells(self), agreement_cell(self))


class PooledScore(msgspec.Struct, frozen=True):
    """The same over several cuts; the shares are of pairs of picture and cut."""

    agreement_pct: float
    accuracy_pct: float | None
    loss: Loss | None
    """Its interval is over the pictures, each with the mean of its cuts."""


class Column(msgspec.Struct, frozen=True):
    """A column of the table of answers."""

    heading: str
    width: int
    """Characters; those of one metric together have 35."""


class Terms(msgspec.Struct, frozen=True):
    """What a metric's figures are called."""

    kind: Literal["classes", "boxes", "key points", "outputs"]
    columns: tuple[Column, ...]
    point: str
    """What the loss is counted in; "" for answers that no labels are there for."""
    agrees: str
    """What a good codec does, `{:g}` standing for the share of answers as uncut in percent."""
    unlike: str
    """What the rest of that share is, in percent."""


class TaskMetric(Protocol):
    """Turns outputs into answers, and the answers of all pictures into a score."""

    terms: Terms
    labelled: int
    """Pictures of which the right answer is known."""

    def answer(self, place: int, outputs: Mapping[str, Array]) -> Answer:
        """What is kept of one picture, `place` counting from 0.

        Until `compare_with` the outputs are the uncut model's.
        """

    def compare_with(self, uncut: Sequence[Answer]) -> None:
        """Set the uncut model's answers, in the pictures' order; before any score."""

    def score(self, answers: Sequence[Answer]) -> Score:
        """Of one cut: an answer for each picture, in the pictures' order."""

    def pooled(self, runs: Sequence[Sequence[Answer]]) -> PooledScore:
        """Of several cuts of one model, each with an answer for each picture."""

    def close(self) -> None:
        """Let go of what is kept."""


def accuracy_cells(score: Score) -> tuple[Cell, Cell]:
    """Accuracy and loss, empty without labels."""
    found, loss = score.accuracy, score.loss
    return (
        Cell("") if found is None else Cell(pct(found.pct), between(found)),
        Cell("")
        if loss is None
        else Cell(f"{loss.points:+.2f}", f"{loss.low:+.1f}..{loss.high:+.1f}"),
    )


def agreement_cell(score: Score) -> Cell:
    """Answers as uncut."""
    return Cell(pct(score.agreement.pct), between(score.agreement))


def between(share: Share | Estimate) -> str:
    """The two ends of an interval."""
    return f"{pct(share.low_pct)}..{pct(share.high_pct)}"


def pct(value: float) -> str:
    """Percent with one digit; 100 only where nothing is missing."""
    return "100" if value == 100 else f"{min(value, 99.9):.1f}"
