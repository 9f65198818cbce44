"""Uniform quantisation to a few bits within a calibrated range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from splitbed.codec.packing import WHOLE_SYMBOLS, pack, unpack
from splitbed.codec.raw import array_of
from splitbed.codec.stage import Binding, SymbolSource
from splitbed.codec.statistics import TensorStatistics
from splitbed.errors import CodecError, CodecUnknown, UsageError
from splitbed.quantiser import LARGEST_STEP, SMALLEST_STEP, Quantiser
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec

NOT_A_NUMBER: Final = "a tensor with NaN cannot be quantised: use raw or cast"


class Quantize(SymbolSource, frozen=True):
    """`bits` per element between `low` and `high`: x -> round((x - low) / step), clipped.

    Loss: at most step / 2 within [low, high], where step = (high - low) / (2**bits - 1), and the
    rounding of the tensor's own type; values outside, infinities included, become the nearer end.
    NaN is refused. With low = 0 (after a ReLU) zero stays exactly zero.

    Decoding looks each symbol up in a table of 2**bits values computed in double precision, so it
    is bit-identical on every machine.

    `packing`: `bits` puts symbols side by side, first symbol in the highest bits, the last byte
    filled with zeros; `bytes` gives each symbol a byte. Left open, it is `bits` where the stage is
    the last or a whole number of symbols fills a byte, else `bytes`, which zstd compresses better
    (on MobileNetV2: 6-bit symbols 8 % smaller as bytes, 4-bit symbols 12 % smaller as bits).

    `where`: `graph` has the head make the symbols and the tail turn them back, as operators of the
    model; the bytes are the same. Not for float64, nor for a range far from zero.
    """

    id: ClassVar[str] = "quantize"
    positional: ClassVar[str | None] = "bits"
    calibrated: ClassVar[bool] = True
    floats_only: ClassVar[bool] = True

    bits: Annotated[int, Meta(ge=2, le=8)]
    low: float
    high: float
    packing: Literal["bits", "bytes"] = "bits"
    where: Literal["numpy", "graph"] | UnsetType = UNSET
    """Left open, it is `numpy`, and nothing of it stands in the configuration."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"quantize needs low < high, not {self.low} and {self.high}")
        if not SMALLEST_STEP <= self.step <= LARGEST_STEP:
            raise UsageError(
                f"quantize cannot divide {self.low} to {self.high} in single precision"
            )

    @classmethod
    def check(cls, arguments: Mapping[str, str]) -> None:
        """Bits, clip rule and names; the range itself may come from the calibration."""
        if "bits" not in arguments:
            raise CodecUnknown("codec stage 'quantize' needs its bits, as in quantize:4")
        if not arguments["bits"].isdecimal() or not 2 <= int(arguments["bits"]) <= 8:
            raise CodecUnknown(f"quantize takes 2 to 8 bits, not '{arguments['bits']}'")
        if ("low" in arguments) != ("high" in arguments):
            raise CodecUnknown("codec stage 'quantize' takes low and high together, or neither")
        _clip_share(arguments.get("clip", "mse"))
        given = {name: text for name, text in arguments.items() if name != "clip"}
        super().check({"low": "0", "high": "1"} | given)

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Quantize:
        """`clip` chooses the range from the statistics: `mse` (default), `minmax`, `p99.9`."""
        cls.check(arguments)
        written = dict(arguments)
        clip = written.pop("clip", "mse")
        bits = int(written["bits"])
        if "low" not in written:
            if binding.statistics is None:
                raise CodecError(
                    f"quantize needs a calibration for tensor '{binding.spec.name}': make one with "
                    "`splitbed calibrate` and give it with --calibration"
                )
            low, high = clip_range(binding.statistics, bits, clip)
            written |= {"low": repr(low), "high": repr(high)}
        packs = binding.last or bits in WHOLE_SYMBOLS
        written.setdefault("packing", "bits" if packs else "bytes")
        stage = super().bind(written, binding)
        assert isinstance(stage, Quantize)
        return stage

    def refuses(self, spec: TensorSpec) -> str | None:
        """Only floating-point tensors have a range to quantise, and their type must hold it."""
        if not spec.is_float:
            return f"quantize codes floating-point tensors, not {spec.dtype}"
        largest = float(np.finfo(np.dtype(spec.dtype)).max)
        if max(abs(self.low), abs(self.high)) > largest:
            return f"quantize from {self.low} to {self.high} does not fit {spec.dtype}"
        if self.where == "graph" and self.quantiser(spec) is None:
            return (
                f"a graph cannot quantise '{spec.name}' ({spec.dtype}, {self.low} to {self.high}) "
                "as numpy does: leave out where=graph"
            )
        return None

    def quantiser(self, spec: TensorSpec) -> Quantiser | None:
        """The same in numbers alone; None where a graph would not come to the same bits."""
        if self._precision(np.dtype(spec.dtype)) is not np.float32:
            return None
        found = Quantiser(spec.name, (self.low,), (self.step,), (1 << self.bits) - 1)
        return found if found.refuses(spec.dtype, spec.shape) is None else None

    def in_graph(self, spec: TensorSpec) -> tuple[Quantiser, Symbols] | None:
        """With `where=graph`: quantising there, packing here."""
        quantiser = self.quantiser(spec) if self.where == "graph" else None
        return None if quantiser is None else (quantiser, self._packed)

    @classmethod
    def written(cls, config: Mapping[str, Any]) -> str:
        """Its bits, and where it is done."""
        return super().written(config) + ",where=graph" * (config.get("where") == "graph")

    def bound(self, array: Array) -> Any:
        """Half a step, and what lies outside; arithmetic is in single precision."""
        wide = array.astype(np.float64)
        outside = np.maximum(0, np.maximum(wide - self.high, self.low - wide))
        rounding = 4 * self.alphabet * 2.0**-24 * self.step
        own = float(np.finfo(array.dtype.name).eps) * max(abs(self.low), abs(self.high))
        return self.step / 2 + rounding + own + outside

    @property
    def _packed(self) -> Symbols:
        return Symbols(self.bits, self.packing)

    def _precision(self, dtype: np.dtype[Any]) -> type[np.floating[Any]]:
        """Single precision, but double where the range lies so far out that it would not do."""
        far = max(abs(self.low), abs(self.high)) > 1e4 * (self.high - self.low)
        return np.float64 if far or dtype == np.float64 else np.float32

    @property
    def step(self) -> float:
        """Distance of two neighbouring decoded values."""
        return (self.high - self.low) / ((1 << self.bits) - 1)

    @property
    def alphabet(self) -> int:
        """Number of symbols."""
        return 1 << self.bits

    @property
    def zero(self) -> int:
        """The symbol nearest to the value 0."""
        return min(max(round(-self.low / self.step), 0), self.alphabet - 1)

    def max_bytes(self, spec: TensorSpec) -> int:
        """All encodings have this length."""
        return self._packed.max_bytes(spec)

    def symbols(self, array: Array) -> NDArray[np.uint8]:
        """Five passes over the tensor."""
        levels = (1 << self.bits) - 1
        with np.errstate(over="ignore", invalid="ignore"):  # far outliers are clipped below
            # `low` first: far from zero, scaling first would lose what tells symbols apart.
            scaled = np.subtract(array.reshape(-1), self.low, dtype=self._precision(array.dtype))
            scaled *= 1 / self.step
            scaled += 0.5
        # Truncation is rounding here, since nothing is negative after the clip.
        np.clip(scaled, 0, levels + 0.5, out=scaled)
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
        # A full byte per symbol could name a symbol that does not exist: 256 entries, the last
        # value repeated, make every byte decode to something within the range.
        index = np.minimum(np.arange(256), (1 << self.bits) - 1)
        table = (self.low + index * self.step).astype(spec.dtype)
        return table[symbols].reshape(spec.shape)


