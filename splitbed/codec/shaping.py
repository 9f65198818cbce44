"""What shaped quantisation is made of, from a calibration, and how its encoder's part is kept."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from splitbed.codec.rounding import WEIGHT_ONE
from splitbed.codec.sensitivity import Feedback, Taps, TensorSensitivity, feedback_of
from splitbed.codec.zstd import Zstd
from splitbed.errors import CodecError, PayloadInvalid, UsageError

MOST_LEVELS: Final = 256
MIDDLE: Final = 128
"""The byte of a channel whose step is the tensor's."""
COST_ONE: Final = 8
"""Lengths are in eighths of a bit."""


class Shaping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only the encoder needs; it does not travel."""

    low: float
    high: float
    """Range of the values seen."""
    taps: Taps
    passed: bytes
    """int8, in 64ths: the upper triangle of `Feedback.passed`, row by row, as one zstd frame."""
    rate: float = 0.0
    costs: bytes = b""
    """uint8 [channels, levels], in eighths of a bit, as one zstd frame; empty for a rate of 0."""


def feedback_in(sensitivity: TensorSensitivity, name: str) -> Feedback:
    """From what a calibration holds; CodecError where no measurement gives that."""
    try:
        return feedback_of(sensitivity.matrix())
    except UsageError as error:
        raise CodecError(
            f"the calibration holds {error} of tensor '{name}': make it again"
        ) from error


def levels_of(
    step: float,
    scale: NDArray[np.float64],
    fields: list[NDArray[np.float32]],
    written: float,
    name: str,
) -> tuple[bytes, int, int]:
    """Steps as bytes, the symbol of zero, and the number of symbols that all channels share."""
    lows = np.min([field.min(axis=(1, 2)) for field in fields], axis=0).astype(np.float64)
    highs = np.max([field.max(axis=(1, 2)) for field in fields], axis=0).astype(np.float64)
    below, above = np.maximum(0, -lows), np.maximum(0, highs)
    room = MOST_LEVELS - 2 if not below.any() or not above.any() else MOST_LEVELS // 2 - 1
    least = np.maximum(below, above) / room
    if np.count_nonzero(step * scale < least) > scale.size // 2:
        wanted = written * float(np.median(least / scale)) / step
        raise CodecError(
            f"shaped:{written:g} would take more than {MOST_LEVELS} levels for tensor '{name}', "
            f"whose values lie far apart: use a step of {wanted:.2g} or more, or cast"
        )
    # Rounded up, so that what `least` keeps within the room stays there.
    power = np.ceil(16 * np.log2(np.maximum(scale, least / step)) - 1e-9)
    power = np.clip(power, -MIDDLE, MIDDLE - 1)
    steps = step * 2 ** (power / 16)
    zero = int(min(room, np.rint(below / steps).max()))
    top = int(min(room, np.rint(above / steps).max()))
    return (power + MIDDLE).astype(np.uint8).tobytes(), zero, max(2, zero + top + 1)


def costs_of(symbols: list[NDArray[np.uint8]], channels: int, levels: int) -> bytes:
    """Lengths of the symbols in each channel, by how often they came."""
    counts = np.full((channels, levels), 0.2)
    for field in symbols:
        index = field.reshape(channels, -1) + np.arange(channels)[:, None] * levels
        counts += np.bincount(index.reshape(-1), minlength=counts.size).reshape(counts.shape)
    bits = -np.log2(counts / counts.sum(axis=1, keepdims=True))
    return _zstd(np.minimum(np.rint(bits * COST_ONE), 255).astype(np.uint8))


def packed_shares(passed: NDArray[np.float64]) -> bytes:
    """`Feedback.passed` as `Shaping.passed`."""
    upper = passed[np.triu_indices(passed.shape[0], 1)]
    return _zstd(np.clip(np.rint(upper * WEIGHT_ONE), -127, 127).astype(np.int8))


def _zstd(array: NDArray[Any]) -> bytes:
    return bytes(Zstd(level=19).encode(array.tobytes()))


def unpacked(data: bytes, kind: type[np.uint8] | type[np.int8], count: int) -> NDArray[Any]:
    """So many numbers; UsageError for anything else."""
    try:
        found = np.frombuffer(Zstd().decode(data, count), kind)
    except PayloadInvalid as error:
        raise UsageError(f"shaped has a shaping that cannot be read ({error})") from error
    if found.size != count:
        raise UsageError(f"shaped has a shaping of {found.size} numbers where {count} are needed")
    return found
