"""The two networks of a learned codec: read, checked against their description, made spliceable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import onnx
from onnx import defs, version_converter

from splitbed.errors import ModelError, ModelUnknown
from splitbed.graph.bottleneck import Description, HalfFile, read_description
from splitbed.graph.canonical import Observer, canonicalise
from splitbed.graph.checking import check
from splitbed.graph.file import whole_node
from splitbed.graph.reading import subgraphs
from splitbed.graph.source import SourceModel, load
from splitbed.graph.weights import is_detached
from splitbed.pair import DESCRIPTION, PairId, Ranges
from splitbed.tensor import TensorSpec

MOST_HALF_BYTES: Final = 64 << 20
"""Of one network: it is held in memory, whole, by every part that has it."""

_PLAIN: Final = ""  # ONNX's own operators


class Half(msgspec.Struct, frozen=True):
    """One network, cleaned, its shapes bound, its weights in it."""

    where: str
    """How errors call it."""
    proto: onnx.ModelProto
    nbytes: int
    """Of its file."""


class LearnedPair(msgspec.Struct, frozen=True):
    """A learned codec that can stand in the parts of a cut."""

    id: PairId
    description: Description
    encoder: Half
    decoder: Half
    files: tuple[Path, ...]
    """What it was made of: one that was replaced makes it another pair."""

    @property
    def boundary(self) -> tuple[TensorSpec, ...]:
        """What is coded."""
        return tuple(tensor.spec for tensor in self.description.boundaries)

    @property
    def code(self) -> tuple[TensorSpec, ...]:
        """What crosses instead."""
        return tuple(tensor.spec for tensor in self.description.codes)

    @property
    def ranges(self) -> Ranges:
        """Of the code, where they are known."""
        return self.description.ranges


def load_pair(folder: Path, name: str, observer: Observer | None = None) -> LearnedPair:
    """Read the pair in a folder, which is called `name`.

    ModelUnknown where a file is missing; ModelError, with the file named, for a description that is
    wrong in itself, files that are other ones, and networks that are not what it says.
    """
    description = read_description(folder)
    boundary = tuple(tensor.spec for tensor in description.boundaries)
    code = tuple(tensor.spec for tensor in description.codes)
    return LearnedPair(
        PairId(name, description.encoder.sha256, description.decoder.sha256),
        description,
        _half(folder, description.encoder, "encoder", boundary, code, observer),
        _half(folder, description.decoder, "decoder", code, boundary, observer),
        tuple(
            folder / file
            for file in (DESCRIPTION, description.encoder.file, description.decoder.file)
        ),
    )


def _half(
    folder: Path,
    file: HalfFile,
    what: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    observer: Observer | None,
) -> Half:
    path = folder / file.file
    where = f"the {what} {path}"
    _check_file(path, file, folder)
    source = load(path)
    if source.data_files:
        raise ModelError(f"{where} has weights in other files: save it in one file")
    newest = defs.onnx_opset_version()
    opset = _opsets(source.proto).get(_PLAIN, 0)
    if opset > newest:
        raise ModelError(
            f"{where} has operators of set {opset}, and {newest} is the newest known here: export "
            f"it with opset {newest} or older"
        )
    held = {tensor.name for tensor in source.proto.graph.initializer}
    found = [value.name for value in source.proto.graph.input if value.name not in held]
    _check_names(where, "reads", found, inputs)
    _check_names(where, "makes", [v.name for v in source.proto.graph.output], outputs)
    canonical = canonicalise(source, {spec.name: spec.shape for spec in inputs}, observer)
    canonical.require_fixed_outputs()
    for verb, wanted, got in (
        ("reads", inputs, canonical.inputs),
        ("makes", outputs, canonical.outputs),
    ):
        known = {spec.name: spec for spec in got}
        for spec in wanted:
            if known[spec.name] != spec:
                raise ModelError(
                    f"{where} {verb} {known[spec.name]}, and {DESCRIPTION} says {spec}: one of "
                    "them is wrong"
                )
    if canonical.proto.functions:
        raise ModelError(
            f"{where} has a local function '{canonical.proto.functions[0].name}' with operators of "
            "another version: export it without functions"
        )
    return Half(where, _whole(source, canonical.proto), source.file_bytes)


def _check_file(path: Path, file: HalfFile, folder: Path) -> None:
    try:
        if path.resolve().parent != folder.resolve():
            raise ModelError(f"{path} leads out of the folder of its {DESCRIPTION}: put it there")
        size = path.stat().st_size
        if size > MOST_HALF_BYTES:
            raise ModelError(
                f"{path} has {size / 1e6:.0f} MB, and one half of a learned codec may have "
                f"{MOST_HALF_BYTES >> 20} MiB: it should be small beside the model"
            )
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ModelUnknown(
            f"{folder / DESCRIPTION} names {file.file}, which is not beside it"
        ) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if digest != file.sha256:
        raise ModelError(
            f"{path} is not the file that {DESCRIPTION} was written for (SHA-256 {digest[:12]}, "
            f"described {file.sha256[:12]}): write its digest there if the file is right"
        )


def _check_names(where: str, verb: str, found: Sequence[str], wanted: Sequence[TensorSpec]) -> None:
    names = [spec.name for spec in wanted]
    if sorted(found) != sorted(names):
        raise ModelError(
            f"{where} {verb} {_listed(found)}, and {DESCRIPTION} says {_listed(names)}: give both "
            "the same names"
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:60]}'" for name in names[:8])
    return (shown or "nothing") + (", ..." if len(names) > 8 else "")


def _whole(source: SourceModel, proto: onnx.ModelProto) -> onnx.ModelProto:
    """With every weight in it: the file that it came from is not looked at again."""
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    nodes = [whole_node(source, node) for node in found.graph.node]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    for tensor in found.graph.initializer:
        if is_detached(tensor):
            tensor.raw_data = source.blob(tensor).read()
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return found


def fitted(half: Half, opsets: Mapping[str, int], model: str) -> onnx.ModelProto:
    """The network with operators of the versions that a model has (`opsets`, by domain).

    Nothing is changed where its operators are the same in both versions, or differ in the types
    that they take alone. Otherwise ONNX's own are converted; ModelError where that is not possible,
    and for other domains.
    """
    used = {(node.domain, node.op_type) for node in _nodes(half.proto.graph.node)}
    own = _opsets(half.proto)
    for domain in sorted({domain for domain, _ in used}):
        have, want = own.get(domain, 0), opsets.get(domain)
        if want is None or want == have:
            continue
        kinds = [kind for of, kind in used if of == domain]
        if all(_face(domain, kind, have) == _face(domain, kind, want) for kind in kinds):
            continue
        if domain != _PLAIN:
            raise ModelError(
                f"{half.where} has operators of version {have} of '{domain}', and {model} of "
                f"version {want}: export the two with the same"
            )
        return _converted(half, have, want, model)
    return half.proto


def _converted(half: Half, have: int, want: int, model: str) -> onnx.ModelProto:
    advice = f"export it with opset {want}"
    try:
        found = version_converter.convert_version(half.proto, want)
    except Exception as error:  # the converter raises plain RuntimeError
        said = " ".join(str(error).split()).rpartition("failed: ")[2][:200]
        raise ModelError(
            f"{half.where} has operators of set {have}, {model} of set {want}, and the one cannot "
            f"be made the other ({said}): {advice}"
        ) from error
    check(found, half.where)
    for ends in ("input", "output"):
        if [v.name for v in getattr(found.graph, ends)] != [
            v.name for v in getattr(half.proto.graph, ends)
        ]:
            raise ModelError(f"{half.where} cannot be made operators of set {want}: {advice}")
    return found


def _face(domain: str, kind: str, version: int) -> object:
    """Inputs, outputs and attributes of an operator, without their types.

    Most versions of an operator only take more types than those before: Relu 14 is Relu 13 and
    takes bfloat16. Of an operator that is not known here, the version itself.
    """
    try:
        schema = defs.get_schema(kind, version, domain)
    except defs.SchemaError:
        return version
    ends = [[(end.name, end.option) for end in ends] for ends in (schema.inputs, schema.outputs)]
    attributes = {
        name: (one.type, one.required, one.default_value.SerializeToString(deterministic=True))
        for name, one in schema.attributes.items()
    }
    return ends, attributes


def domains(proto: onnx.ModelProto) -> set[str]:
    """Of the operators in a graph, its subgraphs included."""
    return {node.domain for node in _nodes(proto.graph.node)}


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    return {_short(entry.domain): entry.version for entry in proto.opset_import}


def _short(domain: str) -> str:
    return _PLAIN if domain == "ai.onnx" else domain


def _nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _nodes(graph.node)


def renamed(node: onnx.NodeProto, name: Callable[[str], str]) -> onnx.NodeProto:
    """The node with another name for every value, those of its subgraphs included."""
    found = onnx.NodeProto()
    found.CopyFrom(node)
    _rename(found, name)
    return found


def _rename(node: onnx.NodeProto, name: Callable[[str], str]) -> None:
    for names in (node.input, node.output):
        names[:] = [name(value) if value else value for value in names]
    if node.name:
        node.name = name(node.name)
    for graph in subgraphs(node):
        for value in [*graph.input, *graph.output, *graph.value_info]:
            value.name = name(value.name)
        for tensor in graph.initializer:
            tensor.name = name(tensor.name)
        for inner in graph.node:
            _rename(inner, name)
