"""Uniform quantisation by one step, with as many levels as the range needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from splitbed.codec.entropy import native_rounding
from splitbed.codec.entropy.coder import library
from splitbed.codec.layout import from_planes, planes
from splitbed.codec.packing import pack, unpack
from splitbed.codec.quantize import NOT_A_NUMBER
from splitbed.codec.raw import array_of
from splitbed.codec.stage import Binding, SymbolSource
from splitbed.errors import CodecError, CodecUnknown, UsageError
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec

_MOST_LEVELS: Final = 256
_SMALLEST_STEP: Final = 1e-30
_LARGEST_STEP: Final = 1e36
"""Steps whose reciprocal, and whose multiples, single precision holds."""


class Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person writes of it."""

    step: Annotated[float, Meta(gt=0, le=100)]
    diffuse: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Uniform(SymbolSource, frozen=True):
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
    positional: ClassVar[str | None] = "step"
    calibrated: ClassVar[bool] = True
    floats_only: ClassVar[bool] = True

    step: float
    """Distance of two neighbouring decoded values, in the tensor's own units."""
    zero: Annotated[int, Meta(ge=0, le=_MOST_LEVELS - 1)]
    """The symbol of 0."""
    levels: Annotated[int, Meta(ge=2, le=_MOST_LEVELS)]
    diffuse: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if not _SMALLEST_STEP <= self.step <= _LARGEST_STEP:
            raise UsageError(f"uniform cannot divide by a step of {self.step}")
        if self.zero >= self.levels:
            raise UsageError(f"uniform has {self.levels} levels, and zero is none of them")

    @classmethod
    def check(cls, arguments: Mapping[str, str]) -> None:
        """Step and share of the error; the range comes from the calibration."""
        if "step" not in arguments:
            raise CodecUnknown(
                "codec stage 'uniform' needs its step in standard deviations, as in uniform:0.5"
            )
        _written(arguments)

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Uniform:
        """The step from the calibration's standard deviation, the levels from its range."""
        cls.check(arguments)
        written, statistics = _written(arguments), binding.statistics
        if statistics is None:
            raise CodecError(
                f"uniform needs a calibration for tensor '{binding.spec.name}': make one with "
                "`splitbed calibrate` and give it with --calibration"
            )
        deviation = statistics.deviation or max(abs(statistics.low), abs(statistics.high), 1e-20)
        step = written.step * deviation
        below, above = (max(0, round(end / step)) for end in (-statistics.low, statistics.high))
        levels = below + above + 1
        if levels > _MOST_LEVELS:
            wanted = written.step * levels / (_MOST_LEVELS - 2)
            raise CodecError(
                f"uniform:{written.step:g} would take {levels} levels for tensor "
                f"'{binding.spec.name}', whose values lie far apart, and 256 is the most: use a "
                f"step of {wanted:.2g} or more, or cast"
            )
        return cls(step, below, max(2, levels), written.diffuse)

    @property
    def alphabet(self) -> int:
        """Number of symbols."""
        return self.levels

    @property
    def _bits(self) -> int:
        return max(2, (self.levels - 1).bit_length())

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

    def max_bytes(self, spec: TensorSpec) -> int:
        """All encodings without an entropy coder have this length."""
        return (spec.elements * self._bits + 7) // 8

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

    def encode(self, array: Array) -> Buffer:
        """Symbols side by side."""
        return pack(self.symbols(array).reshape(-1), self._bits)

    def decode(self, payload: Buffer, spec: TensorSpec) -> Array:
        """The values of symbols side by side."""
        packed = TensorSpec(spec.name, "uint8", (self.max_bytes(spec),))
        whole = array_of(payload, np.dtype(np.uint8), packed).astype(np.uint8, copy=False)
        return self.values(unpack(whole, self._bits, spec.elements), spec)


def _written(arguments: Mapping[str, str]) -> Written:
    try:
        found = msgspec.convert(dict(arguments), Written, strict=False)
    except msgspec.ValidationError as error:
        raise CodecUnknown(f"codec stage 'uniform': {error}") from error
    if not math.isfinite(found.step):
        raise CodecUnknown("codec stage 'uniform': the step is a number")
    return found


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
