"""Quantisation whose errors lie where the tail looks least."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from splitbed.codec.channel_steps import levels_for, steps_of
from splitbed.codec.layout import from_planes, planes, planes_shape
from splitbed.codec.levelled import Levelled, WrittenStep
from splitbed.codec.quantize import NOT_A_NUMBER
from splitbed.codec.rounding import MOST_SHIFT, Shaper, ShapingTables
from splitbed.codec.sensitivity import (
    MOST_CHANNELS,
    Feedback,
    TensorSensitivity,
    feedback_of,
)
from splitbed.codec.shaping import Shaping, costs_of, packed
from splitbed.codec.stage import Binding, as_written
from splitbed.errors import CodecError, UsageError
from splitbed.quantiser import LARGEST_STEP, SMALLEST_STEP
from splitbed.tensor import Array, TensorSpec

_MOST_STEPS: Final = MOST_SHIFT + 1
"""Of an error: what a value may be moved, and the farther of two symbols beside it."""
_ROUNDS: Final = 2
"""Symbols' lengths depend on the symbols taken, and those on the lengths."""


class Written(WrittenStep, frozen=True):
    """The same with how symbols are chosen."""

    rate: Annotated[float, Meta(ge=0, le=1)] = 0.0
    errors: Literal["shaped", "plain"] = "shaped"


