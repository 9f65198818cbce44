"""Entropy coding in layers: a payload that is cut off decodes coarser."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from splitbed.codec.entropy import LayeredCoder, LayeredModel, fit_layers, layers_for, most_layers
from splitbed.codec.entropy.nesting import MOST_LAYERS
from splitbed.codec.layout import from_planes, planes, planes_shape
from splitbed.codec.learning import compressed, decompressed, symbols_seen
from splitbed.codec.stage import Binding, SymbolCoder, SymbolSource, SymbolStage, as_written
from splitbed.errors import CodecError, UsageError
from splitbed.session import Buffer
from splitbed.tensor import TensorSpec

_LARGEST_BUDGET_BYTES: Final = 1 << 30

Budget = Annotated[int, Meta(ge=1, le=_LARGEST_BUDGET_BYTES)]


class Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person writes of it."""

    layers: Annotated[int, Meta(ge=1, le=MOST_LAYERS)] | UnsetType = UNSET
    budget_bytes: Budget | UnsetType = UNSET


class Layers(SymbolStage, frozen=True):
    """Entropy coding of the symbols of `quantize` or `uniform` from coarse to fine: any beginning
    of a payload decodes, the longer the finer. Lossless where the whole payload arrives.

    A payload is a row of chunks, each one layer of one group of channels, in the order in which
    calibration frames lost most error per byte. The first layer says roughly how large symbols are
    (and nothing of those around zero), each further layer halves that, down to the symbols.
    `layers:3`: so many layers; left open, as many as suit the calibration's symbols.

    `layers:budget_bytes=2000`: no payload is longer. The encoder stops before the first chunk that
    would not fit; a frame of which not even the first chunk fits is an empty payload.

    Cut off, within a chunk or between two: chunks that are whole count, others do not. Elements
    known coarsely become the symbol nearest to the mean that such elements had in calibration (0
    where the symbol of 0 is among them, so zero stays zero); channels of which nothing came, the
    symbol nearest to their mean. Bound: with d layers missing of a channel, at most 2**d - 1
    symbols beside the one that was coded, and the source's own error; without a bound, but within
    the range of the symbols, where nothing of a channel came.

    A damaged payload is refused as with `ans`, but for one whose damage makes a chunk look longer
    than what follows: such a payload cannot be told from one that was cut off.

    No byte stage may follow: it would make one piece of what can be cut. Tables are whole numbers
    and go with the session once (3 to 15 kB), so decoding is bit-identical on every machine.
    """

    id: ClassVar[str] = "layers"
    positional: ClassVar[str | None] = "layers"
    calibrated: ClassVar[bool] = True
    lossless: ClassVar[bool] = False
    progressive: ClassVar[bool] = True

    data: bytes
    """The model as `splitbed.codec.entropy` packs it, as one zstd frame."""
    layers: Annotated[int, Meta(ge=1, le=MOST_LAYERS)]
    budget_bytes: Budget | UnsetType = UNSET

    def __post_init__(self) -> None:
        found = self.unpacked().layers
        if found != self.layers:
            raise UsageError(f"layers has a model of {found} layers, not of {self.layers}")

    @property
    def leaves_out(self) -> bool:
        """Where a budget does."""
        return self.budget_bytes is not UNSET

    @classmethod
    def written(cls, config: Mapping[str, Any]) -> str:
        """Its layers, and its budget."""
        budget = config.get("budget_bytes")
        text = super().written(config)
        return text if budget is None else f"{text},budget_bytes={budget}"

    @classmethod
    def check(cls, arguments: Mapping[str, str]) -> None:
        """Number of layers and budget; tables come from the calibration."""
        as_written(cls.id, Written, arguments)

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Layers:
        """Fill the tables from the symbols of the calibration frames."""
        written, spec = as_written(cls.id, Written, arguments), binding.spec
        source, seen = symbols_seen(cls.id, binding)
        alphabet, zero = source.alphabet, source.zero
        layers = layers_for(seen, alphabet, zero) if written.layers is UNSET else written.layers
        if layers > most_layers(alphabet, zero):
            raise CodecError(
                f"layers:{layers} are more than the {alphabet} symbols of tensor '{spec.name}' "
                f"can be coded in: use at most layers:{most_layers(alphabet, zero)}"
            )
        model = fit_layers(seen, alphabet, zero, layers)
        data = compressed(model.packed())
        stage = cls(data, layers, written.budget_bytes)
        if written.budget_bytes is not UNSET:
            coder = _Coder(model, spec.shape, None)
            first = max(coder.first_bytes(from_planes(frame, spec.shape)) for frame in seen)
            if first > written.budget_bytes:
                raise CodecError(
                    f"layers with a budget of {written.budget_bytes} bytes would send nothing of "
                    f"some frames of tensor '{spec.name}', whose first chunk takes up to {first}: "
                    f"use a budget of {first + first // 4} bytes or more"
                )
        return stage

    def unpacked(self) -> LayeredModel:
        """The model; UsageError for data that holds none."""
        return _unpacked(self.data)

    def refuses(self, spec: TensorSpec, source: SymbolSource) -> str | None:
        """The model must be of this tensor's channels and of the source's symbols."""
        model, (channels, _, _) = self.unpacked(), planes_shape(spec.shape)
        if not spec.elements:
            return f"layers codes tensors that hold something, not {spec}"
        if model.channels != channels:
            return (
                f"layers has a model of {model.channels} channels, not of the {channels} of {spec}"
            )
        if (model.alphabet, model.zero) != (source.alphabet, source.zero):
            return (
                f"layers has a model of {model.alphabet} symbols with zero at {model.zero}, not of "
                f"{source.alphabet} with zero at {source.zero}"
            )
        return None

    def max_bytes(self, spec: TensorSpec) -> int:
        """A word for each symbol of each layer, or the budget."""
        _, height, width = planes_shape(spec.shape)
        whole = self.unpacked().most_bytes(height * width)
        return whole if self.budget_bytes is UNSET else min(whole, self.budget_bytes)

    def opened(self, spec: TensorSpec) -> SymbolCoder:
        """Tables unpacked, memory taken."""
        budget = None if self.budget_bytes is UNSET else self.budget_bytes
        return _Coder(self.unpacked(), spec.shape, budget)


@lru_cache(maxsize=8)
def _unpacked(data: bytes) -> LayeredModel:
    """A session's opening asks for the same model several times."""
    return LayeredModel.unpacked(decompressed("layers", data))


class _Coder:
    """Between a tensor's shape and the coder's channels x height x width."""

    def __init__(
        self, model: LayeredModel, shape: tuple[int, ...], budget_bytes: int | None
    ) -> None:
        _, height, width = planes_shape(shape)
        self._shape, self._budget_bytes = shape, budget_bytes
        self._coder = LayeredCoder(model, height, width)

    def encode(self, symbols: NDArray[np.uint8]) -> Buffer:
        return self._coder.encode(planes(symbols), self._budget_bytes)

    def decode(self, payload: Buffer) -> NDArray[np.uint8]:
        return from_planes(self._coder.decode(payload), self._shape)

    def cuts(self, payload: Buffer) -> tuple[int, ...]:
        return self._coder.cuts(payload)

    def first_bytes(self, symbols: NDArray[np.uint8]) -> int:
        """Length of the first chunk of these symbols."""
        return self._coder.first_bytes(planes(symbols))
