"""How far two runs' outputs are from each other."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from splitbed.tensor import Array

Numbers = NDArray[np.float64]


class Difference(msgspec.Struct, frozen=True):
    """Over all inputs given."""

    max_abs: float
    max_rel: float
    """Largest difference over the largest magnitude of that output."""
    nmse: float
    """Sum of squared differences over the sum of squares, which S4-240785 (clause 10.3.9.1) wants
    below 1e-5 for its detectors."""
    same_top1: int
    """Inputs for which the largest element of every output is the same one."""


class Comparison:
    """Collects a Difference, input by input. Figures that prove nothing are told by `problem`."""

    def __init__(self) -> None:
        self._max_abs = self._max_rel = self._squared = self._energy = 0.0
        self._same = 0
        self.problem = ""
        """Why nothing is proved: an output of another shape, or one that is not finite."""

    def add(self, got: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
        """The outputs of one input, by name."""
        equal_top = True
        for name, reference in wanted.items():
            made = got[name]
            if made.shape != reference.shape:
                self.problem = f"output '{name}' has shape {made.shape} instead of "
                self.problem += f"{reference.shape}"
                return
            if not reference.size:
                continue
            a, b = made.astype(np.float64), reference.astype(np.float64)
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                self.problem = f"output '{name}' is not finite: it proves nothing"
                return
            difference = np.abs(a - b)
            self._max_abs = max(self._max_abs, float(difference.max()))
            self._max_rel = max(self._max_rel, relative(difference, b))
            self._squared += float(np.sum(difference**2))
            self._energy += float(np.sum(b**2))
            equal_top = equal_top and int(a.argmax()) == int(b.argmax())
        self._same += equal_top

    def result(self) -> Difference:
        """What was found so far."""
        return Difference(
            self._max_abs, self._max_rel, self._squared / max(self._energy, 1e-30), self._same
        )


def relative(difference: Numbers, reference: Numbers) -> float:
    """The largest difference, relative to the reference's largest magnitude."""
    return float(np.max(difference) / max(float(np.max(np.abs(reference))), 1e-30))
