"""Weights that stay in their files: found, checked and copied without ever being all in memory."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec
import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import ExternalDataInfo

from splitbed.errors import ModelError
from splitbed.graph.detach import GRAPH, INITIALIZER, RAW_DATA, with_length

CHUNK_BYTES: Final = 1 << 20
"""Weights are copied in pieces of this size."""

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
            view.release()  # or the file could not be closed while the error is told
            raise ModelError(f"{self.path} was changed after it had been read: start again")
        return open_files.enter_context(view)


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """Write all of `data` to an unbuffered file, which may take it in pieces."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


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


def tensor_bytes(tensor: TensorProto) -> int:
    """What an initialiser takes in the file, its tag included."""
    if is_heavy(tensor):
        frame, nbytes = tensor_frame(tensor)
        return len(frame) + nbytes
    size = tensor.ByteSize()
    return len(with_length(INITIALIZER, size)) + size


def is_heavy(tensor: TensorProto) -> bool:
    """Whether the data are elsewhere, or nowhere."""
    return is_detached(tensor) or is_hollow(tensor)


def light(tensor: TensorProto) -> TensorProto:
    """The tensor without its data."""
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def tensor_frame(tensor: TensorProto) -> tuple[bytes, int]:
    """What stands before a detached tensor's raw data in the file, and how long they are."""
    nbytes = stored_bytes(tensor)
    frame = light(tensor).SerializeToString(deterministic=True)
    frame += with_length(RAW_DATA, nbytes)
    return with_length(INITIALIZER, len(frame) + nbytes) + frame, nbytes


def whole_bytes(proto: onnx.ModelProto) -> int:
    """Size of a model's file if its hollow tensors had data."""
    before = graph = proto.graph.ByteSize()
    for tensor in filter(is_hollow, proto.graph.initializer):
        size = tensor.ByteSize()
        graph += tensor_bytes(tensor) - len(with_length(INITIALIZER, size)) - size
    frame = proto.ByteSize() - len(with_length(GRAPH, before)) - before
    return frame + len(with_length(GRAPH, graph)) + graph


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
