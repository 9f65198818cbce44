"""From a pose network's output tensors to key points: post-processing that a description selects.

Positions are relative to the model's input: 0 is its left or upper edge, 1 its right or lower one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from splitbed.errors import TaskError
from splitbed.task.boxes import sigmoid
from splitbed.tensor import Array, TensorSpec

KeyPoints = NDArray[np.float32]
"""A row for each key point, in the model's order: x, y, score."""

COLUMNS: Final = 3
_NEAR: Final = 2
"""Cells to either side."""


class KeyPointsSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How output tensors become the key points of the one best pose.

    `offsets`: a tensor of `heat_maps`, [n, rows, columns], with a logit for each key point and
    cell, and one of `offsets`, [2n, rows, columns], n times y and then n times x in pixels of the
    input, as PoseNet has them (Papandreou et al., arXiv:1803.08225). Each key point is the cell
    with the best score, times the stride, plus its offset there: PoseNet's single-pose decoding.
    With several people in the picture the key points may be those of several.
    """

    heat_maps: str
    """A graph output."""
    offsets: str
    stride: Annotated[int, Meta(ge=1, le=1024)]
    kind: Literal["offsets"] = "offsets"


class KeyPointFinder:
    """Applies a KeyPointsSpec to one model's outputs."""

    def __init__(
        self, spec: KeyPointsSpec, size: tuple[int, int], outputs: Sequence[TensorSpec]
    ) -> None:
        """`size` is the input's height and width. TaskError where the outputs do not fit."""
        self._spec, (height, width) = spec, size
        self._scale = np.array([height, width], np.float64)
        shapes = {output.name: output.shape for output in outputs}
        for name in (spec.heat_maps, spec.offsets):
            if name not in shapes:
                raise TaskError(
                    f"task: key_points names the output '{name}', and the model has "
                    f"{', '.join(shapes)}"
                )
        heat, offsets = shapes[spec.heat_maps], shapes[spec.offsets]
        fits = len(heat) >= 3 and len(offsets) >= 3 and heat[-2:] == offsets[-2:]
        if not fits or min(heat) < 1 or {*heat[:-3], *offsets[:-3]} - {1}:
            fits = False
        if not fits or offsets[-3] != 2 * heat[-3]:
            raise TaskError(
                f"task: key_points wants heat maps of n x rows x columns and offsets of 2n x rows "
                f"x columns; '{spec.heat_maps}' is {'x'.join(map(str, heat))} and "
                f"'{spec.offsets}' {'x'.join(map(str, offsets))}"
            )
        self._shape: tuple[int, int, int] = (heat[-3], heat[-2], heat[-1])
        self.count = heat[-3]
        """Key points of a pose."""

    def find(self, outputs: Mapping[str, Array]) -> KeyPoints:
        """The key points of one frame.

        Cells whose logit is not a number do not count; a position that is not finite is the corner
        at (0, 0), its score 0.
        """
        return self._best(outputs, None)

    def find_near(self, outputs: Mapping[str, Array], points: NDArray[np.floating]) -> KeyPoints:
        """Of each key point the best cell within two cells of where `points` has it.

        What is left of a known pose, where the best cell of all may be another person's.
        """
        _, rows, columns = self._shape
        middle = np.rint(points[:, 1::-1] * self._scale / self._spec.stride)
        row, column = np.mgrid[:rows, :columns].reshape(2, -1)
        off = np.maximum(abs(row - middle[:, :1]), abs(column - middle[:, 1:]))
        return self._best(outputs, off <= _NEAR)

    def _best(self, outputs: Mapping[str, Array], allowed: NDArray[np.bool_] | None) -> KeyPoints:
        count, rows, columns = self._shape
        logits = outputs[self._spec.heat_maps].reshape(count, -1).astype(np.float64)
        logits = np.where(np.isnan(logits), -np.inf, logits)
        if allowed is not None:
            logits = np.where(allowed, logits, -np.inf)
        best = logits.argmax(axis=1)
        cells = np.stack(np.divmod(best, columns), 1)  # row, column
        offsets = outputs[self._spec.offsets].reshape(2, count, rows * columns).astype(np.float64)
        moved = offsets[:, np.arange(count), best].T
        places = (cells * self._spec.stride + moved) / self._scale
        scores = sigmoid(logits[np.arange(count), best])
        found = np.column_stack([places[:, ::-1], scores])
        return np.where(np.isfinite(found).all(1, keepdims=True), found, 0.0).astype(np.float32)
