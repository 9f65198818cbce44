"""What crosses a cut: specifications, identities, partitions, and their JSON."""

from __future__ import annotations

import hashlib
from typing import get_args

import msgspec
import numpy as np
import pytest

from splitbed.errors import UsageError
from splitbed.tensor import (
    FLOAT_DTYPES,
    Cut,
    DType,
    ModelId,
    Partition,
    TensorSpec,
    canonical_json,
)

MODEL = ModelId("ab" * 32, 1, (("x", (1, 3)), ("y", ())))
CUT = Cut("relu", (TensorSpec("relu", "float32", (1, 3)), TensorSpec("y", "int64", ())))


@pytest.mark.parametrize("dtype", get_args(DType))
def test_spec_of_every_type(dtype: DType) -> None:
    spec = TensorSpec("t", dtype, (2, 3, 4))
    array = np.zeros((2, 3, 4), dtype)
    assert spec.elements == 24
    assert spec.nbytes == array.nbytes
    assert spec.numpy_dtype == array.dtype
    assert spec.matches(array)
    assert spec.is_float == np.issubdtype(array.dtype, np.floating)
    assert spec.is_float == (dtype in FLOAT_DTYPES)


def test_elements_are_little_endian() -> None:
    spec = TensorSpec("t", "int32", (1,))
    assert np.array([1], spec.numpy_dtype).tobytes() == b"\x01\x00\x00\x00"


@pytest.mark.parametrize(("shape", "elements"), [((), 1), ((0, 5), 0), ((7,), 7)])
def test_scalars_and_empty_tensors(shape: tuple[int, ...], elements: int) -> None:
    spec = TensorSpec("t", "float32", shape)
    assert spec.elements == elements
    assert spec.nbytes == 4 * elements
    assert spec.matches(np.zeros(shape, np.float32))


def test_matches_compares_type_and_shape() -> None:
    spec = TensorSpec("t", "float32", (2, 3))
    assert not spec.matches(np.zeros((3, 2), np.float32))
    assert not spec.matches(np.zeros((1, 2, 3), np.float32))
    assert not spec.matches(np.zeros((2, 3), np.float64))
    assert not spec.matches(np.zeros((2, 3), ">f4"))


def test_negative_dimension_is_refused() -> None:
    with pytest.raises(UsageError, match=r"tensor 't' has a negative dimension in \(1, -2\)"):
        TensorSpec("t", "float32", (1, -2))
    with pytest.raises(UsageError):
        msgspec.json.decode(b'{"name":"t","dtype":"int8","shape":[-1]}', type=TensorSpec)


@pytest.mark.parametrize(
    "text",
    [
        b'{"name":"t","dtype":"float8","shape":[1]}',
        b'{"name":"t","dtype":"float32","shape":[1.5]}',
        b'{"name":"t","dtype":"float32"}',
        b'{"name":"t","dtype":"float32","shape":[1],"more":1}',
    ],
)
def test_spec_is_strict(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=TensorSpec)


def test_spec_reads_well() -> None:
    assert str(TensorSpec("layer1", "float32", (1, 16, 32))) == "layer1 float32[1x16x32]"


def test_cut_counts_all_that_crosses() -> None:
    assert CUT.nbytes == 3 * 4 + 8
    assert Cut("@input", ()).nbytes == 0


def test_identity_is_the_hash_of_its_canonical_json() -> None:
    text = b'{"canonicaliser":1,"input_shapes":[["x",[1,3]],["y",[]]],"source_sha256":"%s"}' % (
        b"ab" * 32
    )
    assert canonical_json(MODEL) == text
    assert MODEL.digest == hashlib.sha256(text).hexdigest()


def test_identity_differs_in_every_part() -> None:
    ids = [
        MODEL,
        msgspec.structs.replace(MODEL, source_sha256="cd" * 32),
        msgspec.structs.replace(MODEL, canonicaliser=2),
        msgspec.structs.replace(MODEL, input_shapes=(("x", (1, 3)), ("y", (1,)))),
    ]
    assert len({model.digest for model in ids}) == len(ids)


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": {"d": 1, "c": 2}, "a": 3}) == b'{"a":3,"b":{"c":2,"d":1}}'


def test_partition_survives_json() -> None:
    partition = Partition(MODEL, CUT, "first", "ef" * 32, 123, CUT.boundary[:1], CUT.boundary)
    text = msgspec.json.encode(partition)
    assert msgspec.json.decode(text, type=Partition) == partition
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text.replace(b'"first"', b'"third"'), type=Partition)
