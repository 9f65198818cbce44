"""From a model's outputs to an answer, and how well an answer agrees with the uncut model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from splitbed.errors import TaskError
from splitbed.task.boxes import Boxes, BoxFinder
from splitbed.task.key_points import KeyPointFinder, KeyPoints
from splitbed.task.spec import RESULT_CUT, TaskSpec
from splitbed.tensor import Array, TensorSpec

_PAD: Final = -(2**31)
"""Fills the `@result` boundary where a model has fewer classes than `top`; no label is this."""

_NO_BOX: Final = -1.0
"""Likewise, the class of boxes that are not there."""

_DIGITS: Final = 5
"""Of relative coordinates and scores in an answer."""


class Answerer:
    """Applies a task's label rule or post-processing to output tensors."""

    def __init__(self, task: TaskSpec, outputs: Sequence[TensorSpec]) -> None:
        """`task` is fitted. TaskError where it and the outputs contradict each other."""
        self._task = task
        names = [spec.name for spec in outputs]
        self._scores = task.scores or (names[0] if len(names) == 1 else "")
        if task.output == "argmax" and self._scores not in names:
            raise TaskError(
                f"task: scores '{self._scores}' is none of the model's outputs "
                f"({', '.join(names)}); name the one that holds the scores with scores = , or use "
                'output = "raw"'
            )
        self._boxes: BoxFinder | None = None
        self._points: KeyPointFinder | None = None
        if task.size is not None and task.boxes is not None:
            self._boxes = BoxFinder(task.boxes, task.size, outputs)
        if task.size is not None and task.key_points is not None:
            self._points = KeyPointFinder(task.key_points, task.size, outputs)

        self.reads = self._read(names)
        """The outputs that an answer is made of; the others need not be fetched."""

    def _read(self, names: Sequence[str]) -> tuple[str, ...]:
        task = self._task
        if self._boxes is not None and task.boxes is not None:
            return (*task.boxes.scores, *task.boxes.distances)
        if self._points is not None and task.key_points is not None:
            return (task.key_points.heat_maps, task.key_points.offsets)
        return tuple(names) if task.output == "raw" else (self._scores,)

    def answer(self, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """The answer for one frame, as JSON.

        `argmax`: `label`, its `score`, and the `top` labels, best first (ties: lower index first).
        `boxes`: a list of class, score, left, top, right, bottom, best first.
        `key_points`: a list of x, y, score. Both are relative to the model's input, 0..1.
        `raw`: for every output its `mean` and `max_abs`, enough to see that something came.
        """
        task = self._task
        if self._boxes is not None:
            return _written_boxes(self._boxes.find(outputs))
        if self._points is not None:
            return _written_points(self._points.find(outputs))
        if task.output == "raw":
            return {
                "outputs": {
                    name: {
                        "mean": float(array.astype(np.float64).mean()) if array.size else 0.0,
                        "max_abs": float(np.max(np.abs(array.astype(np.float64))))
                        if array.size
                        else 0.0,
                    }
                    for name, array in outputs.items()
                }
            }
        scores = outputs[self._scores].reshape(-1)
        labels = self._labels(scores)
        best = float(scores[labels[0] + task.label_offset])
        return {"label": labels[0], "score": best, "top": labels}

    def boundary(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors of the `@result` boundary (`splitbed.task.result_boundary`)."""
        if self._task.output == "raw":
            return dict(outputs)
        if self._boxes is not None:
            found = self._boxes.find(outputs)
            filled = np.full((self._boxes.most, found.shape[1]), _NO_BOX, np.float32)
            filled[: len(found)] = found
            return {RESULT_CUT: filled}
        if self._points is not None:
            return {RESULT_CUT: self._points.find(outputs)}
        labels = self._labels(outputs[self._scores].reshape(-1))
        padded = labels + [_PAD] * (self._task.top - len(labels))
        return {RESULT_CUT: np.asarray(padded, np.int32)}

    def answer_from_boundary(self, boundary: Mapping[str, Array]) -> dict[str, Any]:
        """The answer that a peer can read off the `@result` boundary."""
        if self._task.output == "raw":
            return self.answer(boundary)
        if self._boxes is not None:
            found = boundary[RESULT_CUT].astype(np.float32)
            return _written_boxes(found[np.isfinite(found).all(1) & (found[:, 0] != _NO_BOX)])
        if self._points is not None:
            return _written_points(boundary[RESULT_CUT].astype(np.float32))
        labels = [int(label) for label in boundary[RESULT_CUT] if label != _PAD]
        return {"label": labels[0], "top": labels}

    def _labels(self, scores: Array) -> list[int]:
        best = np.argsort(-scores.astype(np.float64), kind="stable")
        return [int(index) - self._task.label_offset for index in best[: self._task.top]]


def _written_boxes(boxes: Boxes) -> dict[str, Any]:
    """Rows of numbers, as short as they are exact enough: a hundredth of a pixel and less."""
    return {"boxes": [[round(row[0]), *_rounded(row[1:])] for row in boxes.tolist()]}


def _written_points(points: KeyPoints) -> dict[str, Any]:
    return {"key_points": [_rounded(row) for row in points.tolist()]}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, _DIGITS) for value in values]


def agreement(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[str, float]:
    """How far output tensors are from the uncut model's on the same picture.

    `max_abs`: largest absolute difference; `max_rel`: the same over the largest magnitude in the
    reference tensor; `nmse`: squared error over squared reference, all outputs together.
    """
    max_abs = max_rel = 0.0
    squared = energy = 0.0
    for name, wanted in reference.items():
        if not wanted.size:
            continue
        difference = outputs[name].astype(np.float64) - wanted.astype(np.float64)
        largest = float(np.max(np.abs(difference)))
        if not np.isfinite(largest):
            return {"max_abs": float("inf"), "max_rel": float("inf"), "nmse": float("inf")}
        max_abs = max(max_abs, largest)
        max_rel = max(
            max_rel, largest / max(float(np.max(np.abs(wanted.astype(np.float64)))), 1e-30)
        )
        squared += float(np.sum(difference**2))
        energy += float(np.sum(wanted.astype(np.float64) ** 2))
    return {"max_abs": max_abs, "max_rel": max_rel, "nmse": squared / max(energy, 1e-30)}
