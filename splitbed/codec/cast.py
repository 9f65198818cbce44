"""A shorter floating-point type."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from splitbed.codec.raw import array_of, raw_bytes
from splitbed.codec.stage import ArrayStage
from splitbed.errors import CodecError
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec


class Cast(ArrayStage, frozen=True):
    """float16 (IEEE 754 binary16) or bfloat16, decoded to the tensor's own type.

    Loss, `cast:float16`: relative error at most 2**-11 for 2**-14 <= |x| <= 65504, absolute error
    at most 2**-25 below. `cast:bfloat16`, the upper half of a float32: relative error at most 2**-8
    and float32's whole range. NaN and infinities are kept; a finite value that would become
    infinite (65520, or 3.396e38, or more) is refused.
    """

    id: ClassVar[str] = "cast"
    positional: ClassVar[str | None] = "to"
    floats_only: ClassVar[bool] = True

    to: Literal["float16", "bfloat16"] = "float16"

    def refuses(self, spec: TensorSpec) -> str | None:
        """Only floating-point tensors can be cast, and to a type that they are not shorter than."""
        if not spec.is_float:
            return f"cast codes floating-point tensors, not {spec.dtype}"
        if spec.dtype == "float16" and self.to == "bfloat16":
            return "cast:bfloat16 would lose from a float16 tensor and not shorten it: use raw"
        return None

    def max_bytes(self, spec: TensorSpec) -> int:
        """Two bytes an element."""
        return spec.elements * 2

    def unit_bytes(self, spec: TensorSpec) -> int:
        """Two."""
        del spec
        return 2

    def bound(self, array: Array) -> Any:
        """Half of what the last kept bit is worth."""
        magnitude = np.abs(array.astype(np.float64))
        if self.to == "float16":
            return np.maximum(2.0**-11 * magnitude, 2.0**-25)
        # float64 goes through float32.
        return np.maximum((2.0**-8 + 2.0**-23) * magnitude, 2.0**-133)

    def encode(self, array: Array) -> Buffer:
        """Round to nearest, ties to even."""
        try:
            with np.errstate(over="raise"):
                if self.to == "float16":
                    return raw_bytes(array.astype(np.float16))
                return raw_bytes(_upper_half(array))
        except FloatingPointError as error:
            most = 65504.0 if self.to == "float16" else 3.3895e38
            finite = np.abs(np.where(np.isfinite(array), array, 0))
            raise CodecError(
                f"a value of magnitude {float(finite.max()):.6g} does not fit {self.to} (largest "
                f"{most:g}): use raw or quantize for this tensor"
            ) from error

    def decode(self, payload: Buffer, spec: TensorSpec) -> Array:
        """Widened exactly."""
        if self.to == "float16":
            return array_of(payload, np.dtype("<f2"), spec).astype(spec.dtype)
        halves: Any = array_of(payload, np.dtype("<u2"), spec)
        found: Array = (halves.astype(np.uint32) << 16).view(np.float32).astype(spec.dtype)
        return found


def _upper_half(array: Array) -> NDArray[np.uint16]:
    """bfloat16 as the bits that float32 begins with; FloatingPointError for an overflow."""
    single = np.atleast_1d(array.astype(np.float32))
    bits = single.view(np.uint32)
    # Adding just under half of what is cut off, and one more where the last kept bit is odd.
    near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    finite = np.isfinite(single)
    if bool(np.any(finite & ((near & 0x7F80) == 0x7F80))):
        raise FloatingPointError
    # Infinities and NaN as they are; a NaN stays one though its low bits go.
    kept = (bits >> 16) | np.where(np.isnan(single), 0x40, 0).astype(np.uint32)
    return np.where(finite, near, kept).astype(np.uint16).reshape(array.shape)
