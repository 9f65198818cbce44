"""Steps for each channel, as bytes that mean the same on every machine."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.levelled import MOST_LEVELS
from splitbed.errors import CodecError

_SIXTEENTHS: Final = tuple(round(4096 * 2 ** (part / 16)) for part in range(16))
"""Of an octave, in 4096ths: steps are made of whole numbers, so that every machine has the same."""
_MIDDLE: Final = 128


@lru_cache(maxsize=32)
def steps_of(step: float, sixteenths: bytes) -> NDArray[np.float64]:
    """[channels]: `step` times the 16th root of 2 to the power of each byte less 128."""
    power = np.frombuffer(sixteenths, np.uint8).astype(np.int64) - _MIDDLE
    octave, part = np.divmod(power, 16)
    whole = np.array(_SIXTEENTHS, np.float64)[part]
    found = np.ldexp(whole * step, (octave - 12).astype(np.int32))
    found.setflags(write=False)  # the same for every frame
    return found


def levels_for(
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
    power = np.clip(power, -_MIDDLE, _MIDDLE - 1)
    steps = step * 2 ** (power / 16)
    zero = int(min(room, np.rint(below / steps).max()))
    top = int(min(room, np.rint(above / steps).max()))
    return (power + _MIDDLE).astype(np.uint8).tobytes(), zero, max(2, zero + top + 1)
