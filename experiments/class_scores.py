"""A classifier's scores on one scale, be they probabilities or what goes into a softmax."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splitbed.tensor import Array

Floats = NDArray[np.float64]


def are_shares(scores: Array) -> bool:
    """Whether scores are probabilities, a softmax's output, and not what goes into one."""
    flat = scores.astype(np.float64).reshape(-1)
    return bool(flat.min(initial=0.0) >= 0 and abs(flat.sum() - 1) < 1e-2)


def log_scores(scores: Array, shares: bool) -> Floats:
    """Logarithms of probabilities but for a constant, flat."""
    flat = scores.astype(np.float64).reshape(-1)
    return np.asarray(np.log(np.maximum(flat, 1e-12))) if shares else flat
