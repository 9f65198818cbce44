"""Writing a model file: the graph from memory, the weights straight from where they lie."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Final, TypeVar

import onnx
from onnx import TensorProto

from splitbed.errors import ModelError
from splitbed.graph.detach import GRAPH, INITIALIZER, NODE, with_length
from splitbed.graph.source import SourceModel
from splitbed.graph.weights import (
    Blob,
    is_detached,
    is_heavy,
    light,
    node_tensors,
    stored_bytes,
    tensor_bytes,
    tensor_frame,
    write_all,
)

T = TypeVar("T")

MOST_BYTES: Final = (1 << 31) - 1
"""Protocol buffers, and so ONNX Runtime, read no larger message; beyond it weights go beside."""

_BUFFER_BYTES: Final = 1 << 18

_ALIGNMENT: Final = 4096
"""Of weights in a file of their own: whole pages can be mapped instead of read."""


DATA_NAME_CHARACTERS: Final = 10
"""Of the name of a file of weights: of the same length for all parts, as sizes depend on it."""


class OnnxFile:
    """A model that is about to be written. Nothing of its weights is in memory.

    `proto` gives opsets, functions and IR version; the graph is made of the other arguments.
    """

    def __init__(
        self,
        source: SourceModel,
        proto: onnx.ModelProto,
        nodes: Sequence[onnx.NodeProto],
        initialisers: Sequence[TensorProto],
        inputs: Iterable[onnx.ValueInfoProto],
        outputs: Iterable[onnx.ValueInfoProto],
        *,
        doc: str,
        graph_name: str,
        data_name: str,
    ) -> None:
        assert len(data_name) == DATA_NAME_CHARACTERS, data_name
        self._source, self._data_name = source, data_name
        graph = onnx.GraphProto(name=graph_name)
        graph.node.extend(whole_node(source, node) for node in nodes)
        graph.input.extend(inputs)
        graph.output.extend(outputs)
        self._heavy = [tensor for tensor in initialisers if is_heavy(tensor)]
        graph.initializer.extend(t for t in initialisers if not is_heavy(t))
        self._frame, self._graph = frame_of(proto, doc), graph

    @cached_property
    def nbytes(self) -> int:
        """Size of the file; with weights beside it, of both."""
        if self.is_large:
            model, data = self._with_data_beside()
            return model.ByteSize() + data
        return self._message_bytes

    @cached_property
    def is_large(self) -> bool:
        """Whether the weights have to lie in a file of their own."""
        return self._message_bytes > MOST_BYTES

    @cached_property
    def sha256(self) -> str:
        """Of the file, and of its data file after it where there is one."""
        digest = hashlib.sha256()
        if self.is_large:
            digest.update(self._with_data_beside()[0].SerializeToString(deterministic=True))
            layout = self._data()
        else:
            layout = self._layout()
        for piece in _read(layout):
            digest.update(piece)
        return digest.hexdigest()

    @property
    def content(self) -> bytes:
        """The whole file; ModelError where it is too large for one message, or hollow."""
        with contextlib.ExitStack() as open_files:
            maps: dict[Path, memoryview] = {}
            # Joining what is mapped copies the weights once; reading them first would be twice.
            return b"".join(
                piece if isinstance(piece, bytes) else piece.mapped(maps, open_files)
                for piece in self._layout()
            )

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """The file from byte `start` to the last; ModelError as for `content`."""
        return _read(_from(self._layout(), start))

    def opened(self, opener: Callable[[bytes | Path], T]) -> T:
        """What `opener` makes of the file's content, or of its path where it is large.

        In that case the files are written to a folder that is gone when `opener` returns; what it
        has mapped stays.
        """
        if not self.is_large:
            return opener(self.content)
        with tempfile.TemporaryDirectory(prefix="splitbed-") as folder:
            path = Path(folder) / "part.onnx"
            try:
                self.write(path)
            except OSError as error:
                raise ModelError(
                    f"a part of {self._source.path} takes {self.nbytes / 1e9:.1f} GB for a moment, "
                    f"and {folder} has no room ({error.strerror}): set TMPDIR to another folder"
                ) from error
            return opener(path)

    def _layout(self) -> Iterator[bytes | Blob]:
        if self.is_large:
            raise ModelError(
                f"a part of {self._source.path} is larger than 2 GB: no single file can hold it; "
                "`splitbed model cut` writes its weights beside it"
            )
        self._check_weights()
        yield self._frame.SerializeToString(deterministic=True)
        graph = self._graph.SerializeToString(deterministic=True)
        heavy = [(tensor, *tensor_frame(tensor)) for tensor in self._heavy]
        length = len(graph) + sum(len(frame) + nbytes for _, frame, nbytes in heavy)
        yield with_length(GRAPH, length) + graph
        for tensor, frame, _ in heavy:
            yield frame
            yield self._source.blob(tensor)

    def write(self, path: Path) -> tuple[Path, ...]:
        """Write the file, and a data file beside it where it is large; what was written.

        Files that are there are replaced only when all is written. Raises OSError, and ModelError
        where one of them would be the model that is read.
        """
        data = path.with_name(self._data_name)
        self._source.check_apart(path, data)
        if not self.is_large:
            with Replacing(path) as file:
                self._copy(self._layout(), file)
            return (path,)
        self._check_weights()
        with Replacing(path) as file, Replacing(data) as beside:
            self._copy(self._data(), beside)
            write_all(file, self._with_data_beside()[0].SerializeToString(deterministic=True))
        return (path, data)

    def _copy(self, layout: Iterable[bytes | Blob], file: FileIO) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        for piece in layout:
            if isinstance(piece, bytes):
                write_all(file, piece)
            else:
                piece.copy_to(file, buffer)

    @cached_property
    def _message_bytes(self) -> int:
        graph = self._graph.ByteSize()
        for tensor in self._heavy:
            frame, nbytes = tensor_frame(tensor)
            graph += len(frame) + nbytes
        return self._frame.ByteSize() + len(with_length(GRAPH, graph)) + graph

    def _with_data_beside(self) -> tuple[onnx.ModelProto, int]:
        """The model that refers to its weights, and the bytes that lie beside it."""
        model = onnx.ModelProto()
        model.CopyFrom(self._frame)
        model.graph.CopyFrom(self._graph)
        at = 0
        for tensor in self._heavy:
            model.graph.initializer.append(_reference(tensor, self._data_name, at))
            at += aligned_bytes(tensor)
        return model, at

    def _data(self) -> Iterator[bytes | Blob]:
        for tensor in self._heavy:
            yield self._source.blob(tensor)
            yield bytes(aligned_bytes(tensor) - stored_bytes(tensor))

    def _check_weights(self) -> None:
        if self._heavy:
            self._source.check_unchanged()
        for tensor in self._heavy:
            if not is_detached(tensor):
                raise ModelError(
                    f"{self._source.path} has no data for its weight '{tensor.name}': its cuts can "
                    "be listed, but it cannot be run"
                )


def _from(layout: Iterable[bytes | Blob], start: int) -> Iterator[bytes | Blob]:
    """The layout less its first `start` bytes."""
    for piece in layout:
        length = len(piece) if isinstance(piece, bytes) else piece.nbytes
        if start >= length:
            start -= length
            continue
        if start == 0:
            yield piece
        elif isinstance(piece, bytes):
            yield piece[start:]
        else:
            yield Blob(piece.path, piece.offset + start, length - start)
        start = 0


def _read(layout: Iterable[bytes | Blob]) -> Iterator[bytes]:
    for piece in layout:
        if isinstance(piece, bytes):
            yield piece
        else:
            yield from piece.chunks()


class Replacing:
    """A file that takes the place of `path` when everything was written."""

    def __init__(self, path: Path) -> None:
        self._path, self._scratch = path, path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> FileIO:
        self._file = self._scratch.open("wb", buffering=0)
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._scratch.replace(self._path)
        else:
            self._scratch.unlink(missing_ok=True)


def frame_of(proto: onnx.ModelProto, doc: str) -> onnx.ModelProto:
    """Everything of a file but its graph."""
    frame = onnx.ModelProto(ir_version=proto.ir_version, producer_name="splitbed", doc_string=doc)
    frame.opset_import.extend(proto.opset_import)
    frame.functions.extend(proto.functions)
    return frame


def _reference(tensor: TensorProto, location: str, offset: int) -> TensorProto:
    """A heavy tensor whose data lie in a file beside. Every reference to it takes as many bytes."""
    reference = light(tensor)
    reference.data_location = TensorProto.EXTERNAL
    nbytes = stored_bytes(tensor)
    for key, value in (("location", location), ("offset", f"{offset:015}"), ("length", nbytes)):
        reference.external_data.add(key=key, value=str(value))
    return reference


def beside_bytes(tensor: TensorProto) -> tuple[int, int]:
    """What an initialiser takes in the graph and beside it, where the weights lie beside."""
    if not is_heavy(tensor):
        return tensor_bytes(tensor), 0
    size = _reference(tensor, "x" * DATA_NAME_CHARACTERS, 0).ByteSize()
    return len(with_length(INITIALIZER, size)) + size, aligned_bytes(tensor)


def aligned_bytes(tensor: TensorProto) -> int:
    """What a heavy tensor takes in a file of weights, its padding included."""
    return -(-stored_bytes(tensor) // _ALIGNMENT) * _ALIGNMENT


def node_bytes(source: SourceModel, node: onnx.NodeProto) -> int:
    """What a node takes in the file, its tag and the weights inside it included."""
    size = whole_node(source, node).ByteSize()
    return len(with_length(NODE, size)) + size


def whole_node(source: SourceModel, node: onnx.NodeProto) -> onnx.NodeProto:
    """The node with the large tensors of its attributes and subgraphs read in."""
    if not any(is_detached(tensor) for tensor in node_tensors(node)):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for tensor in node_tensors(copy):
        if is_detached(tensor):
            tensor.raw_data = source.blob(tensor).read()
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return copy
