"""Parts with a learned codec: the head ends in its encoder, the tail begins with its decoder.

Neither model nor pair is changed. Values inside the pair get names of their own: nothing clashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import onnx

from splitbed.errors import CutUnknown, ModelError, ModelMismatch, UsageError
from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.extract import ExtractedPart, Parts
from splitbed.graph.halves import Half, LearnedPair, domains, fitted, renamed
from splitbed.graph.reading import subgraphs, writes
from splitbed.pair import Ranges
from splitbed.tensor import Cut, TensorSpec


class Coded(msgspec.Struct, frozen=True):
    """A cut whose code crosses."""

    parts: Parts
    """Of the cut with the pair in it: `parts.cut` is what crosses."""
    ranges: Ranges
    """Of what crosses, where they are known."""


def with_pair(parts: Parts, pair: LearnedPair) -> Coded:
    """The parts of a cut with this pair in them.

    What crosses is the code, in the order of the pair's description, and then every boundary tensor
    that the pair does not code. Raises ModelMismatch for a pair of another model, CutUnknown for
    another cut, ModelError where boundary or operators do not fit, and UsageError where one part
    has no nodes.
    """
    name = pair.id.name
    if parts.first is None or parts.second is None:
        missing = "head" if parts.first is None else "tail"
        raise UsageError(
            f"at '{parts.cut.name}' there is no {missing} that learned:{name} could stand in: cut "
            f"at '{pair.description.model.cut}'"
        )
    model = parts.first.model
    _check_place(model, parts, pair)
    prefix = _free_prefix(model, pair)
    names = {spec.name: spec.name for spec in pair.boundary}
    taken = _all_names(model)
    for spec in pair.code:
        is_free = spec.name not in taken
        names[spec.name] = spec.name if is_free else f"{prefix}.{spec.name}"
    code = [TensorSpec(names[spec.name], spec.dtype, spec.shape) for spec in pair.code]
    coded = {spec.name for spec in pair.boundary}
    cut = Cut(
        parts.cut.name,
        (*code, *(spec for spec in parts.cut.boundary if spec.name not in coded)),
    )

    def inside(part: str) -> Callable[[str], str]:
        return lambda value: names.get(value, f"{prefix}.{part}.{value}")

    first = _ending(parts.first, pair, code, inside("encoder"))
    second = _beginning(parts.second, pair, code, inside("decoder"))
    ranges = tuple(msgspec.structs.replace(r, tensor=names[r.tensor]) for r in pair.ranges)
    return Coded(Parts(cut, parts.point, first, second), ranges)


def _check_place(model: CanonicalModel, parts: Parts, pair: LearnedPair) -> None:
    of, name = pair.description.model, pair.id.name
    if of.sha256 != model.source.sha256:
        raise ModelMismatch(
            f"learned:{name} was made for another model ({of.file or 'SHA-256'} {of.sha256[:12]}, "
            f"{model.source.path.name} is {model.source.sha256[:12]}): train a pair for this one"
        )
    if model.aliases.get(of.cut, of.cut) != parts.cut.name:
        raise CutUnknown(
            f"learned:{name} stands at the cut '{of.cut}', not at '{parts.cut.name}': cut there"
        )
    known = {spec.name: spec for spec in parts.cut.boundary}
    for spec in pair.boundary:
        if spec.name not in known:
            raise ModelError(
                f"learned:{name} codes '{spec.name}', which does not cross at '{parts.cut.name}': "
                f"there crosses {', '.join(map(str, parts.cut.boundary))}"
            )
        if known[spec.name] != spec:
            raise ModelError(
                f"learned:{name} codes {spec}, and at '{parts.cut.name}' crosses {known[spec.name]}"
            )


def _ending(
    part: ExtractedPart,
    pair: LearnedPair,
    code: Sequence[TensorSpec],
    name: Callable[[str], str],
) -> ExtractedPart:
    """The head, with the code in place of what is coded."""
    nodes, constants, frame = _spliced(part, pair.encoder, name)
    coded = [spec.name for spec in pair.boundary]
    made = {value for node in part.nodes for value in writes(node)}
    passing = [value for value in coded if value not in made]
    return part.with_pair(
        pair.id,
        frame,
        [*part.nodes, *nodes],
        constants,
        list(dict.fromkeys([*part.inputs, *passing])),
        [*(value for value in part.outputs if value not in coded), *(spec.name for spec in code)],
        code,
        pair.encoder.nbytes,
    )


def _beginning(
    part: ExtractedPart,
    pair: LearnedPair,
    code: Sequence[TensorSpec],
    name: Callable[[str], str],
) -> ExtractedPart:
    """The tail, with the code in place of what is coded; what is finished, it hands out itself."""
    nodes, constants, frame = _spliced(part, pair.decoder, name)
    coded = [spec.name for spec in pair.boundary]
    finished = [value.name for value in part.model.proto.graph.output if value.name in coded]
    return part.with_pair(
        pair.id,
        frame,
        [*nodes, *part.nodes],
        constants,
        [*(value for value in part.inputs if value not in coded), *(spec.name for spec in code)],
        [*part.outputs, *finished],
        code,
        pair.decoder.nbytes,
    )


def _spliced(
    part: ExtractedPart, half: Half, name: Callable[[str], str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], onnx.ModelProto]:
    """Nodes and weights of one network under their new names, and what the file must import."""
    model = part.model
    frame = onnx.ModelProto(ir_version=model.proto.ir_version)
    frame.opset_import.extend(model.proto.opset_import)
    frame.functions.extend(model.proto.functions)
    opsets = {entry.domain: entry.version for entry in frame.opset_import}
    proto = fitted(half, opsets, model.source.path.name)
    nodes = [renamed(node, name) for node in proto.graph.node]
    used = domains(proto)
    for entry in proto.opset_import:
        if entry.domain in used and entry.domain not in opsets:
            frame.opset_import.append(entry)
    constants = []
    for tensor in proto.graph.initializer:
        constants.append(onnx.TensorProto())
        constants[-1].CopyFrom(tensor)
        constants[-1].name = name(tensor.name)
    return nodes, constants, frame


def _free_prefix(model: CanonicalModel, pair: LearnedPair) -> str:
    """The beginning of names that nothing in the model has."""
    taken = _all_names(model) | {spec.name for spec in (*pair.boundary, *pair.code)}
    prefix = "learned"
    while any(name.startswith(f"{prefix}.") for name in taken):
        prefix += "_"
    return prefix


def _all_names(model: CanonicalModel) -> set[str]:
    graph = model.proto.graph
    ends = [value.name for value in [*graph.input, *graph.output]]
    return {*ends, *(tensor.name for tensor in graph.initializer), *_names(graph.node)}


def _names(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (*node.input, *node.output)
        for graph in subgraphs(node):
            yield from (value.name for value in graph.input)
            yield from (tensor.name for tensor in graph.initializer)
            yield from _names(graph.node)
