"""A shorter floating-point type."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from splitbed.codec.raw import array_of, raw_bytes
from splitbed.codec.stage import ArrayStage
from splitbed.errors import CodecError
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec


class Cast(ArrayStage, frozen=True):
    """float16 (IEEE 754 binary16), decoded to the tensor's own type.

    Loss: relative error at most 2**-11 for 2**-14 <= |x| <= 65504, absolute error at most 2**-25
    below. NaN and infinities are kept; a finite value that would become infinite (65520 or more)
    is refused.
    """

    id: ClassVar[str] = "cast"
    positional: ClassVar[str | None] = "to"

    to: Literal["float16"] = "float16"

    def refuses(self, spec: TensorSpec) -> str | None:
        """Only floating-point tensors can be cast."""
        return None if spec.is_float else f"cast codes floating-point tensors, not {spec.dtype}"

    def max_bytes(self, spec: TensorSpec) -> int:
        """Two bytes an element."""
        return spec.elements * 2

    def encode(self, array: Array) -> Buffer:
        """Round to nearest, ties to even."""
        try:
            with np.errstate(over="raise"):
                return raw_bytes(array.astype(np.float16))
        except FloatingPointError as error:
            largest = float(np.nanmax(np.abs(np.where(np.isfinite(array), array, 0))))
            raise CodecError(
                f"a value of magnitude {largest:.6g} does not fit float16 (largest 65504): use "
                "raw or quantize for this tensor"
            ) from error

    def decode(self, payload: Buffer, spec: TensorSpec) -> Array:
        """Widened exactly."""
        return array_of(payload, np.dtype("<f2"), spec).astype(spec.dtype)
