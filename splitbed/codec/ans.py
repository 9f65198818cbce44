"""Entropy coding of symbols by tables that the calibration filled."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from splitbed.codec.entropy import (
    ChannelCoder,
    ChannelModel,
    ContextCoder,
    ContextModel,
    fit_channels,
    fit_contexts,
)
from splitbed.codec.entropy.model import MOST_LANES
from splitbed.codec.layout import from_planes, planes, planes_shape
from splitbed.codec.learning import compressed, decompressed, symbols_seen
from splitbed.codec.stage import Binding, SymbolCoder, SymbolSource, SymbolStage
from splitbed.errors import CodecUnknown, UsageError
from splitbed.session import Buffer
from splitbed.tensor import TensorSpec

_BYTES_A_LANE: Final = 160
"""A lane costs two bytes, so this keeps lanes to 1.25 %."""
_TRIED: Final = 4
"""Calibration frames that are coded to choose the number of lanes."""

Choice = Literal["context", "channel"]


class Ans(SymbolStage, frozen=True):
    """Entropy coding (asymmetric numeral systems) of the symbols of `uniform`, `shaped`
    or `quantize`. Lossless.

    `ans:context`, the default: each symbol is predicted from its neighbours and from other
    channels (four, or all before it where that saves), and so is the spread around that; tables for
    each spread, filled from the calibration frames.
    `ans:channel`: a table for each channel, at most 64 different ones. Faster, and larger (by how
    much: tests/benchmarks/coding.py).

    Tables are whole numbers and go with the session once (2 to 30 kB, up to 400 kB where all
    channels predict), not with frames, so decoding is bit-identical on every machine. In C where it
    was built, else in numpy: the same bytes.
    """

    id: ClassVar[str] = "ans"
    positional: ClassVar[str | None] = "model"
    calibrated: ClassVar[bool] = True

    data: bytes
    """The model as `splitbed.codec.entropy` packs it, as one zstd frame."""
    lanes: Annotated[int, Meta(ge=1, le=MOST_LANES)]
    model: Choice = "context"

    def __post_init__(self) -> None:
        if self.lanes & (self.lanes - 1):
            raise UsageError(f"ans takes a power of two of lanes, not {self.lanes}")
        self.unpacked()

    @classmethod
    def check(cls, arguments: Mapping[str, str]) -> None:
        """The model's name; its tables come from the calibration."""
        _choice(arguments)

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Ans:
        """Fill the tables from the symbols of the calibration frames."""
        choice, spec = _choice(arguments), binding.spec
        source, seen = symbols_seen(cls.id, binding)
        model: ChannelModel | ContextModel
        if choice == "context":
            model = fit_contexts(seen, source.alphabet, source.zero)
        else:
            model = fit_channels(seen, source.alphabet)
        data = compressed(model.packed())
        trial = cls(data, 64, choice).opened(spec)
        sizes = [len(trial.encode(from_planes(frame, spec.shape))) for frame in seen[:_TRIED]]
        lanes = max(1, (sum(sizes) // len(sizes) - 2 * 64) // _BYTES_A_LANE)
        return cls(data, min(MOST_LANES, 1 << (lanes.bit_length() - 1)), choice)

    def unpacked(self) -> ChannelModel | ContextModel:
        """The model; UsageError for data that holds none."""
        return _unpacked(self.data, self.model)

    def refuses(self, spec: TensorSpec, source: SymbolSource) -> str | None:
        """The model must be of this tensor's channels and of the source's symbols."""
        model, (channels, _, _) = self.unpacked(), planes_shape(spec.shape)
        if not spec.elements:
            return f"ans codes tensors that hold something, not {spec}"
        if model.channels != channels:
            return f"ans has a model of {model.channels} channels, not of the {channels} of {spec}"
        if model.alphabet != source.alphabet:
            return f"ans has a model of {model.alphabet} symbols, not of {source.alphabet}"
        return None

    def max_bytes(self, spec: TensorSpec) -> int:
        """A word for each symbol, and a byte for those that go as themselves."""
        return 3 * spec.elements + 4 * self.lanes + 8

    def opened(self, spec: TensorSpec) -> SymbolCoder:
        """Tables unpacked, memory taken."""
        return _Coder(self.unpacked(), spec.shape, self.lanes)


@lru_cache(maxsize=8)
def _unpacked(data: bytes, choice: Choice) -> ChannelModel | ContextModel:
    """A session's opening asks for the same model several times."""
    kind = ContextModel if choice == "context" else ChannelModel
    return kind.unpacked(decompressed("ans", data))


class _Coder:
    """Between a tensor's shape and the coder's channels x height x width."""

    def __init__(
        self, model: ChannelModel | ContextModel, shape: tuple[int, ...], lanes: int
    ) -> None:
        _, height, width = self._planes = planes_shape(shape)
        self._shape = shape
        self._coder: ChannelCoder | ContextCoder
        if isinstance(model, ContextModel):
            self._coder = ContextCoder(model, height, width, lanes)
        else:
            self._coder = ChannelCoder(model, height * width, lanes)

    def encode(self, symbols: NDArray[np.uint8]) -> Buffer:
        return self._coder.encode(planes(symbols))

    def decode(self, payload: Buffer) -> NDArray[np.uint8]:
        return from_planes(self._coder.decode(payload).reshape(self._planes), self._shape)


def _choice(arguments: Mapping[str, str]) -> Choice:
    try:
        given = set(arguments) - {"model"}
        if given:
            raise CodecUnknown(f"codec stage 'ans' has no '{given.pop()}', only model")
        found: Choice = msgspec.convert(arguments.get("model", "context"), Choice)
    except msgspec.ValidationError as error:
        raise CodecUnknown(
            f"codec stage 'ans' has the models context and channel, not '{arguments['model']}'"
        ) from error
    return found
