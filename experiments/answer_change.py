"""How far coding changes a model's answers, judged from few pictures.

Answers that changed are too few to count: of 40 pictures none may change although one in twenty
would. What is there of every picture is its margin, how far the best class lies before the next
one, and its push, how far coding moved that margin. An answer changes where the push exceeds the
margin. Which picture meets which push is chance, so every margin is held against the pushes of all
pictures: n pictures give n * n trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from experiments.class_scores import Floats

PRIOR_PICTURES: Final = 16
"""What is believed before any picture was seen counts as so many: margins are exponential with the
mean of those at hand. Few pictures leave few small margins, and those alone decide."""


class Change(msgspec.Struct, frozen=True):
    """What is to be expected of pictures that nobody saw, in percent of them."""

    changed_pct: float
    """Answers that are no longer the uncut model's."""
    lost_pct: float | None
    """Right ones less, net of those that became right; None without labels."""


def margin(scores: Floats, chosen: int) -> float:
    """How far a class lies before the best of all others; below zero where it lies behind."""
    if scores.size < 2:
        return float("inf")
    others = np.delete(scores, chosen)
    return float(scores[chosen] - others.max())


def expected_change(
    margins: Sequence[float], pushes: Sequence[float], labelled: Sequence[tuple[float, float]]
) -> Change:
    """From each picture's margin and push of the uncut answer, and of the right class of those that
    have a label.
    """
    m = np.asarray(margins, np.float64)
    # A score that is no number is as far off as can be.
    push = np.nan_to_num(np.asarray(pushes, np.float64), nan=np.inf, posinf=np.inf)
    prior = _exponential(m, push)
    changed = _shrunk(float((push >= m[:, None]).mean()), prior, len(m))
    if not labelled:
        return Change(100 * changed, None)
    right = np.asarray(labelled, np.float64)
    before = right[:, :1]
    after = before - np.nan_to_num(right[:, 1], nan=np.inf, posinf=np.inf)
    lost = ((before > 0) & (after <= 0)).mean() - ((before <= 0) & (after > 0)).mean()
    # Where an answer is a close call, the uncut model is right half of the time.
    return Change(100 * changed, 100 * _shrunk(float(lost), prior / 2, len(right)))


def _exponential(margins: Floats, pushes: Floats) -> float:
    finite = margins[np.isfinite(margins)]
    scale = max(float(finite.mean()) if finite.size else np.inf, 1e-12)
    chance: Any = 1 - np.exp(-np.maximum(pushes, 0) / scale)
    return float(chance.mean())


def _shrunk(found: float, prior: float, pictures: int) -> float:
    return (pictures * found + PRIOR_PICTURES * prior) / (pictures + PRIOR_PICTURES)
