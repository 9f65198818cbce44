"""Weights that stay in their files: found, checked and copied without ever being all in memory.

`detach` rewrites an ONNX file's bytes so that every large tensor becomes *external data in that
same file*: the place where its raw data lie anyway. What comes out is a small, ordinary ONNX model,
and reading it costs the size of the graph, not the size of the weights. It walks the wire format of
protocol buffers (varints, and fields with a length) only as far as it has to.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Final, Literal

import msgspec
import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import ExternalDataInfo

from splitbed.errors import ModelError

DETACHED_BYTES: Final = 32768
"""Data up to this size stay in the graph: shapes may depend on their values (4096 int64 fit)."""

CHUNK_BYTES: Final = 1 << 20
"""Weights are copied in pieces of this size."""

_Kind = Literal["model", "graph", "function", "node", "attribute", "tensor"]

# Numbers of fields that hold other messages, from onnx.proto; everything else is copied as it is.
_INSIDE: Final[Mapping[_Kind, Mapping[int, _Kind]]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
_DATA_TYPE, _FLOAT_DATA, _RAW_DATA, _DOUBLE_DATA = 2, 4, 9, 10
# Packed float_data and double_data are the little-endian values themselves, as raw_data are.
_DATA_FIELDS: Final = {
    _RAW_DATA: None,
    _FLOAT_DATA: TensorProto.FLOAT,
    _DOUBLE_DATA: TensorProto.DOUBLE,
}
_VARINT, _EIGHT_BYTES, _WITH_LENGTH, _FOUR_BYTES = 0, 1, 2, 5

_BITS: Final = {
    getattr(TensorProto, name): bits
    for name, bits in (("UINT4", 4), ("INT4", 4), ("FLOAT4E2M1", 4), ("UINT2", 2), ("INT2", 2))
    if hasattr(TensorProto, name)
}
"""Element types that share bytes."""


class Blob(msgspec.Struct, frozen=True):
    """Where the data of one tensor lie."""

    path: Path
    offset: int
    nbytes: int

    def chunks(self) -> Iterator[bytes]:
        """The data in order; ModelError where the file has become shorter or is gone."""
        left = self.nbytes
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset)
                while left:
                    chunk = file.read(min(left, CHUNK_BYTES))
                    if not chunk:
                        raise ModelError(
                            f"{self.path} was changed after it had been read: start again"
                        )
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise ModelError(f"cannot read weights from {self.path}: {error.strerror}") from error

    def copy_to(self, file: FileIO, buffer: memoryview) -> None:
        """Write the data to `file`, through `buffer`; errors of writing are raised as they are.

        One small buffer for all weights stays in the processor's cache: a new one for each piece
        takes one and a half times as long, Python's buffered files three times.
        """
        left = self.nbytes
        try:
            source = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ModelError(f"cannot read weights from {self.path}: {error.strerror}") from error
        try:
            while left:
                at = self.offset + self.nbytes - left
                count = os.preadv(source, [buffer[: min(left, len(buffer))]], at)
                if not count:
                    raise ModelError(f"{self.path} was changed after it had been read: start again")
                write_all(file, buffer[:count])
                left -= count
        finally:
            os.close(source)

    def read(self) -> bytes:
        """All of it."""
        return b"".join(self.chunks())

    def mapped(self, maps: dict[Path, memoryview], open_files: ExitStack) -> memoryview:
        """The same as a view of the file, which is mapped once and closed with `open_files`."""
        if self.path not in maps:
            try:
                file = open_files.enter_context(self.path.open("rb"))
                pages = open_files.enter_context(
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                )
            except (OSError, ValueError) as error:
                raise ModelError(f"cannot read weights from {self.path}: {error}") from error
            maps[self.path] = open_files.enter_context(memoryview(pages))
        view = maps[self.path][self.offset : self.offset + self.nbytes]
        if len(view) != self.nbytes:
            raise ModelError(f"{self.path} was changed after it had been read: start again")
        return open_files.enter_context(view)


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """Write all of `data` to an unbuffered file, which may take it in pieces."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def detach(content: memoryview, location: str) -> bytes:
    """The ONNX model `content` with its large data replaced by references to file `location`.

    Raises ValueError where the bytes are no message of the format.
    """
    return b"".join(_rewritten(content, 0, len(content), "model", location))


def stored_bytes(tensor: TensorProto) -> int:
    """Bytes that the elements of `tensor` take as raw data; ModelError for types without a size."""
    elements = math.prod(tensor.dims)
    if tensor.data_type in _BITS:
        return math.ceil(elements * _BITS[tensor.data_type] / 8)
    try:
        size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError) as error:
        raise ModelError(f"the data of '{tensor.name}' have an unknown type") from error
    if tensor.data_type == TensorProto.STRING or any(size < 0 for size in tensor.dims):
        raise ModelError(f"the data of '{tensor.name}' cannot lie outside the graph")
    return elements * size


