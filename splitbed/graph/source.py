"""A model file as it was given: its graph, its digests, and where its weights lie."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo

from splitbed.errors import ModelError, ModelUnknown
from splitbed.graph.detach import DETACHED_BYTES, detach
from splitbed.graph.reading import subgraphs
from splitbed.graph.weights import (
    Blob,
    is_detached,
    placed,
    stored_bytes,
    tensors,
    whole_bytes,
)

HASHED_AT_ONCE_BYTES: Final = 64 << 20
"""Digests of larger files are made when somebody asks for them."""


_Stamp = tuple[int, int, int, int]


class SourceModel:
    """An ONNX file. Its large weights stay in their files, whatever their size.

    `path` is the main file and `data_files` its external data. `proto` is the graph; its tensors of
    more than DETACHED_BYTES are external data of these files.
    """

    def __init__(
        self,
        path: Path,
        proto: onnx.ModelProto,
        data_names: Sequence[str] = (),
        content: bytes | None = None,
        stamps: Mapping[Path, _Stamp] | None = None,
    ) -> None:
        self.path, self.proto = path, proto
        self.data_files = tuple(path.parent / name for name in data_names)
        self._names, self._content = tuple(data_names), content
        self._stamps = dict(stamps or {})
        self.file_bytes = sum(stamp[-1] for stamp in self._stamps.values())
        """Main file and external data; of a hollow model, what its file would have."""
        if content is not None:
            self.file_bytes = whole_bytes(proto)

    @cached_property
    def sha256(self) -> str:
        """Of the file; with external data, of the digests of all its files in order of names."""
        main = self._digest(self.path, "sha256")
        if not self.data_files:
            return main.hex()
        digests = [main]
        for name, path in zip(self._names, self.data_files, strict=True):
            digests.append(name.encode() + b"\0" + self._digest(path, "sha256"))
        return hashlib.sha256(b"".join(digests)).hexdigest()

    @cached_property
    def md5(self) -> str:
        """Of the main file alone, as test material is listed (S4-240785, clause 2)."""
        return self._digest(self.path, "md5").hex()

    @property
    def given(self) -> Path | bytes:
        """What a runtime opens to run the model as it was given."""
        return self.path if self._content is None else self._content

    def with_graph(self, proto: onnx.ModelProto) -> SourceModel:
        """The same files with another graph over their weights; digests are the files'."""
        return SourceModel(self.path, proto, self._names, self._content, self._stamps)

    def blob(self, tensor: onnx.TensorProto) -> Blob:
        """Where the data of a detached tensor are."""
        return placed(tensor, self.path.parent)

    def check_unchanged(self) -> None:
        """Raise ModelError where a file is no longer the one that was read."""
        for path in self._stamps:
            self._check_unchanged(path)

    def check_apart(self, *targets: Path) -> None:
        """Raise ModelError where writing to one of `targets` would destroy what is read."""
        own = {path.resolve() for path in self._stamps}
        for target in targets:
            if target.resolve() in own:
                raise ModelError(
                    f"{target} is the model that is cut: write the parts to another folder"
                )

    def _check_unchanged(self, path: Path) -> None:
        try:
            same = _stamp(path) == self._stamps[path]
        except OSError:
            same = False
        if not same:
            raise ModelError(f"{path} was changed after it had been read: start again")

    def _digest(self, path: Path, algorithm: str) -> bytes:
        def fresh() -> hashlib._Hash:
            return hashlib.new(algorithm, usedforsecurity=False)

        if self._content is not None:
            digest = fresh()
            digest.update(self._content)
            return digest.digest()
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, fresh).digest()
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from error
        self._check_unchanged(path)
        return found


