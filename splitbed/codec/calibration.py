"""What was seen of intermediate data on a few real inputs, from which codecs are completed.

Whoever orchestrates a run makes the calibration, on inputs that are not among those measured. What
a codec learns from it is part of the session's specification; the calibration itself stays where it
was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from splitbed.codec.raw import array_of, raw_bytes
from splitbed.codec.sensitivity import TensorSensitivity
from splitbed.codec.statistics import TensorStatistics
from splitbed.codec.zstd import Zstd
from splitbed.errors import PayloadInvalid, UsageError
from splitbed.pair import PairId
from splitbed.tensor import Array, TensorSpec

MOST_FRAMES_BYTES: Final = 64 << 20
"""Of tensors kept, for each boundary tensor."""


class CalibrationFrames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tensors of some calibration inputs, for stages that learn from more than a histogram."""

    count: Annotated[int, Meta(ge=1, le=100_000)]
    data: bytes
    """Raw little-endian elements of all of them, one after the other, as one zstd frame."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `splitbed calibrate` writes: statistics of every boundary tensor of one cut."""

    model_digest: str
    cut: str
    inputs: tuple[str, ...]
    """The pictures it was made from, by file name."""
    tensors: dict[str, TensorStatistics]
    digests: tuple[str, ...] = ()
    """SHA-256 of those pictures' files, so that a run can leave them out."""
    frames: dict[str, CalibrationFrames] = {}
    """By tensor."""
    sensitivities: dict[str, TensorSensitivity] = {}
    """By tensor, where the tail was measured."""
    pair: str = ""
    """Digest of the learned codec whose code was looked at; "" where it was the boundary itself."""

    def arrays(self, spec: TensorSpec) -> tuple[Array, ...]:
        """The tensors kept of one boundary tensor; UsageError where they are of another shape."""
        kept = self.frames.get(spec.name)
        if kept is None:
            return ()
        size = kept.count * spec.nbytes
        try:
            data = Zstd().decode(kept.data, min(size, MOST_FRAMES_BYTES))
            flat = array_of(data, spec.numpy_dtype, _stacked(spec, kept.count))
        except PayloadInvalid as error:
            raise UsageError(
                f"the calibration's frames of '{spec.name}' are not of {spec}: make it again for "
                f"this cut ({error})"
            ) from error
        return tuple(flat)

    def check_pair(self, pair: PairId | None, where: object) -> None:
        """Raise UsageError where another tensor was looked at than the one that crosses."""
        if self.pair != ("" if pair is None else pair.digest):
            raise UsageError(
                f"the calibration {where} was made "
                + ("with another learned codec" if self.pair else "without a learned codec")
                + ": make one with `splitbed calibrate --out`, and this run's codec for --codec"
            )


def _stacked(spec: TensorSpec, count: int) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, (count, *spec.shape))


class FrameCollector:
    """Keeps the first tensors of one boundary tensor, up to MOST_FRAMES_BYTES of them."""

    def __init__(self, spec: TensorSpec) -> None:
        self._kept: list[Array] = []
        self._room = MOST_FRAMES_BYTES // max(1, spec.nbytes)

    def add(self, array: Array) -> None:
        """Keep one more, if there is room."""
        if len(self._kept) < self._room:
            self._kept.append(array.copy())

    def frames(self) -> CalibrationFrames | None:
        """What was kept, None if not one tensor fits."""
        if not self._kept:
            return None
        data = Zstd().encode(raw_bytes(np.stack(self._kept)))
        return CalibrationFrames(len(self._kept), bytes(data))


def read_calibration(path: Path) -> Calibration:
    """A calibration file; UsageError for anything else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise UsageError(f"cannot read the calibration {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UsageError) as error:
        raise UsageError(
            f"{path} is not a calibration ({error}): make one with `splitbed calibrate`"
        ) from error