class Shaped(Levelled, frozen=True):
    """Multiples of a step for each channel, chosen so that the tail's answer moves least.

    `shaped:0.5` takes steps about half the tensor's standard deviation: smaller in channels that
    the tail heeds, larger in others. Symbols are not the nearest ones: the error of each is handed
    on to later channels of its place and to neighbouring places, as the tail's own responses to
    disturbances ask, which the calibration measured. Made to be followed by `ans`. Beside `uniform`
    at equal bytes it moves the answer about half as far; single elements it moves further.

    `rate=0.1` takes a symbol that needs fewer bits where that adds to the squared error, in steps,
    no more than 0.1 for each bit saved (entropy-constrained quantisation, by each channel's own
    lengths). `errors=plain` hands none on.

    Loss: at most 5 steps of the channel, and the rounding of the tensor's own type; what lies
    outside the calibrated range, or outside what the channel's symbols reach, becomes the nearer
    end first, infinities included. NaN is refused. At most 256 levels and 1024 channels.

    Decoding multiplies whole numbers by whole numbers and one step, so it is bit-identical on every
    machine. What only the encoder needs stays on the device.
    """

    id: ClassVar[str] = "shaped"

    sixteenths: bytes
    """A byte for each channel: its step is `step` times the 16th root of 2 to the power of that
    byte less 128."""
    shaping: Shaping | UnsetType = UNSET

    def __post_init__(self) -> None:
        if not SMALLEST_STEP * 512 <= self.step <= LARGEST_STEP / 512:
            raise UsageError(f"shaped cannot divide by a step of {self.step}")
        super().__post_init__()
        if not 1 <= len(self.sixteenths) <= MOST_CHANNELS:
            raise UsageError(f"shaped has steps for 1 to {MOST_CHANNELS} channels")

    @classmethod
    def check(cls, arguments: Mapping[str, str]) -> None:
        """Step and rate; all else comes from the calibration."""
        cls.check_levels(arguments)
        as_written(cls.id, Written, arguments)

    @classmethod
    def wants_sensitivity(cls, arguments: Mapping[str, str]) -> bool:
        """Always."""
        del arguments
        return True

    @classmethod
    def wants_frames(cls, arguments: Mapping[str, str]) -> bool:
        """For the range of each channel."""
        del arguments
        return True

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Shaped:
        """Steps and feedback from the tail's responses, range and lengths from the frames."""
        cls.check(arguments)
        written, spec = as_written(cls.id, Written, arguments), binding.spec
        statistics, sensitivity = binding.statistics, binding.sensitivity
        channels, _, _ = planes_shape(spec.shape)
        if channels > MOST_CHANNELS:
            raise CodecError(
                f"shaped takes at most {MOST_CHANNELS} channels, and '{spec.name}' has {channels}: "
                "use uniform"
            )
        if statistics is None or sensitivity is None or not binding.samples:
            raise CodecError(
                f"shaped needs a calibration of tensor '{spec.name}' that has measured the tail: "
                "make one with `splitbed calibrate`, or use uniform at a cut without a tail, or "
                "with a tail whose answers are not finite or take too long"
            )
        if sensitivity.channels != channels:
            raise CodecError(
                f"the calibration measured {sensitivity.channels} channels of '{spec.name}', which "
                f"has {channels}: make it again for this cut"
            )
        feedback = _feedback(sensitivity, spec.name)
        deviation = statistics.deviation or max(abs(statistics.low), abs(statistics.high), 1e-20)
        step = written.step * deviation
        if not SMALLEST_STEP * 512 <= step <= LARGEST_STEP / 512:
            raise CodecError(
                f"shaped:{written.step:g} would take a step of {step:.3g} for tensor "
                f"'{spec.name}', which single precision cannot divide by: use raw or cast"
            )
        fields = [planes(array.astype(np.float32)) for array in binding.samples]
        sixteenths, zero, levels = levels_for(step, feedback.scale, fields, written.step, spec.name)
        shaping = Shaping(
            low=statistics.low,
            high=statistics.high,
            taps=sensitivity.taps if written.errors == "shaped" else (0.0, 0.0, 0.0, 0.0),
            passed=packed(feedback.passed * (written.errors == "shaped")),
        )
        stage = cls(step, zero, levels, sixteenths, shaping)
        for _ in range(_ROUNDS if written.rate else 0):
            costs = costs_of([stage._rounded(field) for field in fields], channels, levels)
            changed = msgspec.structs.replace(shaping, rate=written.rate, costs=costs)
            stage = msgspec.structs.replace(stage, shaping=changed)
        return stage

    def as_sent(self) -> Shaped:
        """Without what only the encoder needs."""
        return msgspec.structs.replace(self, shaping=UNSET)

    @property
    def steps(self) -> NDArray[np.float64]:
        """[channels]: distance of two neighbouring decoded values."""
        return steps_of(self.step, self.sixteenths)

    def refuses(self, spec: TensorSpec) -> str | None:
        """Only floating-point tensors of as many channels as there are steps."""
        if not spec.is_float:
            return f"shaped codes floating-point tensors, not {spec.dtype}"
        channels, _, _ = planes_shape(spec.shape)
        if channels != len(self.sixteenths):
            return (
                f"shaped has steps for {len(self.sixteenths)} channels, and {spec} has {channels}"
            )
        largest = float(self.steps.max()) * self.levels
        if largest > float(np.finfo(np.dtype(spec.dtype)).max):
            return f"shaped with values up to {largest:g} does not fit {spec.dtype}"
        return None

    def bound(self, array: Array) -> Any:
        """Five steps, and what is outside; None where only a decoder's part is here."""
        if isinstance(self.shaping, UnsetType):
            return None
        steps = self.steps[:, None, None]
        low = np.maximum(self.shaping.low, -self.zero * steps)
        high = np.minimum(self.shaping.high, (self.levels - 1 - self.zero) * steps)
        field = planes(array.astype(np.float64))
        outside = np.maximum(0, np.maximum(field - high, low - field))
        largest = np.maximum(np.abs(low), np.abs(high))
        own = (float(np.finfo(array.dtype.name).eps) + 2.0**-22) * largest
        return from_planes(_MOST_STEPS * steps + own + outside, array.shape)

    def symbols(self, array: Array) -> NDArray[np.uint8]:
        """The symbol of each element, of the array's shape, decided in single precision."""
        with np.errstate(over="ignore", invalid="ignore"):
            field = planes(array.astype(np.float32, copy=False))
            suspect = field.size and np.isnan(field.sum())  # of infinities, too
        if suspect and np.isnan(field).any():
            raise CodecError(NOT_A_NUMBER)
        return from_planes(self._rounded(field), array.shape)

    def _rounded(self, field: NDArray[np.float32]) -> NDArray[np.uint8]:
        if not field.size:
            return np.zeros(field.shape, np.uint8)
        return _shaper(self, *field.shape).symbols(field)

    def tables(self) -> ShapingTables:
        """What rounding takes; CodecError where the encoder's part did not come along, UsageError
        where it is none.
        """
        if isinstance(self.shaping, UnsetType):
            raise CodecError(
                "this codec came without what an encoder needs: plan it where it encodes"
            )
        return self.shaping.tables(self.steps, self.zero, self.levels)

    def values(self, symbols: NDArray[np.uint8], spec: TensorSpec) -> Array:
        """Whole numbers times their channel's step, in double precision, rounded once."""
        field = planes(symbols.reshape(spec.shape))
        wide = np.minimum(field, self.levels - 1).astype(np.float64)
        wide -= self.zero
        wide *= self.steps[:, None, None] if field.size else 1.0
        found: Array = from_planes(wide.astype(spec.dtype), spec.shape)
        return found


@lru_cache(maxsize=32)
def _shaper(stage: Shaped, channels: int, height: int, width: int) -> Shaper:
    """Tables unpacked once for a session."""
    return Shaper(stage.tables(), channels, height, width)


def _feedback(sensitivity: TensorSensitivity, name: str) -> Feedback:
    """From what a calibration holds; CodecError where no measurement gives that."""
    try:
        return feedback_of(sensitivity.matrix())
    except UsageError as error:
        raise CodecError(
            f"the calibration holds {error} of tensor '{name}': make it again"
        ) from error