def is_detached(tensor: TensorProto) -> bool:
    """Whether the data lie in a file."""
    return tensor.data_location == TensorProto.EXTERNAL


def is_hollow(tensor: TensorProto) -> bool:
    """Whether a large tensor has a shape and no data: enough to list cuts, not to run them."""
    return (
        not is_detached(tensor)
        and not tensor.raw_data
        and math.prod(tensor.dims) > 0
        and not any(
            len(getattr(tensor, field))
            for field in (
                "float_data",
                "double_data",
                "int32_data",
                "int64_data",
                "uint64_data",
                "string_data",
            )
        )
    )


def placed(tensor: TensorProto, folder: Path) -> Blob:
    """Where a detached tensor's data are, checked against its shape and the file's size."""
    info = ExternalDataInfo(tensor)  # which leaves out what the tensor does not say
    offset, nbytes = getattr(info, "offset", None) or 0, stored_bytes(tensor)
    length: int | None = getattr(info, "length", None)
    path = folder / info.location
    if length not in (None, nbytes):
        raise ModelError(
            f"the data of '{tensor.name}' are broken: {length} bytes are stored in {path}, "
            f"its shape needs {nbytes}"
        )
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(
            f"the data of '{tensor.name}' in {path} cannot be read: {error.strerror}"
        ) from error
    if offset < 0 or offset + nbytes > size:
        raise ModelError(
            f"the data of '{tensor.name}' are broken: they end at byte {offset + nbytes} of "
            f"{path}, which has {size}"
        )
    return Blob(path, offset, nbytes)


def tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[TensorProto]:
    """Every tensor that a graph holds: initialisers, attributes, and those of its subgraphs."""
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def node_tensors(node: onnx.NodeProto) -> list[TensorProto]:
    """Every tensor in a node's attributes and subgraphs."""
    return list(_node_tensors(node))


def _node_tensors(node: onnx.NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from tensors(attribute.g)
        for graph in attribute.graphs:
            yield from tensors(graph)


def varint(value: int) -> bytes:
    """A number as protocol buffers write it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def with_length(field: int, length: int) -> bytes:
    """The tag and length that stand before a field's bytes."""
    return varint(field << 3 | _WITH_LENGTH) + varint(length)


class _Field(msgspec.Struct, frozen=True):
    number: int
    wire: int
    start: int
    """Of the tag."""
    body: int
    end: int
    value: int
    """Of a varint."""


def _fields(view: memoryview, start: int, end: int) -> Iterator[_Field]:
    at = start
    while at < end:
        begin = at
        tag, at = _read_varint(view, at, end)
        number, wire, value, body = tag >> 3, tag & 7, 0, at
        if wire == _VARINT:
            value, at = _read_varint(view, at, end)
        elif wire == _EIGHT_BYTES:
            at += 8
        elif wire == _FOUR_BYTES:
            at += 4
        elif wire == _WITH_LENGTH:
            length, body = _read_varint(view, at, end)
            at = body + length
        else:
            raise ValueError(f"byte {begin} begins no field")
        if at > end or not number:
            raise ValueError(f"the field at byte {begin} does not end where its message does")
        yield _Field(number, wire, begin, body, at, value)


def _read_varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            break
    raise ValueError(f"byte {at} ends no number")


def _rewritten(
    view: memoryview, start: int, end: int, kind: _Kind, location: str
) -> list[memoryview | bytes]:
    if kind == "tensor":
        return _tensor(view, start, end, location)
    pieces: list[memoryview | bytes] = []
    copied = start
    for field in _fields(view, start, end):
        inner = _INSIDE[kind].get(field.number)
        if inner is None or field.wire != _WITH_LENGTH or field.end - field.body <= DETACHED_BYTES:
            continue
        inside = _rewritten(view, field.body, field.end, inner, location)
        length = sum(map(len, inside))
        pieces += [view[copied : field.start], with_length(field.number, length), *inside]
        copied = field.end
    pieces.append(view[copied:end])
    return pieces


def _tensor(view: memoryview, start: int, end: int, location: str) -> list[memoryview | bytes]:
    fields = list(_fields(view, start, end))
    types = [field.value for field in fields if field.number == _DATA_TYPE]
    data = [
        field
        for field in fields
        if field.number in _DATA_FIELDS
        and field.wire == _WITH_LENGTH
        and field.end - field.body > DETACHED_BYTES
        and _DATA_FIELDS[field.number] in (None, types[-1] if types else 0)
    ]
    if len(data) != 1:
        return [view[start:end]]
    field = data[0]
    entries = {
        "location": location,
        "offset": str(field.body),
        "length": str(field.end - field.body),
    }
    reference = TensorProto(data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        reference.external_data.add(key=key, value=value)
    # Messages are joined by writing one after the other.
    return [view[start : field.start], view[field.end : end], reference.SerializeToString()]
