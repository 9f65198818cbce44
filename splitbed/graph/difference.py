"""How far two runs' outputs are from each other."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from splitbed.tensor import Array


class Difference(msgspec.Struct, frozen=True):
    """Over all inputs given."""

    max_abs: float
    max_rel: float
    """Largest difference over the largest magnitude of that output; of whole numbers itself."""
    nmse: float
    """Sum of squared differences over the sum of squares, which S4-240785 (clause 10.3.9.1) wants
    below 1e-5 for its detectors."""
    same_top1: int
    """Inputs for which the largest element of every output is the same one."""


class Comparison:
    """Collects a Difference, input by input. Figures that prove nothing are told by `problem`."""

    def __init__(self) -> None:
        self._max_abs = self._max_rel = self._squared = self._energy = 0.0
        self._same = self._elements = 0
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why nothing is proved: an output of another shape, a reference that is not finite."""
        if self._problem or self._elements:
            return self._problem
        return "every output is empty: it proves nothing"

    def add(self, got: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
        """The outputs of one input, by name."""
        equal_top = True
        for name, reference in wanted.items():
            made = got[name]
            if made.shape != reference.shape:
                self._problem = f"output '{name}' has shape {made.shape} instead of "
                self._problem += f"{reference.shape}"
                return
            self._elements += reference.size
            if not reference.size:
                continue
            a, b = made.astype(np.float64), reference.astype(np.float64)
            if not np.isfinite(b).all():
                self._problem = f"output '{name}' is not finite: it proves nothing"
                return
            difference = np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf)
            self._max_abs = max(self._max_abs, float(difference.max()))
            self._max_rel = max(self._max_rel, distance(made, reference))
            self._squared += float(np.sum(difference**2))
            self._energy += float(np.sum(b**2))
            equal_top = equal_top and int(a.argmax()) == int(b.argmax())
        self._same += equal_top

    def result(self) -> Difference:
        """What was found so far."""
        return Difference(
            self._max_abs, self._max_rel, self._squared / max(self._energy, 1e-30), self._same
        )


def distance(made: Array, reference: Array) -> float:
    """The largest difference, relative to the reference's largest magnitude; infinite for NaN.

    Whole numbers and truth values are equal or not: of them it is the difference itself.
    """
    if not reference.size:
        return 0.0
    a, b = made.astype(np.float64), reference.astype(np.float64)
    largest = float(np.max(np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf)))
    if reference.dtype.kind != "f":
        return largest
    return largest / max(float(np.max(np.abs(b))), 1e-30)
