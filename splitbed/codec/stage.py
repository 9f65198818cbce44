"""The face of a codec stage.

A stage is a frozen structure whose fields are its whole JSON configuration, calibration included:
two nodes with equal configurations decode alike. Array stages come first and turn a tensor into
bytes; byte stages follow and turn bytes into fewer bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

import msgspec

from splitbed.codec.calibration import TensorStatistics
from splitbed.errors import CodecUnknown, UsageError
from splitbed.quantiser import Quantiser
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec

S = TypeVar("S", bound="Stage")


class Binding(msgspec.Struct, frozen=True):
    """What a stage may look at when its configuration is completed, before a session opens."""

    spec: TensorSpec
    statistics: TensorStatistics | None
    last: bool
    """Whether no byte stage follows, so that the stage's own bytes go onto the wire."""


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
        _converted(cls, arguments)

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Stage:
        """Complete the configuration from the written arguments and the tensor at hand."""
        del binding
        return _converted(cls, arguments)


def _converted(kind: type[S], arguments: Mapping[str, str]) -> S:
    try:
        return msgspec.convert(dict(arguments), kind, strict=False)
    except (msgspec.ValidationError, UsageError) as error:
        raise CodecUnknown(f"codec stage '{kind.id}': {error}") from error


class ArrayStage(Stage, frozen=True):
    """Tensor to bytes. The docstring of each says what is lost and which bound holds."""

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

    def encode(self, array: Array) -> Buffer:
        """The tensor as bytes; may be a view of the tensor's own memory."""
        raise NotImplementedError

    def decode(self, payload: Buffer, spec: TensorSpec) -> Array:
        """The tensor again, of exactly `spec`'s type and shape; PayloadInvalid for other bytes."""
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
