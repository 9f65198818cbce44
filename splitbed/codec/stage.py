"""The face of a codec stage.

A stage is a frozen structure whose fields are its whole JSON configuration, calibration included:
two nodes with equal configurations decode alike. An array stage comes first and turns a tensor into
bytes. Where it makes symbols on the way, a symbol stage may code those instead. Byte stages follow
and turn bytes into fewer bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from splitbed.codec.sensitivity import TensorSensitivity
from splitbed.codec.statistics import TensorStatistics
from splitbed.errors import CodecUnknown, UsageError
from splitbed.quantiser import Quantiser
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec

S = TypeVar("S", bound="Stage")
F = TypeVar("F", bound=msgspec.Struct)


class Binding(msgspec.Struct, frozen=True):
    """What a stage may look at when its configuration is completed, before a session opens."""

    spec: TensorSpec
    statistics: TensorStatistics | None
    last: bool
    """Whether no byte stage follows, so that the stage's own bytes go onto the wire."""
    unit_bytes: int = 1
    """For a byte stage: bytes that belong together in what the array stage makes."""
    samples: Sequence[Array] = ()
    """Tensors of calibration frames, where there are any."""
    sensitivity: TensorSensitivity | None = None
    """How the tail answers to disturbances of the tensor, where that was measured."""
    source: SymbolSource | None = None
    """For a symbol stage: what makes the symbols, complete."""
    limits: tuple[float, float] | None = None
    """Outside which no element lies, where that is known without having seen any."""


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What both kinds share."""

    id: ClassVar[str]
    positional: ClassVar[str | None] = None
    """The parameter that `id:VALUE` sets."""
    calibrated: ClassVar[bool] = False
    """Whether it needs the tensor's statistics."""
    lossless: ClassVar[bool] = False

    @classmethod
    def check(cls, arguments: Mapping[str, str]) -> None:
        """Raise CodecUnknown for written arguments that no tensor could make right."""
        converted(cls, arguments)

    @classmethod
    def wants_sensitivity(cls, arguments: Mapping[str, str]) -> bool:
        """Whether `bind` needs to know how the tail answers to disturbances."""
        del arguments
        return False

    def as_sent(self) -> Stage:
        """What a decoder needs of it: without what only the encoder does."""
        return self

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Stage:
        """Complete the configuration from the written arguments and the tensor at hand."""
        del binding
        return converted(cls, arguments)

    @classmethod
    def wants_frames(cls, arguments: Mapping[str, str]) -> bool:
        """Whether `bind` looks at tensors of calibration frames."""
        del arguments
        return False

    @classmethod
    def takes_limits(cls, arguments: Mapping[str, str]) -> bool:
        """Whether a range that is known (`Binding.limits`) does instead of a calibration."""
        del arguments
        return False

    @classmethod
    def written(cls, config: Mapping[str, Any]) -> str:
        """A complete configuration in its short written form, without calibration."""
        value = config.get(cls.positional) if cls.positional else None
        return cls.id if value is None else f"{cls.id}:{value}"


def converted(kind: type[S], arguments: Mapping[str, str]) -> S:
    """A stage from what is written of it; CodecUnknown for what it does not take."""
    return as_written(kind.id, kind, arguments)


def as_written(stage: str, form: type[F], arguments: Mapping[str, str]) -> F:
    """What is written of a stage in a form of its own; CodecUnknown for what it does not take."""
    try:
        return msgspec.convert(dict(arguments), form, strict=False)
    except (msgspec.ValidationError, UsageError) as error:
        raise CodecUnknown(f"codec stage '{stage}': {error}") from error


