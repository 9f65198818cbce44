"""A model file as it was given: its graph, its digests, and where its weights lie."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo

from splitbed.errors import ModelError, ModelUnknown
from splitbed.graph.weights import (
    DETACHED_BYTES,
    Blob,
    detach,
    is_detached,
    placed,
    stored_bytes,
    tensors,
)


class SourceModel(msgspec.Struct, frozen=True):
    """An ONNX file. Its large weights stay in their files, whatever their size."""

    path: Path
    proto: onnx.ModelProto
    """The graph; tensors of more than DETACHED_BYTES are external data of the files below."""
    sha256: str
    """Of the file; with external data, of the digests of all its files in order of their names."""
    md5: str
    """Of the main file alone, as test material is listed (S4aV230045, clause 2)."""
    file_bytes: int
    """Main file and external data."""
    data_files: tuple[Path, ...] = ()
    """External data, where the model keeps some."""
    stamps: tuple[tuple[int, int], ...] = ()
    """Time of change and size of the main file and each data file, when they were read."""

    def blob(self, tensor: onnx.TensorProto) -> Blob:
        """Where the data of a detached tensor are."""
        return placed(tensor, self.path.parent)

    def check_unchanged(self) -> None:
        """Raise ModelError where a file is no longer the one that was read."""
        for path, stamp in zip((self.path, *self.data_files), self.stamps, strict=True):
            try:
                same = _stamp(path) == stamp
            except OSError:
                same = False
            if not same:
                raise ModelError(f"{path} was changed after it had been read: start again")


def load(path: Path) -> SourceModel:
    """Read a model file and find everything that it refers to.

    Raises ModelUnknown where there is no file and ModelError for anything that is no ONNX model.
    """
    try:
        stamps = [_stamp(path)]
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256")
            file.seek(0)
            md5 = hashlib.file_digest(file, _md5).hexdigest()
            proto = _parsed(file.fileno(), path)
    except FileNotFoundError as error:
        raise ModelUnknown(f"there is no model file {path}") from error
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from error
    if not proto.ir_version or not proto.opset_import or not proto.graph.node:
        raise ModelError(
            f"{path} is not an ONNX model: it has no graph; export your network to ONNX first"
        )
    file_bytes = stamps[0][1]
    try:
        names = sorted({ExternalDataInfo(t).location for t in _external(proto)} - {path.name})
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path} refers to external data in a broken way: {error}") from error
    digests = [sha256.digest()]
    for name in names:
        digest, stamp = _digest_of(path, name)
        digests.append(name.encode() + b"\0" + digest)
        stamps.append(stamp)
        file_bytes += stamp[1]
    if names:
        sha256 = hashlib.sha256(b"".join(digests))
    data_files = tuple(path.parent / name for name in names)
    source = SourceModel(
        path, proto, sha256.hexdigest(), md5, file_bytes, data_files, tuple(stamps)
    )
    for tensor in list(_external(proto)):
        _take_in(source, tensor)
    return source


def _parsed(file: int, path: Path) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        # An empty file cannot be mapped; it is refused as one that has no graph.
        if path.stat().st_size:
            with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                proto.ParseFromString(detach(view, path.name))
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path} is not an ONNX model: {error}") from error
    return proto


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _external(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return (tensor for tensor in tensors(proto.graph) if is_detached(tensor))


def _take_in(source: SourceModel, tensor: onnx.TensorProto) -> None:
    """Check where a tensor's data are; small ones become part of the graph."""
    try:
        blob = source.blob(tensor)
        data = blob.read() if stored_bytes(tensor) <= DETACHED_BYTES else None
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


def _stamp(path: Path) -> tuple[int, int]:
    """Time of change and size; OSError where there is no file."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _digest_of(model: Path, name: str) -> tuple[bytes, tuple[int, int]]:
    folder = model.parent.resolve()
    try:
        path = (folder / name).resolve()
    except ValueError as error:
        raise ModelError(f"{model} names external data in a broken way: {error}") from error
    if folder not in path.parents:
        raise ModelError(f"{model} refers to external data outside its own folder: {name}")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest(), _stamp(path)
    except OSError as error:
        raise ModelError(
            f"the external data {name} of {model} cannot be read ({error.strerror}): put it beside "
            "the model"
        ) from error
