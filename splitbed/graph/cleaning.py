"""Taking out of a graph what changes nothing: renamings, dead nodes, outputs that nobody reads."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import TensorProto, numpy_helper

from splitbed.errors import ModelError
from splitbed.graph.reading import is_onnx, is_random, label, reads, rename, subgraphs, writes
from splitbed.graph.weights import is_detached


def free_outputs(graph: onnx.GraphProto) -> None:
    """Let an output that is an initialiser be made by a node."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    for value in graph.output:
        if value.name in held:
            name = _fresh(f"{value.name}.weight", graph)
            held[value.name].name = name
            for node in graph.node:
                rename(node, {value.name: name})
            graph.node.insert(
                0, onnx.NodeProto(op_type="Identity", input=[name], output=[value.name])
            )


def take_branches(graph: onnx.GraphProto) -> bool:
    """Put the branch in place of every If whose condition is a constant; whether there was one."""
    known = {t.name: truth for t in graph.initializer if (truth := _truth(t)) is not None}
    kept: list[onnx.NodeProto] = []
    taken = False
    names = _all_names(graph)
    for node in graph.node:
        chosen = _chosen(node, known)
        if chosen is None:
            kept.append(node)
            continue
        taken = True
        branch = onnx.GraphProto()
        branch.CopyFrom(chosen)
        kept += _inlined(branch, node, graph, names)
    if taken:
        _replace_nodes(graph, kept)
    return taken


def _truth(tensor: TensorProto) -> bool | None:
    """What a weight of a single truth value says; None for any other weight."""
    if tensor.data_type != TensorProto.BOOL or math.prod(tensor.dims) != 1 or is_detached(tensor):
        return None
    try:
        return bool(numpy_helper.to_array(tensor).reshape(()))
    except (TypeError, ValueError) as error:
        raise ModelError(f"the data of '{tensor.name}' are broken: {error}") from error


def _chosen(node: onnx.NodeProto, known: Mapping[str, bool]) -> onnx.GraphProto | None:
    """The branch that an If always takes; None for other nodes, and for what inference refuses."""
    if node.op_type != "If" or not is_onnx(node) or not node.input or node.input[0] not in known:
        return None
    wanted = "then_branch" if known[node.input[0]] else "else_branch"
    for attribute in node.attribute:
        if attribute.name == wanted and len(attribute.g.output) == len(node.output):
            return attribute.g
    return None


def _inlined(
    branch: onnx.GraphProto, node: onnx.NodeProto, graph: onnx.GraphProto, taken: set[str]
) -> list[onnx.NodeProto]:
    """The branch's nodes under names that are not `taken`; its weights become the graph's."""
    prefix = f"{label(node)}/"
    names: dict[str, str] = {}
    own = [tensor.name for tensor in branch.initializer]
    own += [name for inner in branch.node for name in writes(inner)]
    made = {name for inner in branch.node for name in writes(inner)}
    for value, name in zip(branch.output, node.output, strict=True):
        if name and value.name in made and value.name not in names:
            names[value.name] = name  # what the If handed out keeps its name
    for name in own:
        if name not in names:
            names[name] = _free(prefix + name, taken)
            taken.add(names[name])
    for tensor in branch.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = names[tensor.name]
    for inner in branch.node:
        rename(inner, names)
        for index, name in enumerate(inner.output):
            if name:
                inner.output[index] = names[name]
        inner.name = prefix + inner.name if inner.name else ""
    return [
        *branch.node,
        *(
            onnx.NodeProto(
                op_type="Identity", input=[names.get(value.name, value.name)], output=[name]
            )
            for value, name in zip(branch.output, node.output, strict=True)
            if name and names.get(value.name) != name
        ),
    ]


def _fresh(name: str, graph: onnx.GraphProto) -> str:
    return _free(name, _all_names(graph))