class ArrayStage(Stage, frozen=True):
    """Tensor to bytes. The docstring of each says what is lost and which bound holds."""

    floats_only: ClassVar[bool] = False
    """Whether it codes floating-point numbers alone: others go `raw` beside them."""

    def refuses(self, spec: TensorSpec) -> str | None:
        """Why a tensor of this type and shape cannot be coded, None if it can."""
        del spec
        return None

    def in_graph(self, spec: TensorSpec) -> tuple[Quantiser, ArrayStage] | None:
        """What the graph does of this stage, and the stage for its symbols; None: nothing."""
        del spec
        return None

    def max_bytes(self, spec: TensorSpec) -> int:
        """No encoding of such a tensor is longer."""
        raise NotImplementedError

    def unit_bytes(self, spec: TensorSpec) -> int:
        """Bytes that belong together in the encoding: an element's, where they have a length."""
        del spec
        return 1

    def bound(self, array: Array) -> Any:
        """Largest error of decoding each element, in the tensor's own units, as float64; infinite
        where nothing is promised, and None where nothing is for any.
        """
        del array
        return 0.0 if self.lossless else None

    def encode(self, array: Array) -> Buffer:
        """The tensor as bytes; may be a view of the tensor's own memory."""
        raise NotImplementedError

    def decode(self, payload: Buffer, spec: TensorSpec) -> Array:
        """The tensor again, of exactly `spec`'s type and shape; PayloadInvalid for other bytes."""
        raise NotImplementedError


class SymbolSource(ArrayStage, frozen=True):
    """An array stage that makes a uint8 symbol of each element, and packs those by itself."""

    @property
    def alphabet(self) -> int:
        """Symbols are 0 to alphabet - 1."""
        raise NotImplementedError

    @property
    def zero(self) -> int:
        """The symbol nearest to the value 0."""
        raise NotImplementedError

    def symbols(self, array: Array) -> NDArray[np.uint8]:
        """The symbol of each element, of the array's shape; CodecError for NaN."""
        raise NotImplementedError

    def values(self, symbols: NDArray[np.uint8], spec: TensorSpec) -> Array:
        """The tensor that any symbols below 256 stand for."""
        raise NotImplementedError


class SymbolCoder(Protocol):
    """A symbol stage made ready for tensors of one shape."""

    def encode(self, symbols: NDArray[np.uint8]) -> Buffer:
        """Symbols of the tensor's shape to bytes."""

    def decode(self, payload: Buffer) -> NDArray[np.uint8]:
        """The symbols again, below the alphabet; PayloadInvalid for other bytes."""


class ProgressiveCoder(SymbolCoder, Protocol):
    """One whose payloads decode from any beginning of them."""

    def cuts(self, payload: Buffer) -> tuple[int, ...]:
        """The lengths, from 0 up to the payload's, of beginnings that hold nothing useless."""


class SymbolStage(Stage, frozen=True):
    """Symbols to bytes, without loss, but for a progressive one that leaves something out."""

    lossless: ClassVar[bool] = True
    progressive: ClassVar[bool] = False
    """Whether it opens a ProgressiveCoder; no byte stage may follow."""

    @property
    def leaves_out(self) -> bool:
        """Whether payloads may hold less than their symbols, so that no bound on errors holds."""
        return not self.lossless and not self.progressive

    @classmethod
    def wants_frames(cls, arguments: Mapping[str, str]) -> bool:
        """Tables are filled from them."""
        del arguments
        return True

    def refuses(self, spec: TensorSpec, source: SymbolSource) -> str | None:
        """Why symbols of this source and shape cannot be coded, None if they can."""
        raise NotImplementedError

    def max_bytes(self, spec: TensorSpec) -> int:
        """No encoding of such a tensor's symbols is longer."""
        raise NotImplementedError

    def opened(self, spec: TensorSpec) -> SymbolCoder:
        """Tables and memory made ready, once for a session."""
        raise NotImplementedError


class ByteStage(Stage, frozen=True):
    """Bytes to bytes, without loss."""

    lossless: ClassVar[bool] = True

    def max_bytes(self, size: int) -> int:
        """No encoding of `size` bytes is longer."""
        raise NotImplementedError

    def encode(self, payload: Buffer) -> Buffer:
        """The coded bytes."""
        raise NotImplementedError

    def decode(self, payload: Buffer, limit: int) -> Buffer:
        """The bytes again; PayloadInvalid, before memory is taken, for more than `limit`."""
        raise NotImplementedError
