"""Whether a codec keeps within a target, from what the model gives for coded pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np

from experiments.answer_change import Change, expected_change, margin
from experiments.class_metric import ClassMetric
from experiments.class_scores import Floats, are_shares, log_scores
from experiments.kept_arrays import KeptArrays
from experiments.preparation import PreparedModel
from experiments.statistics import PairedLoss
from splitbed.codec import Target
from splitbed.errors import UsageError
from splitbed.task import agreement
from splitbed.tensor import Array

Coded = Iterable[tuple[int, Mapping[str, Array]]]
"""Each picture's place and the model's outputs for it, in any order."""


class Judgement(msgspec.Struct, frozen=True):
    """What became of the answers, counted and to be expected."""

    good: bool
    """Within the target."""
    pictures: int
    labelled: int = 0
    changed: int = 0
    """Answers that are not the uncut model's."""
    net_lost: int = 0
    """Right answers that became wrong, less wrong ones that became right."""
    expected_changed_pct: float = 0.0
    """Of pictures that nobody saw (`experiments.answer_change`)."""
    expected_lost_points: float | None = None
    """None without labels."""
    nmse: float | None = None
    """Of the outputs, mean over the pictures; None where answers are classes."""

    @property
    def sentence(self) -> str:
        """For people."""
        if self.nmse is not None:
            return f"on {self.pictures} pictures the outputs have an nMSE of {self.nmse:.2g}"
        text = f"on {self.pictures} pictures {self.changed} answers changed"
        if self.labelled:
            lost = 100 * self.net_lost / self.labelled
            text += f", loss {lost:+.1f} points ({self.labelled} labelled)"
        text += f"; expected of others: {self.expected_changed_pct:.1f} % changed"
        if self.expected_lost_points is not None:
            text += f", loss {self.expected_lost_points:+.1f} points"
        return text


class Judge(Protocol):
    """Holds coded pictures against the uncut model."""

    def anchor(self, place: int, outputs: Mapping[str, Array]) -> None:
        """What the model gives for one picture without coding; all of them, in order, first."""

    def judged(self, coded: Coded) -> Judgement:
        """Of all pictures with one codec."""

    def close(self) -> None:
        """Let go of the outputs."""


def find_judge(model: PreparedModel, labels: Sequence[int | None], target: Target) -> Judge:
    """The one for a model's task and a target; UsageError where they do not go together."""
    if target.nmse is not None:
        return OutputJudge(model, len(labels), target.nmse)
    if model.task.output != "argmax":
        raise UsageError(
            f"the answers of {model.name} are no classes of which points could be lost: write "
            "auto:nmse=0.01, the squared error allowed in its outputs over their energy"
        )
    return ClassJudge(model, labels, target)


def keeps(
    target: Target, change: Change, changed: int, pictures: int, net_lost: int, labelled: int
) -> bool:
    """Whether a target holds: for what is to be expected of other pictures, and as counted.

    A count may be over it by one picture, which may be a close call that anything decides.
    """
    most_changed, most_lost = 100 - target.agreement_pct, target.loss_points
    return (
        change.changed_pct <= most_changed
        and (change.lost_pct is None or change.lost_pct <= most_lost)
        and changed <= max(1, most_changed * pictures / 100)
        and net_lost <= max(1, most_lost * labelled / 100)
    )


class Compared(msgspec.Struct, frozen=True):
    """Coded pictures beside the uncut model, in the pictures' order."""

    answers: list[int]
    pushes: list[float]
    """How far the uncut answer's margin fell."""
    right: list[tuple[float, float]]
    """Margin of the right class and how far it fell, of pictures that have a label."""


class ClassJudge:
    """Top-1 classes: those that changed, and by how little the others did not."""

    def __init__(self, model: PreparedModel, labels: Sequence[int | None], target: Target) -> None:
        self.margins: list[float] = []
        """Of the uncut model's answers."""
        self._metric = ClassMetric(model, labels)
        self._target, self._labels = target, labels
        self._scores = model.task.scores or model.canonical.outputs[0].name
        self._offset = model.task.label_offset
        self._answers: list[int] = []
        self._right: list[float] = []
        self._shares = False
        """Whether the scores are probabilities; told by the first picture, for all of them."""

    def anchor(self, place: int, outputs: Mapping[str, Array]) -> None:
        """Answer and margins."""
        if not self._answers:
            self._shares = are_shares(outputs[self._scores])
        scores = log_scores(outputs[self._scores], self._shares)
        self._answers.append(self._metric.answer(place, outputs))
        self.margins.append(margin(scores, self._answers[-1] + self._offset))
        self._right.append(self._right_margin(scores, place))
        self._metric.compare_with(self._answers)

    def _right_margin(self, scores: Floats, place: int) -> float:
        label = self._labels[place]
        return 0.0 if label is None else margin(scores, label + self._offset)

    def compared(self, coded: Coded) -> Compared:
        """All pictures with one codec."""
        answers, after, right = dict[int, int](), dict[int, float](), dict[int, float]()
        for place, outputs in coded:
            scores = log_scores(outputs[self._scores], self._shares)
            answers[place] = self._metric.answer(place, outputs)
            after[place] = margin(scores, self._answers[place] + self._offset)
            right[place] = self._right_margin(scores, place)
        places = range(len(self._answers))
        return Compared(
            answers=[answers[place] for place in places],
            pushes=[self.margins[place] - after[place] for place in places],
            right=[
                (self._right[place], self._right[place] - right[place])
                for place in places
                if self._labels[place] is not None
            ],
        )

    def judged(self, coded: Coded) -> Judgement:
        """Counted, and to be expected."""
        found = self.compared(coded)
        change = expected_change(self.margins, found.pushes, found.right)
        score = self._metric.score(found.answers)
        changed = score.agreement.count - score.agreement.successes
        loss = score.loss
        net_lost = loss.became_wrong - loss.became_right if isinstance(loss, PairedLoss) else 0
        pictures, labelled = len(found.answers), len(found.right)
        return Judgement(
            good=keeps(self._target, change, changed, pictures, net_lost, labelled),
            pictures=pictures,
            labelled=labelled,
            changed=changed,
            net_lost=net_lost,
            expected_changed_pct=change.changed_pct,
            expected_lost_points=change.lost_pct,
        )

    def close(self) -> None:
        """Nothing is held."""


class OutputJudge:
    """The outputs themselves: squared error over energy, mean over the pictures."""

    def __init__(self, model: PreparedModel, pictures: int, most: float) -> None:
        self._kept = KeptArrays(model.canonical.outputs, pictures)
        self._pictures, self._most = pictures, most

    def anchor(self, place: int, outputs: Mapping[str, Array]) -> None:
        """Kept."""
        self._kept.keep(place, dict(outputs))

    def judged(self, coded: Coded) -> Judgement:
        """The mean error."""
        found = [agreement(outputs, self._kept.at(place))["nmse"] for place, outputs in coded]
        nmse = float(np.mean(found))
        return Judgement(good=nmse <= self._most, pictures=self._pictures, nmse=nmse)

    def close(self) -> None:
        """Let go of the outputs."""
        self._kept.close()
