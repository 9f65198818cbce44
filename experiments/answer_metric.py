"""How far an answer has moved, as the squared length of a vector.

What makes two answers different is the task's own: probabilities of classes, where a key point is
seen, scores and sides of boxes. Only outputs that the task reads count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from experiments.class_scores import Floats, are_shares, log_scores
from splitbed.task import BoxesSpec, KeyPointsSpec, TaskSpec
from splitbed.task.boxes import expected_bins, sigmoid
from splitbed.tensor import Array

Outputs = Mapping[str, Array]

_TEMPERATURE: Final = 2.0
"""So that pictures of which a network is sure count as well."""
_SKETCH: Final = 1024
"""Many numbers are folded into so many sums of random signs: inner products stay, on average."""
_SEEN: Final = 0.05
"""Score from which a box's sides matter."""


class AnswerMetric(Protocol):
    """Vectors of moves."""

    def moved(self, outputs: Outputs, about: Outputs) -> Floats:
        """From the answer of `about` to that of `outputs`, in the metric there.

        Moves from one `about` have one length, and their inner products a meaning.
        """


def answer_metric(task: TaskSpec, still: Sequence[Outputs]) -> AnswerMetric:
    """The metric of a task; `still` are outputs of frames that nothing disturbed."""
    if task.output == "argmax":
        return ClassMoves(task.scores or next(iter(still[0])))
    if task.key_points is not None:
        return KeyPointMoves(task.key_points)
    if task.boxes is not None:
        return BoxMoves(task.boxes)
    return OutputMoves(still)


class ClassMoves:
    """Fisher's metric of the class probabilities: the Kullback-Leibler divergence to second order,
    at twice the temperature.
    """

    def __init__(self, scores: str) -> None:
        """`scores` is the output that holds them: probabilities or logits."""
        self._scores = scores

    def moved(self, outputs: Outputs, about: Outputs) -> Floats:
        """[classes]."""
        shares = are_shares(about[self._scores])
        here, there = (log_scores(o[self._scores], shares) for o in (outputs, about))
        return _fisher(here[None], there[None]).reshape(-1)


class KeyPointMoves:
    """Fisher's metric of where each key point is, its heat map taken as a distribution over cells,
    and how far its offset moves in the best cell, in strides; both by how surely it is seen.
    """

    def __init__(self, spec: KeyPointsSpec) -> None:
        self._spec = spec

    def moved(self, outputs: Outputs, about: Outputs) -> Floats:
        """[key points x (cells + 2)]."""
        spec = self._spec
        heat: Any = [np.asarray(o[spec.heat_maps], np.float64) for o in (outputs, about)]
        count = heat[0].shape[-3]
        here, there = (h.reshape(count, -1) for h in heat)
        offsets = [
            np.asarray(o[spec.offsets], np.float64).reshape(2, count, -1) for o in (outputs, about)
        ]
        best = there.argmax(axis=1)
        points = np.arange(count)
        seen = np.sqrt(sigmoid(there[points, best]))
        shift = (offsets[0] - offsets[1])[:, points, best] / spec.stride
        parts = [(_fisher(here, there) * seen[:, None]).reshape(-1), (shift * seen).reshape(-1)]
        return np.concatenate(parts)


class BoxMoves:
    """How far scores move, and the sides of boxes that are seen, in bins and by their score."""

    def __init__(self, spec: BoxesSpec) -> None:
        self._spec = spec
        self._folds: dict[str, _Fold] = {}

    def moved(self, outputs: Outputs, about: Outputs) -> Floats:
        """Scores folded, then the sides of what was seen."""
        spec, found = self._spec, np.zeros(_SKETCH)
        sides = []
        for name, at in zip(spec.scores, spec.distances, strict=True):
            here, there = (np.asarray(o[name], np.float64) for o in (outputs, about))
            if spec.logits:
                here, there = (sigmoid(scores) for scores in (here, there))
            if name not in self._folds:
                self._folds[name] = _Fold(here.size, len(self._folds))
            found += self._folds[name].folded((here - there).reshape(-1))
            surely = there.reshape(-1, there.shape[-1]).max(axis=1)
            cells = np.flatnonzero(surely >= _SEEN)
            bins = [
                np.asarray(o[at], np.float64).reshape(surely.size, 4, spec.bins)[cells]
                for o in (outputs, about)
            ]
            far = [expected_bins(b) for b in bins]
            sides.append(((far[0] - far[1]) * surely[cells, None]).reshape(-1))
        return np.concatenate([found, *sides])


class OutputMoves:
    """The squared error of each floating-point output, in units of its own spread. Elements that
    are not finite, as masked ones, do not count.
    """

    def __init__(self, still: Sequence[Outputs]) -> None:
        self._folds: dict[str, tuple[_Fold, float]] = {}
        for name, first in still[0].items():
            if first.dtype.kind == "f" and first.size:
                seen = np.stack([o[name].astype(np.float64) for o in still])
                finite = seen[np.isfinite(seen)]
                spread = float(np.std(finite)) if finite.size else 0.0
                scale = max(spread, 1e-12) * np.sqrt(first.size)
                self._folds[name] = _Fold(first.size, len(self._folds)), scale

    def moved(self, outputs: Outputs, about: Outputs) -> Floats:
        """Folded."""
        found = np.zeros(_SKETCH)
        for name, (fold, scale) in self._folds.items():
            here, there = (o[name].astype(np.float64).reshape(-1) for o in (outputs, about))
            moved = (here - there) / scale
            found += fold.folded(np.where(np.isfinite(moved), moved, 0))
        return found


class _Fold:
    def __init__(self, size: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self._bins = draw.integers(0, _SKETCH, size)
        self._signs = draw.choice([-1.0, 1.0], size)

    def folded(self, values: Floats) -> Floats:
        return np.bincount(self._bins, values * self._signs, _SKETCH).astype(np.float64)


def _shares(logits: Floats) -> Floats:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _fisher(here: Floats, there: Floats) -> Floats:
    """Moves of logits [rows, classes], in Fisher's metric at `there`."""
    shares = _shares(there / _TEMPERATURE)
    moved = here - there
    moved = moved - (shares * moved).sum(axis=1, keepdims=True)
    return np.asarray(moved * np.sqrt(shares))
