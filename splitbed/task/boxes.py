"""From a detector's output tensors to boxes: post-processing that a task description selects.

Everything is relative to the model's input: 0 is its left or upper edge, 1 its right or lower one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from splitbed.errors import TaskError
from splitbed.tensor import Array, TensorSpec

Boxes = NDArray[np.float32]
"""A row for each box, best first: class, score, left, top, right, bottom."""

COLUMNS: Final = 6
_CANDIDATES: Final = 1000
"""Boxes that go into the suppression, those with the best scores: damaged tensors may make a
hundred thousand of them."""


class BoxesSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How output tensors become boxes.

    `distribution`: for each stride a tensor of `scores`, [cells, classes], and one of `distances`,
    [cells, 4 x bins], as NanoDet and other networks with a distribution focal loss have them (Li et
    al., arXiv:2006.04388). A cell's distances to the left, upper, right and lower side are the
    expected bin of a softmax over the bins, times the stride, from the cell's centre at
    column x stride + (stride - 1) / 2.
    """

    scores: Annotated[tuple[str, ...], Meta(max_length=64)]
    """Graph outputs, one for each stride."""
    distances: Annotated[tuple[str, ...], Meta(max_length=64)]
    strides: Annotated[tuple[Annotated[int, Meta(ge=1, le=1024)], ...], Meta(max_length=64)]
    kind: Literal["distribution"] = "distribution"
    bins: Annotated[int, Meta(ge=2, le=256)] = 8
    logits: bool = False
    """Whether the scores still want a sigmoid."""
    least_score: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """Boxes below are left out."""
    suppress_iou: Annotated[float, Meta(gt=0, le=1)] = 0.6
    """Of two boxes of a class that overlap more than this, the better one stays."""
    most: Annotated[int, Meta(ge=1, le=1000)] = 100
    """Boxes in an answer, the best ones."""

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.distances) == len(self.strides) > 0:
            raise TaskError(
                f"task: boxes has {len(self.strides)} strides, {len(self.scores)} scores and "
                f"{len(self.distances)} distances: give one of each for every stride"
            )


class BoxFinder:
    """Applies a BoxesSpec to one model's outputs."""

    def __init__(
        self, spec: BoxesSpec, size: tuple[int, int], outputs: Sequence[TensorSpec]
    ) -> None:
        """`size` is the input's height and width. TaskError where the outputs do not fit."""
        self._spec, (height, width) = spec, size
        self._scale = np.array([width, height, width, height], np.float64)
        shapes = {output.name: output.shape for output in outputs}
        self._centres = []
        counts = set()
        for stride, scores, distances in zip(
            spec.strides, spec.scores, spec.distances, strict=True
        ):
            rows, columns = -(-height // stride), -(-width // stride)
            cells = rows * columns
            counts.add(_columns(shapes, scores, cells, stride))
            found = _columns(shapes, distances, cells, stride)
            if found != 4 * spec.bins:
                raise TaskError(
                    f"task: output '{distances}' has {found} values a cell where 4 x {spec.bins} "
                    "bins are wanted: correct boxes.bins"
                )
            y, x = np.divmod(np.arange(cells), columns)
            self._centres.append(np.stack([x, y], 1) * stride + (stride - 1) / 2)
        if len(counts) > 1:
            raise TaskError("task: the outputs in boxes.scores have different numbers of classes")
        self.classes = counts.pop()
        """How many the model knows."""
        self.most = spec.most

    def find(self, outputs: Mapping[str, Array]) -> Boxes:
        """The boxes of one frame, best first (ties: the earlier cell); what is not finite goes."""
        spec, chosen = self._spec, []
        for stride, name, at, centres in zip(
            spec.strides, spec.scores, spec.distances, self._centres, strict=True
        ):
            scores = outputs[name].reshape(len(centres), -1).astype(np.float64)
            if spec.logits:
                scores = sigmoid(scores)
            cells, classes = np.nonzero(scores >= spec.least_score)
            bins = outputs[at].reshape(len(centres), 4, spec.bins)[cells].astype(np.float64)
            far = stride * expected_bins(bins)
            middle = centres[cells]
            corners = np.concatenate([middle - far[:, :2], middle + far[:, 2:]], 1) / self._scale
            found = np.column_stack([classes, scores[cells, classes], corners])
            chosen.append(found[np.isfinite(found).all(1)])
        every = np.concatenate(chosen)
        every = every[np.argsort(-every[:, 1], kind="stable")[:_CANDIDATES]]
        return suppressed(every, spec.suppress_iou, spec.most).astype(np.float32)


def suppressed(boxes: NDArray[np.float64], most_iou: float, most: int) -> NDArray[np.float64]:
    """The best box, less those of its class that it overlaps too much, and so on; at most `most`.

    `boxes` stand best first.
    """
    kept: list[NDArray[np.float64]] = []
    while len(boxes) and len(kept) < most:
        best = boxes[0]
        kept.append(best)
        rival = boxes[:, 0] == best[0]
        rival[rival] = overlaps(best[np.newaxis, 2:], boxes[rival, 2:])[0] > most_iou
        rival[0] = True
        boxes = boxes[~rival]
    return np.array(kept).reshape(-1, COLUMNS)


def overlaps(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of all pairs of left, top, right, bottom; 0 where both are empty."""
    shared = intersections(one, other)
    union = areas(one)[:, np.newaxis] + areas(other) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def intersections(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Shared areas of all pairs."""
    one, other = one.astype(np.float64)[:, np.newaxis], other.astype(np.float64)
    low, high = np.maximum(one[..., :2], other[:, :2]), np.minimum(one[..., 2:], other[:, 2:])
    sides: NDArray[np.float64] = np.maximum(high - low, 0)
    return sides[..., 0] * sides[..., 1]


def areas(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of each box; 0 for one that is turned inside out."""
    sides: NDArray[np.float64] = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without an overflow."""
    small = np.exp(-np.abs(logits))
    found: NDArray[np.float64] = np.where(logits >= 0, 1.0, small) / (1 + small)
    return found


def expected_bins(bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean bin of a softmax over the last axis; not a number where no value is finite."""
    with np.errstate(invalid="ignore"):  # infinities less infinities
        weights = np.exp(bins - bins.max(axis=-1, keepdims=True))
    mean: NDArray[np.float64] = weights @ np.arange(bins.shape[-1]) / weights.sum(axis=-1)
    return mean


def _columns(shapes: Mapping[str, tuple[int, ...]], name: str, cells: int, stride: int) -> int:
    """Values a cell of an output of shape [cells, n] or [1, cells, n]."""
    if name not in shapes:
        raise TaskError(
            f"task: boxes names the output '{name}', and the model has {', '.join(shapes)}"
        )
    shape = shapes[name]
    if len(shape) not in (2, 3) or shape[-2] != cells or (len(shape) == 3 and shape[0] != 1):
        raise TaskError(
            f"task: output '{name}' has shape {'x'.join(map(str, shape))} where stride {stride} "
            f"makes {cells} cells: correct boxes.strides or the order of the outputs"
        )
    return shape[-1]
