"""How far the tail's answer moves when what crosses is disturbed, as a calibration keeps it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from splitbed.errors import UsageError

MOST_CHANNELS: Final = 1024
"""A tensor with more takes too long to learn of: a run of the tail for each channel and frame."""

Taps = tuple[float, float, float, float]

RIDGE: Final = 0.1
"""Of the mean channel's, added to each one's: what was seen of a few frames is not all there is."""


class TensorSensitivity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tail's answer as a quadratic form of a disturbance, means over places and frames.

    A disturbance e [channels] of one place moves the answer by e G e, in the measure of whoever
    learnt it. Neighbouring places are told by `taps` alone: those of the filter whose noise moves
    the answer least.
    """

    channels: Annotated[int, Meta(ge=1, le=MOST_CHANNELS)]
    gram: bytes
    """G, float32 [channels, channels], little-endian."""
    taps: Taps = (0.0, 0.0, 0.0, 0.0)
    """Of the errors W, N, NW and NE of a place: what its own should be, negated."""

    def __post_init__(self) -> None:
        if not all(abs(tap) <= 1 for tap in self.taps):
            raise UsageError("a sensitivity has taps of -1 to 1")
        if len(self.gram) != 4 * self.channels**2:
            raise UsageError(f"a sensitivity of {self.channels} channels has as many rows, no more")

    @classmethod
    def of(cls, gram: NDArray[Any], taps: Taps) -> TensorSensitivity:
        """From a symmetric matrix."""
        return cls(gram.shape[0], gram.astype("<f4").tobytes(), taps)

    def matrix(self) -> NDArray[np.float64]:
        """G; UsageError where the bytes are none."""
        flat = np.frombuffer(self.gram, "<f4").astype(np.float64)
        if not math.isfinite(float(flat.sum())):
            raise UsageError("a sensitivity that is not of numbers")
        gram: NDArray[np.float64] = flat.reshape(self.channels, self.channels)
        return (gram + gram.T) / 2


class Feedback(msgspec.Struct, frozen=True):
    """What rounding one channel asks of those after it, so that the answer moves least."""

    passed: NDArray[np.float64]
    """[channels, channels]: row j, column k > j: this share of j's error is taken off k."""
    scale: NDArray[np.float64]
    """[channels]: steps, relative to each other, of geometric mean one."""


def feedback_of(gram: NDArray[np.float64]) -> Feedback:
    """From G = M' D M with M unit lower triangular: e G e = sum of d_k (e_k + sum_j<k m_kj e_j)^2.

    Rounding channels in order, each one can undo what those before it did to its own term; steps in
    proportion to d^-1/2 then make all terms alike, which is what the fewest bits ask for.
    UsageError for a G that no measurement gives.
    """
    channels = gram.shape[0]
    mean = float(np.trace(gram)) / channels
    if not mean > 0:
        return Feedback(np.zeros((channels, channels)), np.ones(channels))
    wanted = gram / mean + RIDGE * np.eye(channels)
    # Cholesky begins with the first row, and the last channel has to come first.
    try:
        lower = np.linalg.cholesky(wanted[::-1, ::-1])[::-1, ::-1].T
    except np.linalg.LinAlgError as error:
        raise UsageError("a sensitivity by which errors do good") from error
    diagonal = np.diag(lower)
    passed = np.tril(lower / diagonal[:, None], -1).T
    scale = 1 / diagonal
    return Feedback(passed, scale / np.exp(np.log(scale).mean()))