class Symbols(SymbolSource, frozen=True):
    """Symbols of `bits` bits, packed: what is left of quantising where a graph makes them.

    Lossless. Nobody writes it; `quantize` with `where=graph` leaves it.
    """

    id: ClassVar[str] = "symbols"
    lossless: ClassVar[bool] = True

    bits: int
    packing: Literal["bits", "bytes"]

    @property
    def alphabet(self) -> int:
        """Number of symbols."""
        return 1 << self.bits

    def max_bytes(self, spec: TensorSpec) -> int:
        """All encodings have this length."""
        if self.packing == "bytes":
            return spec.elements
        return (spec.elements * self.bits + 7) // 8

    def symbols(self, array: Array) -> NDArray[np.uint8]:
        """They are symbols already, one uint8 each."""
        return array.astype(np.uint8, copy=False)

    def values(self, symbols: NDArray[np.uint8], spec: TensorSpec) -> NDArray[np.uint8]:
        """The same; a byte that is no symbol becomes the last one."""
        return np.minimum(symbols, self.alphabet - 1, dtype=np.uint8).reshape(spec.shape)

    def encode(self, array: Array) -> Buffer:
        """Symbols, flat, packed."""
        symbols = self.symbols(array)
        return symbols.data if self.packing == "bytes" else pack(symbols, self.bits)

    def decode(self, payload: Buffer, spec: TensorSpec) -> NDArray[np.uint8]:
        """As many symbols as `spec` has elements."""
        size = TensorSpec(spec.name, "uint8", (self.max_bytes(spec),))
        packed = array_of(payload, np.dtype(np.uint8), size).astype(np.uint8, copy=False)
        if self.packing == "bytes":
            return self.values(packed, spec)
        return unpack(packed, self.bits, spec.elements)


