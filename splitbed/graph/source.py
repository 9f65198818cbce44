"""A model file as it was given: its content and its digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from splitbed.errors import ModelError, ModelUnknown


class SourceModel(msgspec.Struct, frozen=True):
    """An ONNX file, loaded with its external data."""

    path: Path
    proto: onnx.ModelProto
    sha256: str
    """Of the file; with external data, of the digests of all its files in order of their names."""
    md5: str
    """Of the main file alone, as test material is listed (S4aV230045, clause 2)."""
    file_bytes: int
    """Main file and external data."""
    data_files: tuple[Path, ...] = ()
    """External data, where the model keeps some."""


def load(path: Path) -> SourceModel:
    """Read a model file and everything that it refers to.

    Raises ModelUnknown where there is no file and ModelError for anything that is no ONNX model.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelUnknown(f"there is no model file {path}") from error
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model: {error}") from error
    if not proto.ir_version or not proto.opset_import or not proto.graph.node:
        raise ModelError(
            f"{path} is not an ONNX model: it has no graph; export your network to ONNX first"
        )
    sha256, file_bytes = hashlib.sha256(content), len(content)
    try:
        names = sorted(set(_external_files(proto.graph)))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path} refers to external data in a broken way: {error}") from error
    if names:
        digests = [sha256.digest()]
        for name in names:
            digest, size = _digest_of(path, name)
            digests.append(name.encode() + b"\0" + digest)
            file_bytes += size
        sha256 = hashlib.sha256(b"".join(digests))
        try:
            onnx.load_external_data_for_model(proto, str(path.parent))
        except Exception as error:  # onnx raises whatever its readers raise
            raise ModelError(f"the external data of {path} cannot be loaded: {error}") from error
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    data_files = tuple(path.parent / name for name in names)
    return SourceModel(path, proto, sha256.hexdigest(), md5, file_bytes, data_files)


def _external_files(graph: onnx.GraphProto) -> Iterator[str]:
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            if attribute.HasField("g"):
                yield from _external_files(attribute.g)
    for tensor in tensors:
        if uses_external_data(tensor):
            yield ExternalDataInfo(tensor).location


def _digest_of(model: Path, name: str) -> tuple[bytes, int]:
    folder = model.parent.resolve()
    try:
        path = (folder / name).resolve()
    except ValueError as error:
        raise ModelError(f"{model} names external data in a broken way: {error}") from error
    if folder not in path.parents:
        raise ModelError(f"{model} refers to external data outside its own folder: {name}")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest(), path.stat().st_size
    except OSError as error:
        raise ModelError(
            f"the external data {name} of {model} cannot be read ({error.strerror}): put it beside "
            "the model"
        ) from error
