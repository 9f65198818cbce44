"""Whether a codec keeps within a target, from what the model gives for coded pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np

from experiments.answer_change import expected_change, log_scores, margin
from experiments.kept_arrays import KeptArrays
from experiments.preparation import PreparedModel
from experiments.task_metric import Answer, find_metric
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


class ClassJudge:
    """Top-1 classes: those that changed, and by how little the others did not.

    A target holds for what is to be expected of other pictures. What was counted may not exceed it
    either, but for one picture, which may be a close call that any change of the input decides.
    """

    def __init__(self, model: PreparedModel, labels: Sequence[int | None], target: Target) -> None:
        self._metric = find_metric(model, labels)
        self._target, self._labels = target, labels
        outputs = model.canonical.outputs
        self._scores = model.task.scores or outputs[0].name
        self._offset = model.task.label_offset
        self._answers: list[Answer] = []
        self._margins: list[float] = []
        self._right: list[float] = []
        """Margins of the right class, for pictures that have a label."""

    def anchor(self, place: int, outputs: Mapping[str, Array]) -> None:
        """Answer and margins."""
        scores = log_scores(outputs[self._scores])
        self._answers.append(self._metric.answer(outputs))
        self._margins.append(margin(scores, self._answers[-1] + self._offset))
        label = self._labels[place]
        if label is not None:
            self._right.append(margin(scores, label + self._offset))
        self._metric.compare_with(self._answers)

    def judged(self, coded: Coded) -> Judgement:
        """Counted, and to be expected."""
        answers: dict[int, Answer] = {}
        after: dict[int, tuple[float, float]] = {}
        for place, outputs in coded:
            scores = log_scores(outputs[self._scores])
            answers[place] = self._metric.answer(outputs)
            label = self._labels[place]
            after[place] = (
                margin(scores, self._answers[place] + self._offset),
                0.0 if label is None else margin(scores, label + self._offset),
            )
        places = range(len(self._answers))
        pushes = [self._margins[place] - after[place][0] for place in places]
        labelled = [place for place in places if self._labels[place] is not None]
        right = [
            (before, before - after[place][1])
            for place, before in zip(labelled, self._right, strict=True)
        ]
        found = expected_change(self._margins, pushes, right)
        score = self._metric.score([answers[place] for place in places])
        changed = score.agreement.count - score.agreement.successes
        loss = score.loss
        net_lost = 0 if loss is None else loss.became_wrong - loss.became_right
        most_changed, most_lost = 100 - self._target.agreement_pct, self._target.loss_points
        good = (
            found.changed_pct <= most_changed
            and (found.lost_pct is None or found.lost_pct <= most_lost)
            and changed <= max(1, most_changed * len(places) / 100)
            and net_lost <= max(1, most_lost * len(labelled) / 100)
        )
        return Judgement(
            good=good,
            pictures=len(places),
            labelled=len(labelled),
            changed=changed,
            net_lost=net_lost,
            expected_changed_pct=found.changed_pct,
            expected_lost_points=found.lost_pct,
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
