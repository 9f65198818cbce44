"""From a model's outputs to an answer, and how well an answer agrees with the uncut model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from splitbed.errors import TaskError
from splitbed.task.spec import RESULT_CUT, TaskSpec
from splitbed.tensor import Array, TensorSpec

_PAD: Final = -(2**31)
"""Fills the `@result` boundary where a model has fewer classes than `top`; no label is this."""


class Answerer:
    """Applies a task's label rule to output tensors."""

    def __init__(self, task: TaskSpec, outputs: Sequence[TensorSpec]) -> None:
        self._task = task
        names = [spec.name for spec in outputs]
        self._scores = task.scores or (names[0] if len(names) == 1 else "")
        if task.output == "argmax" and self._scores not in names:
            raise TaskError(
                f"task: scores '{self._scores}' is none of the model's outputs "
                f"({', '.join(names)}); name the one that holds the scores with scores = , or use "
                'output = "raw"'
            )

    def answer(self, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """The answer for one frame, as JSON.

        `argmax`: `label`, its `score`, and the `top` labels, best first (ties: lower index first).
        `raw`: for every output its `mean` and `max_abs`, enough to see that something came.
        """
        task = self._task
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
        labels = self._labels(outputs[self._scores].reshape(-1))
        padded = labels + [_PAD] * (self._task.top - len(labels))
        return {RESULT_CUT: np.asarray(padded, np.int32)}

    def answer_from_boundary(self, boundary: Mapping[str, Array]) -> dict[str, Any]:
        """The answer that a peer can read off the `@result` boundary."""
        if self._task.output == "raw":
            return self.answer(boundary)
        labels = [int(label) for label in boundary[RESULT_CUT] if label != _PAD]
        return {"label": labels[0], "top": labels}

    def _labels(self, scores: Array) -> list[int]:
        best = np.argsort(-scores.astype(np.float64), kind="stable")
        return [int(index) - self._task.label_offset for index in best[: self._task.top]]


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
