"""Sources whose symbols count steps from a symbol of zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

import msgspec
import numpy as np
from msgspec import Meta

from splitbed.codec.packing import pack, unpack
from splitbed.codec.raw import array_of
from splitbed.codec.stage import SymbolSource
from splitbed.errors import CodecUnknown, UsageError
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec

MOST_LEVELS: Final = 256


class WrittenStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person writes: the step in standard deviations of the tensor."""

    step: Annotated[float, Meta(gt=0, le=100)]

    def __post_init__(self) -> None:
        if not math.isfinite(self.step):
            raise UsageError("the step is a number")


class Levelled(SymbolSource, frozen=True):
    """What `uniform` and `shaped` share: without an entropy coder, symbols lie side by side in the
    bits that the number of levels needs.
    """

    positional: ClassVar[str | None] = "step"
    calibrated: ClassVar[bool] = True
    floats_only: ClassVar[bool] = True

    step: float
    """In the tensor's own units."""
    zero: Annotated[int, Meta(ge=0, le=MOST_LEVELS - 1)]
    """The symbol of 0."""
    levels: Annotated[int, Meta(ge=2, le=MOST_LEVELS)]

    @classmethod
    def check_levels(cls, arguments: Mapping[str, str]) -> None:
        """Raise CodecUnknown where no step is written."""
        if "step" not in arguments:
            raise CodecUnknown(
                f"codec stage '{cls.id}' needs its step in standard deviations, as in {cls.id}:0.5"
            )

    def __post_init__(self) -> None:
        if self.zero >= self.levels:
            raise UsageError(f"{self.id} has {self.levels} levels, and zero is none of them")

    @property
    def alphabet(self) -> int:
        """Number of symbols."""
        return self.levels

    @property
    def _bits(self) -> int:
        return max(2, (self.levels - 1).bit_length())

    def max_bytes(self, spec: TensorSpec) -> int:
        """All encodings without an entropy coder have this length."""
        return (spec.elements * self._bits + 7) // 8

    def encode(self, array: Array) -> Buffer:
        """Symbols side by side."""
        return pack(self.symbols(array).reshape(-1), self._bits)

    def decode(self, payload: Buffer, spec: TensorSpec) -> Array:
        """The values of symbols side by side."""
        packed = TensorSpec(spec.name, "uint8", (self.max_bytes(spec),))
        whole = array_of(payload, np.dtype(np.uint8), packed).astype(np.uint8, copy=False)
        return self.values(unpack(whole, self._bits, spec.elements), spec)
