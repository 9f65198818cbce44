"""Uniform quantisation by one step, with as many levels as the range needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from splitbed.codec.entropy import native_rounding
from splitbed.codec.entropy.coder import library
from splitbed.codec.layout import from_planes, planes
from splitbed.codec.levelled import MOST_LEVELS, Levelled, WrittenStep
from splitbed.codec.quantize import NOT_A_NUMBER
from splitbed.codec.stage import Binding, as_written
from splitbed.errors import CodecError, UsageError
from splitbed.quantiser import LARGEST_STEP, SMALLEST_STEP
from splitbed.tensor import Array, TensorSpec


class Written(WrittenStep, frozen=True):
    """The same with the share of errors that is handed on."""

    diffuse: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Uniform(Levelled, frozen=True):
    """Multiples of one step: x -> round(x / step), within what calibration saw.

    `uniform:0.5` takes half the tensor's standard deviation as the step. Zero stays exactly zero.
    Made to be followed by `ans`: the step says how much is lost, the entropy coder how little that
    takes. Without one, symbols are packed into the bits that the number of levels needs.

    Loss: at most step / 2 within the calibrated range, and the rounding of the tensor's own type;
    values outside, infinities included, become the nearer end. NaN is refused. At most 256 levels.

    `diffuse`: that share of each element's error is taken over by its neighbours to the right and
    below, half each, as pictures are dithered: means over places, which tails look at, stay nearer
    to what they were, single elements less near (then within (1 + diffuse) * step / 2). Worth
    trying where the tail is short and ends in a mean; it costs no bytes at the decoder.

    Decoding multiplies whole numbers by one step, so it is bit-identical on every machine.
    """

    id: ClassVar[str] = "uniform"

    diffuse: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if not SMALLEST_STEP <= self.step <= LARGEST_STEP:
            raise UsageError(f"uniform cannot divide by a step of {self.step}")
        super().__post_init__()

    @classmethod
    def check(cls, arguments: Mapping[str, str]) -> None:
        """Step and share of the error; the range comes from the calibration."""
        cls.check_levels(arguments)
        as_written(cls.id, Written, arguments)

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Uniform:
        """The step from the calibration's standard deviation, the levels from its range."""
        cls.check(arguments)
        written, statistics = as_written(cls.id, Written, arguments), binding.statistics
        if statistics is None:
            raise CodecError(
                f"uniform needs a calibration for tensor '{binding.spec.name}': make one with "
                "`splitbed calibrate` and give it with --calibration"
            )
        deviation = statistics.deviation or max(abs(statistics.low), abs(statistics.high), 1e-20)
        step = written.step * deviation
        below, above = (max(0, round(end / step)) for end in (-statistics.low, statistics.high))
        levels = below + above + 1
        if levels > MOST_LEVELS:
            wanted = written.step * levels / (MOST_LEVELS - 2)
            raise CodecError(
                f"uniform:{written.step:g} would take {levels} levels for tensor "
                f"'{binding.spec.name}', whose values lie far apart, and 256 is the most: use a "
                f"step of {wanted:.2g} or more, or cast"
            )
        return cls(step, below, max(2, levels), written.diffuse)

    def refuses(self, spec: TensorSpec) -> str | None:
        """Only floating-point tensors."""
        if not spec.is_float:
            return f"uniform codes floating-point tensors, not {spec.dtype}"
        if self.step * self.levels > float(np.finfo(np.dtype(spec.dtype)).max):
            return f"uniform with a step of {self.step} does not fit {spec.dtype}"
        return None

    def bound(self, array: Array) -> Any:
        """Half a step, more where errors are handed on, and what lies outside the range."""
        low, high = -self.zero * self.step, (self.levels - 1 - self.zero) * self.step
        wide = array.astype(np.float64)
        outside = np.maximum(0, np.maximum(wide - high, low - wide))
        own = float(np.finfo(array.dtype.name).eps) * max(abs(low), abs(high))
        rounding = (1 + self.diffuse) * self.step / 2 + 256 * 2.0**-24 * self.step
        return rounding + own + outside

    def symbols(self, array: Array) -> NDArray[np.uint8]:
        """round(x / step), of the array's shape."""
        precision = np.float64 if array.dtype == np.float64 else np.float32
        with np.errstate(over="ignore", invalid="ignore"):  # far outliers are clipped below
            scaled = np.multiply(array.reshape(-1), precision(1 / self.step), dtype=precision)
        scaled += self.zero if self.diffuse else self.zero + 0.5
        # Truncation is rounding here, since nothing is negative after the clip.
        np.clip(scaled, 0, self.levels - (1 if self.diffuse else 0.5), out=scaled)
        if scaled.size and np.isnan(scaled.sum()):
            raise CodecError(NOT_A_NUMBER)
        if self.diffuse:
            return _diffused(scaled.reshape(array.shape), self.diffuse, self.levels)
        return scaled.astype(np.uint8).reshape(array.shape)

    def values(self, symbols: NDArray[np.uint8], spec: TensorSpec) -> Array:
        """One table look-up per element."""
        # 256 entries, the last value repeated: every byte is a value within the range.
        index = np.minimum(np.arange(256), self.levels - 1) - self.zero
        table = (index * self.step).astype(spec.dtype)
        return table[symbols].reshape(spec.shape)


def _diffused(scaled: NDArray[Any], share: float, levels: int) -> NDArray[np.uint8]:
    """Rounded, the error handed on: places whose row and column have one sum are done together."""
    shape, field, c = scaled.shape, planes(scaled), library()
    if c is not None and field.dtype == np.float32:
        return from_planes(native_rounding.diffuse(c, field, share, levels), shape)
    half = field.dtype.type(share / 2)
    _, height, width = field.shape
    found = np.empty(field.shape, np.uint8)
    for diagonal in range(height + width - 1):
        rows = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        columns = diagonal - rows
        wanted = field[:, rows, columns]
        near = np.clip(np.floor(wanted + 0.5), 0, levels - 1)
        found[:, rows, columns] = near
        error = (wanted - near) * half
        right, below = columns + 1 < width, rows + 1 < height
        field[:, rows[right], columns[right] + 1] += error[:, right]
        field[:, rows[below] + 1, columns[below]] += error[:, below]
    return from_planes(found, shape)
