"""The measure for classes: top-1, and right or wrong by picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from experiments.preparation import PreparedModel
from experiments.score import Column, PooledScore, Score, Terms
from experiments.statistics import paired_loss, pooled_loss, share
from splitbed.task import Answerer
from splitbed.tensor import Array

TERMS: Final = Terms(
    kind="classes",
    columns=(Column("top-1 %", 11), Column("loss", 13), Column("as uncut %", 11)),
    point="point",
    agrees="agrees in {:g} %",
    unlike="answers changed, %",
)


class ClassMetric:
    """Top-1 classes against those of the uncut model, and against labels where there are any."""

    terms = TERMS

    def __init__(self, model: PreparedModel, labels: Sequence[int | None]) -> None:
        self._answerer = Answerer(model.task, model.canonical.outputs)
        self._labels = labels
        self._uncut: Sequence[int] = ()
        self.labelled = sum(label is not None for label in labels)

    def answer(self, place: int, outputs: Mapping[str, Array]) -> int:
        """The class."""
        label: int = self._answerer.answer(outputs)["label"]
        return label

    def compare_with(self, uncut: Sequence[int]) -> None:
        """Set the uncut model's answers, in the pictures' order."""
        self._uncut = uncut

    def score(self, answers: Sequence[int]) -> Score:
        """Agreement over all pictures; accuracy and loss over those with a label."""
        right = [given == label for given, label in self._labelled(answers)]
        anchor = [given == label for given, label in self._labelled(self._uncut)]
        same = sum(a == b for a, b in zip(answers, self._uncut, strict=True))
        return Score(
            agreement=share(same, len(answers)),
            accuracy=share(sum(right), len(right)) if right else None,
            loss=paired_loss(anchor, right) if right else None,
        )

    def pooled(self, runs: Sequence[Sequence[int]]) -> PooledScore:
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

    def close(self) -> None:
        """Nothing is kept."""

    def _labelled(self, answers: Sequence[int]) -> list[tuple[int, int]]:
        pairs = zip(answers, self._labels, strict=True)
        return [(given, label) for given, label in pairs if label is not None]
