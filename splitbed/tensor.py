"""What is cut and what crosses: tensor specifications, model identity, cuts and partitions."""

from __future__ import annotations

import hashlib
import math
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from splitbed.errors import UsageError
from splitbed.pair import PairId
from splitbed.quantiser import Quantiser

Array = NDArray[np.generic]

DType = Literal[
    "float32",
    "float16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
]
"""Element types that can cross a cut, by their numpy name. All little-endian on the wire."""

FLOAT_DTYPES: Final = ("float16", "float32", "float64")

Part = Literal["first", "second", "whole"]
"""Which part of a cut model: upstream of the cut, downstream of it, or all of it."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, element type and fixed shape of one tensor."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(size < 0 for size in self.shape):
            raise UsageError(f"tensor '{self.name}' has a negative dimension in {self.shape}")

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The little-endian numpy type of the elements."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def nbytes(self) -> int:
        """Size of the uncoded tensor in bytes."""
        return self.elements * self.numpy_dtype.itemsize

    @property
    def is_float(self) -> bool:
        """Whether lossy stages may be applied to it."""
        return self.dtype in FLOAT_DTYPES

    def matches(self, array: Array) -> bool:
        """Whether `array` has this element type and shape (names are not compared)."""
        return array.shape == self.shape and array.dtype == np.dtype(self.dtype)

    @property
    def symbols(self) -> TensorSpec:
        """What stands for the tensor where a graph quantises it: a byte for each element, flat."""
        return TensorSpec(f"{self.name}@symbols", "uint8", (self.elements,))

    @property
    def symbol_sum(self) -> TensorSpec:
        """What a graph makes beside the symbols: not a number where an element is none."""
        return TensorSpec(f"{self.name}@sum", "float32", ())

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{'x'.join(map(str, self.shape))}]"


class ModelId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Identity of a model as splitbed cuts it.

    Two nodes speak of the same model when the file is the same (external data included), was
    canonicalised by the same rules, and has the same input shapes bound.
    """

    source_sha256: str
    canonicaliser: int
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def digest(self) -> str:
        """SHA-256 of this identity's canonical JSON, in hexadecimal."""
        return hashlib.sha256(canonical_json(self)).hexdigest()


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A legal place to cut: its name, and *every* tensor that crosses it, in a fixed order."""

    name: str
    boundary: tuple[TensorSpec, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the uncoded boundary."""
        return sum(tensor.nbytes for tensor in self.boundary)


class Partition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of one model at one cut, as an ONNX file with a digest.

    `inputs` and `outputs` are the part's own tensors, in the file's order. A tensor that crosses
    the cut without being touched (a graph input used only downstream, a result that is complete
    upstream) is in the boundary but in neither list: whoever runs the part hands it through.

    `quantisers` are those that the part holds: its end (of a first part) or its beginning (of a
    second one) has the symbols of their tensors instead, and every such tensor goes through it.

    With a `pair`, a first part ends in its encoder and a second one begins with its decoder: its
    code crosses instead of what it codes. `cut` is still the model's own.
    """

    model: ModelId
    cut: Cut
    part: Part
    sha256: str
    file_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    quantisers: tuple[Quantiser, ...] = ()
    pair: PairId | None = None


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no white space: equal values give equal bytes."""
    return msgspec.json.encode(value, order="sorted")
