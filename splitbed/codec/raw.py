"""The tensor as it is."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from splitbed.codec.stage import ArrayStage
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec


class Raw(ArrayStage, frozen=True):
    """Little-endian elements in row-major order. Lossless, any type.

    Neither direction copies: `encode` gives a view of a contiguous array's own memory, `decode` a
    read-only array over the received bytes.
    """

    id: ClassVar[str] = "raw"
    lossless: ClassVar[bool] = True

    def max_bytes(self, spec: TensorSpec) -> int:
        """Elements times element size."""
        return spec.nbytes

    def unit_bytes(self, spec: TensorSpec) -> int:
        """The element size."""
        return spec.numpy_dtype.itemsize

    def encode(self, array: Array) -> Buffer:
        """A view of the array's bytes."""
        return raw_bytes(array)

    def decode(self, payload: Buffer, spec: TensorSpec) -> Array:
        """A read-only view of the bytes as an array."""
        return array_of(payload, spec.numpy_dtype, spec)


def raw_bytes(array: Array) -> Buffer:
    """The little-endian bytes of an array, without a copy where the array allows it."""
    if array.size == 0:
        return b""
    whole = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return whole.reshape(-1).view(np.uint8).data


def array_of(payload: Buffer, dtype: np.dtype[np.generic], spec: TensorSpec) -> Array:
    """Bytes as an array of `spec`'s shape; copied only where the memory is not aligned."""
    wanted = spec.elements * dtype.itemsize
    if len(payload) != wanted:
        raise PayloadInvalid(
            f"tensor '{spec.name}' takes {wanted} bytes as {dtype.name}, the payload has "
            f"{len(payload)}: the two nodes disagree about the codec, or the frame is damaged"
        )
    if wanted == 0:
        try:
            return np.zeros(spec.shape, dtype)
        except ValueError as error:  # numpy has a limit even for arrays that hold nothing
            raise PayloadInvalid(f"tensor '{spec.name}' has an impossible shape") from error
    flat: Array = np.frombuffer(payload, dtype)
    if dtype == np.bool_ and int(flat.view(np.uint8).max()) > 1:
        raise PayloadInvalid(f"tensor '{spec.name}' is of booleans, and a byte is neither 0 nor 1")
    if not flat.flags.aligned:
        flat = flat.copy()
    return flat.reshape(spec.shape)


def raw_array(payload: Buffer, spec: TensorSpec) -> Array:
    """An uncoded tensor, such as a `full` reply holds."""
    return array_of(payload, spec.numpy_dtype, spec)
