"""Proof that head then tail gives what the uncut model gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
import numpy as np

from splitbed.errors import VerificationError
from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.extract import Parts
from splitbed.runnable import Runnable, carry
from splitbed.tensor import Array

TOLERANCE: Final = 1e-4
"""Largest difference allowed, relative to the largest magnitude of the output tensor."""


Opener = Callable[[bytes], Runnable]
"""Makes a Runnable of a model file's content."""


class Verification(msgspec.Struct, frozen=True):
    """How far head then tail is from the uncut canonical model, over all inputs given."""

    cut: str
    inputs: int
    max_abs: float
    max_rel: float
    """Largest difference over the largest magnitude of that output."""
    nmse: float
    same_top1: int
    """Inputs for which the largest element of every output is the same one."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the parts may be measured."""
        return self.max_rel <= self.tolerance


def verify(
    model: CanonicalModel,
    parts: Parts,
    feeds: Iterable[Mapping[str, Array]],
    opener: Opener,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Run head, then tail, then the uncut model on every input.

    Raises VerificationError where they differ by more than `tolerance`.
    """
    whole = opener(model.serialised())
    first = opener(parts.first.content) if parts.first else None
    second = opener(parts.second.content) if parts.second else None
    outputs = [spec.name for spec in model.outputs]
    boundary = [spec.name for spec in parts.cut.boundary]
    count = same = 0
    max_abs = max_rel = squared = energy = 0.0
    for feed in feeds:
        wanted = dict(zip(whole.outputs, whole.run(feed), strict=True))
        crossing = carry(first, feed, boundary)
        got = carry(second, crossing, outputs)
        count += 1
        equal_top = True
        for name in outputs:
            a, b = got[name].astype(np.float64), wanted[name].astype(np.float64)
            if a.shape != b.shape:
                raise VerificationError(
                    f"cut at '{parts.cut.name}', output '{name}' has shape {a.shape} where the "
                    f"uncut model has {b.shape}"
                )
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise VerificationError(
                    f"cut at '{parts.cut.name}', output '{name}' is not finite: it proves nothing"
                )
            if not b.size:
                continue
            difference = np.abs(a - b)
            max_abs = max(max_abs, float(difference.max()))
            max_rel = max(max_rel, float(difference.max() / max(np.abs(b).max(), 1e-30)))
            squared += float(np.sum(difference**2))
            energy += float(np.sum(b**2))
            equal_top = equal_top and int(a.argmax()) == int(b.argmax())
        same += equal_top
    if not count:
        raise VerificationError(f"cut at '{parts.cut.name}' was given no input to be verified on")
    found = Verification(
        cut=parts.cut.name,
        inputs=count,
        max_abs=max_abs,
        max_rel=max_rel,
        nmse=squared / max(energy, 1e-30),
        same_top1=same,
        tolerance=tolerance,
    )
    if not found.passed:
        raise VerificationError(
            f"cut at '{found.cut}', head then tail differs from the uncut model by "
            f"{max_rel:.2g} of the output's magnitude (allowed {tolerance:.0e}): this cut cannot "
            "be measured; choose another"
        )
    return found
