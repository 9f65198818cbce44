"""How good the answers of a cut and a codec are: what the bench asks, and the measure for classes.

A measure for another kind of answer (boxes, key points) has the same face and its own Score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from experiments.preparation import PreparedModel
from experiments.statistics import PairedLoss, Share, paired_loss, pooled_loss, share
from splitbed.errors import UsageError
from splitbed.task import Answerer
from splitbed.tensor import Array

Answer = int
"""What is kept of one picture: here the class."""


class Score(msgspec.Struct, frozen=True):
    """How good a run's answers are."""

    agreement: Share
    """Answers that are the uncut model's."""
    accuracy: Share | None
    """None without labels, as is the loss."""
    loss: PairedLoss | None
    """Against the uncut model on the same pictures."""


class PooledScore(msgspec.Struct, frozen=True):
    """The same over several cuts; the shares are of pairs of picture and cut."""

    agreement_pct: float
    accuracy_pct: float | None
    loss: PairedLoss | None
    """Its interval is over the pictures, each with the mean of its cuts."""


class TaskMetric(Protocol):
    """Turns outputs into answers, and the answers of all pictures into a score."""

    def answer(self, outputs: Mapping[str, Array]) -> Answer:
        """What is kept of one picture."""

    def compare_with(self, uncut: Sequence[Answer]) -> None:
        """Set the uncut model's answers, in the pictures' order; before any score."""

    def score(self, answers: Sequence[Answer]) -> Score:
        """Of one cut: an answer for each picture, in the pictures' order."""

    def pooled(self, runs: Sequence[Sequence[Answer]]) -> PooledScore:
        """Of several cuts of one model, each with an answer for each picture."""


def find_metric(model: PreparedModel, labels: Sequence[int | None]) -> TaskMetric:
    """The measure for a model's task; `labels` in the pictures' order."""
    if model.task.output == "argmax":
        return ClassMetric(model, labels)
    raise UsageError(
        f"the answers of {model.name} are no classes, and the bench has no measure for others yet: "
        "take a classifier"
    )


class ClassMetric:
    """Top-1 classes against those of the uncut model, and against labels where there are any."""

    def __init__(self, model: PreparedModel, labels: Sequence[int | None]) -> None:
        self._answerer = Answerer(model.task, model.canonical.outputs)
        self._labels = labels
        self._uncut: Sequence[Answer] = ()

    def answer(self, outputs: Mapping[str, Array]) -> Answer:
        """The class."""
        label: int = self._answerer.answer(outputs)["label"]
        return label

    def compare_with(self, uncut: Sequence[Answer]) -> None:
        """Set the uncut model's answers, in the pictures' order."""
        self._uncut = uncut

    def score(self, answers: Sequence[Answer]) -> Score:
        """Agreement over all pictures; accuracy and loss over those with a label."""
        right = [given == label for given, label in self._labelled(answers)]
        anchor = [given == label for given, label in self._labelled(self._uncut)]
        same = sum(a == b for a, b in zip(answers, self._uncut, strict=True))
        return Score(
            agreement=share(same, len(answers)),
            accuracy=share(sum(right), len(right)) if right else None,
            loss=paired_loss(anchor, right) if right else None,
        )

    def pooled(self, runs: Sequence[Sequence[Answer]]) -> PooledScore:
        """Every cut counts the same."""
        same = sum(a == b for run in runs for a, b in zip(run, self._uncut, strict=True))
        columns = [[given == label for given, label in self._labelled(run)] for run in runs]
        right = list(zip(*columns, strict=True))
        anchor = [(given == label,) * len(runs) for given, label in self._labelled(self._uncut)]
        hits = sum(map(sum, right))
        return PooledScore(
            agreement_pct=100 * same / (len(runs) * len(self._uncut)),
            accuracy_pct=100 * hits / (len(runs) * len(right)) if right else None,
            loss=pooled_loss(anchor, right) if right else None,
        )

    def _labelled(self, answers: Sequence[Answer]) -> list[tuple[Answer, int]]:
        pairs = zip(answers, self._labels, strict=True)
        return [(given, label) for given, label in pairs if label is not None]