def _free(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it where it is taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    return found


def _all_names(graph: onnx.GraphProto) -> set[str]:
    """Every name in a graph and in the graphs inside it."""
    names = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        names.update(node.output)
        for inner in subgraphs(node):
            names |= _all_names(inner)
    return names


def drop_identities(graph: onnx.GraphProto) -> dict[str, str]:
    """Remove nodes that only give a value another name; those names, and what they stand for.

    Identities, and Dropouts that drop nothing, because nobody trains.
    """
    read = {value.name for value in graph.output}
    for node in graph.node:
        read.update(reads(node))
    outputs = {value.name for value in graph.output}
    produced = {name for node in graph.node for name in writes(node)}
    names: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    # What a subgraph calls its own would hide the outer value that is to be read there.
    hidden = _inner_names(graph)
    for node in graph.node:
        rename(node, names)
        if _only_renames(node, read) and node.input:
            source, target = node.input[0], node.output[0]
            if source in hidden or target in hidden:
                kept.append(node)
                continue
            if target not in outputs:
                names[target] = source
                continue
            if source in produced and source not in outputs and _rename_value(kept, source, target):
                for alias, value in names.items():
                    if value == source:
                        names[alias] = target
                names[source] = target
                continue
        kept.append(node)
    if len(kept) != len(graph.node):
        _replace_nodes(graph, kept)
    return names


def _only_renames(node: onnx.NodeProto, read: set[str]) -> bool:
    if not is_onnx(node):
        return False
    if node.op_type == "Dropout":
        # A mask that is read, or a training mode that may be on, make it more than a name.
        return not is_random(node) and read.isdisjoint(node.output[1:])
    return node.op_type == "Identity"


def _rename_value(nodes: list[onnx.NodeProto], source: str, target: str) -> bool:
    """Let the producer of `source` make `target` instead; whether that was possible."""
    for place, node in enumerate(nodes):
        for index, name in enumerate(node.output):
            if name == source:
                node.output[index] = target
                for later in nodes[place + 1 :]:
                    rename(later, {source: target})
                return True
    return False


def _inner_names(graph: onnx.GraphProto) -> set[str]:
    """Every name that a subgraph, at any depth, has of its own."""
    names: set[str] = set()
    for node in graph.node:
        for inner in subgraphs(node):
            names |= _all_names(inner)
    return names


def drop_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes and initialisers that no output depends on."""
    needed = {value.name for value in graph.output}
    alive = []
    for node in reversed(graph.node):
        if needed.intersection(writes(node)):
            needed.update(reads(node))
            alive.append(node)
    if len(alive) != len(graph.node):
        _replace_nodes(graph, alive[::-1])
    keep(graph.initializer, lambda tensor: tensor.name in needed)


def drop_unread_outputs(model: onnx.ModelProto) -> None:
    """Leave out optional outputs that nothing reads (a MaxPool's indices, an LSTM's last state).

    Not of a batch normalisation that trains: its outputs come together or not at all.
    """
    graph = model.graph
    version = next((opset.version for opset in model.opset_import if not opset.domain), 1)
    read = {value.name for value in graph.output}
    for node in graph.node:
        read.update(reads(node))
    for node in graph.node:
        if read.issuperset(node.output) or not is_onnx(node):
            continue
        if node.op_type == "BatchNormalization" or not onnx.defs.has(node.op_type, version):
            continue
        schema = onnx.defs.get_schema(node.op_type, version)
        optional = onnx.defs.OpSchema.FormalParameterOption.Optional
        for index, name in enumerate(node.output):
            if (
                name not in read
                and index < len(schema.outputs)
                and schema.outputs[index].option == optional
            ):
                node.output[index] = ""
        while node.output and not node.output[-1]:
            del node.output[-1]


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Let `nodes`, some of the graph's own, be all of its nodes."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def keep(field, wanted) -> None:  # type: ignore[no-untyped-def]
    """Delete from a repeated protobuf field what is not wanted, without copying what stays."""
    for index in range(len(field) - 1, -1, -1):
        if not wanted(field[index]):
            del field[index]