def clip_range(statistics: TensorStatistics, bits: int, rule: str) -> tuple[float, float]:
    """Range to quantise within: `minmax`, `pNN.N` (that share of the values), or `mse`.

    `mse` takes the range with the smallest expected squared error of `bits`-bit quantisation over
    the calibration's histogram. A tensor that is never negative keeps low = 0, so that zero stays
    exact.
    """
    low, high = statistics.low, statistics.high
    narrow = max(abs(low), abs(high), 1e-20) * 1e-6
    if not high - low > narrow:
        return low, low + 1e3 * narrow  # as good as constant: any range will do
    floor = 0.0 if low >= 0 else low
    if rule == "minmax":
        return floor, high
    part = _clip_share(rule)
    if part is not None:
        tail = 1 - part if floor == 0.0 else (1 - part) / 2
        lower = 0.0 if floor == 0.0 else statistics.quantile(tail)
        upper = statistics.quantile(1 - tail)
        return (lower, upper) if lower < upper else (floor, high)
    return _least_error(statistics, floor, high, (1 << bits) - 1)


def _clip_share(rule: str) -> float | None:
    """The share of `pNN.N`, None for the rules without one; CodecUnknown for anything else."""
    if rule in ("mse", "minmax"):
        return None
    try:
        part = float(rule.removeprefix("p")) / 100 if rule.startswith("p") else -1.0
    except ValueError:
        part = -1.0
    if not 0.5 <= part <= 1:
        raise CodecUnknown(f"quantize: clip is mse, minmax, or a share as in p99.9, not '{rule}'")
    return part


def _least_error(
    statistics: TensorStatistics, floor: float, high: float, levels: int
) -> tuple[float, float]:
    centres, weights = statistics.centres(), np.asarray(statistics.counts, np.float64)
    shares = np.geomspace(0.02, 1.0, 48)
    best, found = np.inf, (floor, high)
    for low in [0.0] if floor == 0.0 else [float(floor * share) for share in shares]:
        for top in shares * high if high > 0 else [high]:
            if not low < top:
                continue
            step = (top - low) / levels
            near = np.clip(np.rint((centres - low) / step), 0, levels) * step + low
            error = float(np.dot(weights, (near - centres) ** 2))
            if error < best:
                best, found = error, (low, float(top))
    return found
