"""Uniform quantisation to a few bits within a calibrated range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from splitbed.codec.clipping import channel_ranges, clip_range, clip_share
from splitbed.codec.layout import MOST_CHANNELS, planes_shape
from splitbed.codec.packing import WHOLE_SYMBOLS
from splitbed.codec.stage import Binding, SymbolSource, converted
from splitbed.codec.symbols import Symbols
from splitbed.errors import CodecError, CodecUnknown, UsageError
from splitbed.quantiser import LARGEST_STEP, SMALLEST_STEP, Quantiser
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec

NOT_A_NUMBER: Final = "a tensor with NaN cannot be quantised: use raw or cast"


Floats = NDArray[np.float64]
Ends = float | Annotated[tuple[float, ...], Meta(min_length=1, max_length=MOST_CHANNELS)]
_RULES: Final = ("clip", "per", "symmetric")
"""What is written and chooses the range, and stands in no configuration as it is."""


class Quantize(SymbolSource, frozen=True, cache_hash=True):
    """`bits` per element between `low` and `high`: x -> round((x - low) / step), clipped.

    Loss: at most step / 2 within [low, high], where step = (high - low) / (2**bits - 1), and the
    rounding of the tensor's own type; values outside, infinities included, become the nearer end.
    NaN is refused. With low = 0 (after a ReLU) zero stays exactly zero.

    The range comes from the calibration: `clip=mse` (the default: the smallest squared error),
    `clip=minmax`, or `clip=p99.9` (that share of the values). `per=channel` gives each channel a
    range of its own, from the calibration's frames: about 15 bytes a channel, once a session.
    `symmetric=yes` takes -a to a in 2**bits - 2 steps, so that zero is exact where both signs are.

    Decoding looks each symbol up in a table of 2**bits values a range, computed in double
    precision, so it is bit-identical on every machine.

    `packing`: `bits` puts symbols side by side, first symbol in the highest bits, the last byte
    filled with zeros; `bytes` gives each symbol a byte. Left open, it is `bits` where the stage is
    the last or a whole number of symbols fills a byte, else `bytes`, which zstd compresses better
    (on MobileNetV2: 6-bit symbols 8 % smaller as bytes, 4-bit symbols 12 % smaller as bits).

    `where`: `graph` has the head make the symbols and the tail turn them back, as operators of the
    model; the bytes are the same. Not for float64, nor for a range far from zero, nor by channel
    where those are the last of three axes.
    """

    id: ClassVar[str] = "quantize"
    positional: ClassVar[str | None] = "bits"
    calibrated: ClassVar[bool] = True
    floats_only: ClassVar[bool] = True

    bits: Annotated[int, Meta(ge=2, le=8)]
    low: Ends
    """Of the tensor, or of each channel."""
    high: Ends
    packing: Literal["bits", "bytes"] = "bits"
    where: Literal["numpy", "graph"] | UnsetType = UNSET
    """Left open, it is `numpy`, and nothing of it stands in the configuration."""
    symmetric: bool | UnsetType = UNSET
    """Whether `low` is -`high` and zero a level; left open, it is not."""

    def __post_init__(self) -> None:
        lows, highs = _tuple(self.low), _tuple(self.high)
        if isinstance(self.low, tuple) is not isinstance(self.high, tuple) or (
            len(lows) != len(highs)
        ):
            raise UsageError("quantize needs a low and a high for the tensor or for each channel")
        for low, high in zip(lows, highs, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UsageError(f"quantize needs low < high, not {low} and {high}")
            if self.symmetric is True and low != -high:
                raise UsageError(f"quantize is symmetric from -high to high, not {low} to {high}")
            if not SMALLEST_STEP <= (high - low) / self.highest <= LARGEST_STEP:
                raise UsageError(f"quantize cannot divide {low} to {high} in single precision")

    @classmethod
    def check(cls, arguments: Mapping[str, str]) -> None:
        """Bits, rules and names; the range itself may come from the calibration."""
        if "bits" not in arguments:
            raise CodecUnknown("codec stage 'quantize' needs its bits, as in quantize:4")
        if not arguments["bits"].isdecimal() or not 2 <= int(arguments["bits"]) <= 8:
            raise CodecUnknown(f"quantize takes 2 to 8 bits, not '{arguments['bits']}'")
        if ("low" in arguments) != ("high" in arguments):
            raise CodecUnknown("codec stage 'quantize' takes low and high together, or neither")
        clip_share(arguments.get("clip", "mse"))
        if arguments.get("per", "tensor") not in ("tensor", "channel"):
            raise CodecUnknown(f"quantize: per is tensor or channel, not '{arguments['per']}'")
        if arguments.get("symmetric", "no") not in ("yes", "no"):
            raise CodecUnknown(f"quantize: symmetric is yes or no, not '{arguments['symmetric']}'")
        if arguments.get("per") == "channel" and "low" in arguments:
            raise CodecUnknown("quantize takes the ranges of channels from the calibration alone")
        cls._written(arguments)

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Quantize:
        """The range from the statistics by `clip`, `per` and `symmetric`.

        Where nothing of that is written and the range is known, it is that one.
        """
        cls.check(arguments)
        bits, spec = int(arguments["bits"]), binding.spec
        symmetric = arguments.get("symmetric") == "yes"
        low: Ends
        high: Ends
        rule = arguments.get("clip", "mse")
        if "low" in arguments:
            low, high = float(arguments["low"]), float(arguments["high"])
        elif binding.limits is not None and cls.takes_limits(arguments):
            low, high = binding.limits
        elif binding.statistics is None:
            raise CodecError(
                f"quantize needs a calibration for tensor '{spec.name}': make one with "
                "`splitbed calibrate` and give it with --calibration"
            )
        elif arguments.get("per") != "channel":
            low, high = clip_range(binding.statistics, bits, rule, symmetric=symmetric)
        elif binding.samples:
            low, high = channel_ranges(binding.samples, bits, rule, symmetric=symmetric)
        else:
            raise CodecError(
                f"quantize with per=channel needs calibration frames of tensor '{spec.name}', and "
                "this calibration has none: make it again with `splitbed calibrate`"
            )
        packs = binding.last or bits in WHOLE_SYMBOLS
        stage = cls._written({"packing": "bits" if packs else "bytes"} | dict(arguments))
        return msgspec.structs.replace(stage, low=low, high=high)

    @classmethod
    def _written(cls, arguments: Mapping[str, str]) -> Quantize:
        """All but the rules, with some range where none is written."""
        own = {name: text for name, text in arguments.items() if name not in _RULES}
        if arguments.get("symmetric") == "yes":
            own["symmetric"] = "true"
        return converted(cls, {"low": "-1", "high": "1"} | own)

    @classmethod
    def takes_limits(cls, arguments: Mapping[str, str]) -> bool:
        """Where no rule for the range is written."""
        return not {"low", *_RULES} & set(arguments)

    @classmethod
    def wants_frames(cls, arguments: Mapping[str, str]) -> bool:
        """For the ranges of channels."""
        return arguments.get("per") == "channel"

    def refuses(self, spec: TensorSpec) -> str | None:
        """Only floating-point tensors have a range to quantise, and their type must hold it."""
        if not spec.is_float:
            return f"quantize codes floating-point tensors, not {spec.dtype}"
        channels, ranges = planes_shape(spec.shape)[0], len(_tuple(self.low))
        if ranges not in (1, channels):
            return f"quantize has ranges of {ranges} channels, not of the {channels} of {spec}"
        low, high = min(_tuple(self.low)), max(_tuple(self.high))
        if max(abs(low), abs(high)) > float(np.finfo(spec.dtype).max):
            return f"quantize from {low} to {high} does not fit {spec.dtype}"
        if self.where == "graph" and self.quantiser(spec) is None:
            return (
                f"a graph cannot quantise '{spec.name}' ({spec}, {low} to {high}) as numpy does: "
                "leave out where=graph"
            )
        return None

    def quantiser(self, spec: TensorSpec) -> Quantiser | None:
        """The same in numbers alone; None where a graph would not come to the same bits."""
        low, step = self._ends
        if self._precision(np.dtype(spec.dtype)) is not np.float32:
            return None
        if len(low) > 1 and len(spec.shape) == 3:
            return None  # the last axis has the channels here, and the second one has them there
        found = Quantiser(spec.name, tuple(low.tolist()), tuple(step.tolist()), self.highest)
        return found if found.refuses(spec.dtype, spec.shape) is None else None

    def in_graph(self, spec: TensorSpec) -> tuple[Quantiser, Symbols] | None:
        """With `where=graph`: quantising there, packing here."""
        quantiser = self.quantiser(spec) if self.where == "graph" else None
        return None if quantiser is None else (quantiser, self._packed)

    @classmethod
    def written(cls, config: Mapping[str, Any]) -> str:
        """Its bits, and what kind of ranges it has."""
        text = super().written(config)
        text += ",per=channel" * (not isinstance(config.get("low", 0.0), int | float))
        text += ",symmetric=yes" * (config.get("symmetric") is True)
        return text + ",where=graph" * (config.get("where") == "graph")

    def bound(self, array: Array) -> Any:
        """Half a step, and what lies outside; arithmetic is in single precision."""
        low, step = (self._across(ends, array.shape) for ends in self._ends)
        high = low + self.highest * step
        wide = array.astype(np.float64).reshape(self._rows(array.shape))
        outside = np.maximum(0, np.maximum(wide - high, low - wide))
        rounding = 4 * self.alphabet * 2.0**-24 * step
        own = float(np.finfo(array.dtype.name).eps) * np.maximum(abs(low), abs(high))
        return (step / 2 + rounding + own + outside).reshape(array.shape)

    @property
    def _packed(self) -> Symbols:
        return Symbols(self.bits, self.packing, self.highest)

    def _precision(self, dtype: np.dtype[Any]) -> type[np.floating[Any]]:
        """Single precision, but double where a range lies so far out that it would not do."""
        return np.float64 if dtype == np.float64 or _ends(self)[2] else np.float32

    @property
    def _ends(self) -> tuple[Floats, Floats]:
        """Lower end and step of each range."""
        return _ends(self)[:2]

    def _rows(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which ranges stand beside a tensor: that of `planes`, without a copy."""
        count = len(_tuple(self.low))
        if count == 1:
            return (-1,)
        return (shape[0], count, -1) if len(shape) > 3 else (-1, count)

    def _across(self, ends: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        return ends[:, None] if ends.size > 1 and len(shape) > 3 else ends

    @property
    def step(self) -> float:
        """Largest distance of two neighbouring decoded values."""
        return float(self._ends[1].max())

    @property
    def highest(self) -> int:
        """The last symbol."""
        return (1 << self.bits) - 1 - (self.symmetric is True)

    @property
    def alphabet(self) -> int:
        """Number of symbols."""
        return self.highest + 1

    @property
    def zero(self) -> int:
        """The symbol nearest to the value 0, in most ranges."""
        low, step = self._ends
        nearest = np.clip(np.rint(-low / step), 0, self.highest).astype(int)
        return int(np.bincount(nearest).argmax())

    def max_bytes(self, spec: TensorSpec) -> int:
        """All encodings have this length."""
        return self._packed.max_bytes(spec)

    def symbols(self, array: Array) -> NDArray[np.uint8]:
        """Five passes over the tensor."""
        precision, shape = self._precision(array.dtype), array.shape
        low, step = (self._across(ends, shape) for ends in self._ends)
        with np.errstate(over="ignore", invalid="ignore"):  # far outliers are clipped below
            # `low` first: far from zero, scaling first would lose what tells symbols apart.
            rows = array.reshape(self._rows(shape))
            scaled = np.subtract(rows, low.astype(precision), dtype=precision)
            scaled *= (1 / step).astype(precision)
            scaled += precision(0.5)
        # Truncation is rounding here, since nothing is negative after the clip.
        np.clip(scaled, 0, self.highest + 0.5, out=scaled)
        if scaled.size and np.isnan(scaled.sum()):
            raise CodecError(NOT_A_NUMBER)
        return scaled.astype(np.uint8).reshape(array.shape)

    def encode(self, array: Array) -> Buffer:
        """Symbols, packed."""
        return self._packed.encode(self.symbols(array).reshape(-1))

    def decode(self, payload: Buffer, spec: TensorSpec) -> Array:
        """The values of packed symbols."""
        flat = TensorSpec(spec.name, "uint8", (spec.elements,))
        return self.values(self._packed.decode(payload, flat), spec)

    def values(self, symbols: NDArray[np.uint8], spec: TensorSpec) -> Array:
        """One table look-up per element."""
        table = _table(self, spec.dtype)
        if table.ndim == 1:
            return table[symbols].reshape(spec.shape)
        at = np.minimum(symbols, self.highest).reshape(self._rows(spec.shape))
        first = np.arange(len(table), dtype=np.intp) * table.shape[1]
        found: Array = table.reshape(-1)[at + self._across(first, spec.shape)]
        return found.reshape(spec.shape)


@lru_cache(maxsize=16)
def _ends(stage: Quantize) -> tuple[Floats, Floats, bool]:
    """Lower end and step of each range, and whether one lies far out for its width."""
    low, high = np.array(_tuple(stage.low)), np.array(_tuple(stage.high))
    far = bool((np.maximum(abs(low), abs(high)) > 1e4 * (high - low)).any())
    step = (high - low) / stage.highest
    if stage.symmetric is True:
        low = -(step * (stage.highest // 2))  # so that the middle symbol is 0 to the bit
    return low, step, far


@lru_cache(maxsize=16)
def _table(stage: Quantize, dtype: str) -> Array:
    """The value of each symbol, a row for each range; of a single range, of each byte.

    A full byte per symbol could name a symbol that does not exist: the last value repeated makes
    every byte decode to something within the range.
    """
    low, step = stage._ends
    symbols = np.minimum(np.arange(256 if low.size == 1 else stage.alphabet), stage.highest)
    table = (low[:, None] + symbols * step[:, None]).astype(dtype)
    return table[0] if low.size == 1 else table


def _tuple(ends: Ends) -> tuple[float, ...]:
    return ends if isinstance(ends, tuple) else (ends,)