def load(path: Path) -> SourceModel:
    """Read a model file's graph and find everything that it refers to.

    Raises ModelUnknown where there is no file and ModelError for anything that is no ONNX model.
    """
    try:
        stamps = {path: _stamp(path)}
        proto = _parsed(path)
    except FileNotFoundError as error:
        raise ModelUnknown(f"there is no model file {path}") from error
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from error
    for what, is_there in (
        ("version", proto.ir_version),
        ("opset import", proto.opset_import),
        ("node in its graph", proto.graph.node),
    ):
        if not is_there:
            raise ModelError(
                f"{path} is not an ONNX model: it has no {what}; export your network to ONNX first"
            )
    graphs: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    if not all(isinstance(text, str) for graph in graphs for text in _texts(graph)):
        raise ModelError(f"{path} is not an ONNX model: a name in it is no text")
    try:
        names = sorted({ExternalDataInfo(t).location for t in _external(proto)} - {path.name})
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path} refers to external data in a broken way: {error}") from error
    for name in names:
        stamps[path.parent / name] = _check_place(path, name)
    source = SourceModel(path, proto, names, stamps=stamps)
    functions = [tensor for function in proto.functions for tensor in tensors(function)]
    for tensor in list(_external(proto)):
        # A function is written as it is, in every part.
        is_whole = any(tensor is one for one in functions)
        _take_in(source, tensor, always=is_whole)
    if source.file_bytes <= HASHED_AT_ONCE_BYTES:
        _ = source.sha256, source.md5
    return source


def built(name: str, proto: onnx.ModelProto) -> SourceModel:
    """A model that was made in memory, with its weights in it or hollow."""
    return SourceModel(Path(name), proto, content=proto.SerializeToString(deterministic=True))


def _parsed(path: Path) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    with path.open("rb") as file:
        try:
            # An empty file cannot be mapped; it is refused as one that has no graph.
            if path.stat().st_size:
                # Not closed by hand: views of it live as long as an error that tells of them.
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                proto.ParseFromString(detach(memoryview(pages), path.name))
        except (DecodeError, ValueError) as error:
            raise ModelError(f"{path} is not an ONNX model: {error}") from error
    return proto


def _texts(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[object]:
    """All names of a graph. Broken ones are bytes: the format does not check them."""
    yield graph.name
    if isinstance(graph, onnx.GraphProto):
        for value in [*graph.input, *graph.output, *graph.value_info]:
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
        yield from (tensor.name for tensor in graph.initializer)
    else:
        yield from (graph.domain, *graph.input, *graph.output)
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        for inner in subgraphs(node):
            yield from _texts(inner)


def _external(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    for graph in graphs:
        yield from (tensor for tensor in tensors(graph) if is_detached(tensor))


def _take_in(source: SourceModel, tensor: onnx.TensorProto, *, always: bool) -> None:
    """Check where a tensor's data are; small ones become part of the graph."""
    try:
        blob = source.blob(tensor)
        data = blob.read() if always or stored_bytes(tensor) <= DETACHED_BYTES else None
    except ModelError as error:
        raise ModelError(f"{source.path} cannot be used: {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"{source.path} refers to external data in a broken way: {error}"
        ) from error
    if data is not None:
        tensor.raw_data = data
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _stamp(path: Path) -> _Stamp:
    """What changes when a file is written or replaced, the size last; OSError without a file."""
    stat = path.stat()
    return stat.st_ino, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size


def _check_place(model: Path, name: str) -> _Stamp:
    """The stamp of external data; ModelError where they lie elsewhere or cannot be read.

    They belong beside the model: in its folder, or, where the model is a link, beside the file that
    it leads to (as caches of models keep them).
    """
    folders = {model.parent.resolve(), model.resolve().parent}
    try:
        path = (model.parent / name).resolve()
    except ValueError as error:
        raise ModelError(f"{model} names external data in a broken way: {error}") from error
    if folders.isdisjoint(path.parents):
        raise ModelError(f"{model} refers to external data outside its own folder: {name}")
    try:
        if not path.is_file() and path.exists():
            raise ModelError(f"the external data {name} of {model} are no file")
        with path.open("rb"):
            return _stamp(path)
    except OSError as error:
        raise ModelError(
            f"the external data {name} of {model} cannot be read ({error.strerror}): put it beside "
            "the model"
        ) from error
