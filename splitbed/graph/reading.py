"""What an ONNX node reads and writes, subgraphs and their outer-scope captures included."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import onnx
from onnx import helper

KNOWN_DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Domains whose operators give the same result twice, but for the random ones below."""

RANDOM: Final = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Operators whose result is drawn; each runs in exactly one part."""


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reads(node: onnx.NodeProto) -> list[str]:
    """Every value that the node needs, in order, each once: inputs, then captured values."""
    names = dict.fromkeys(name for name in node.input if name)
    for graph in subgraphs(node):
        names |= dict.fromkeys(captures(graph))
    return list(names)


def captures(graph: onnx.GraphProto) -> list[str]:
    """Values that a subgraph reads from the graphs around it."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        found |= dict.fromkeys(name for name in reads(node) if name not in own)
        own.update(node.output)
    found |= dict.fromkeys(value.name for value in graph.output if value.name not in own)
    return list(found)


def writes(node: onnx.NodeProto) -> list[str]:
    """The values that the node makes; optional outputs left out are not among them."""
    return [name for name in node.output if name]


def is_onnx(node: onnx.NodeProto) -> bool:
    """Whether the node is one of ONNX's own operators."""
    return node.domain in ("", "ai.onnx")


def is_random(node: onnx.NodeProto, functions: Collection[tuple[str, str]] = ()) -> bool:
    """Whether running the node twice may give two results, its subgraphs included.

    `functions` are the local functions, by domain and name, of which that is known.
    """
    if is_onnx(node):
        if node.op_type in RANDOM:
            return True
        # In training mode, which is an input, a Dropout drops what it draws.
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            return True
    elif (node.domain, node.op_type) in functions:
        return True
    return any(is_random(inner, functions) for graph in subgraphs(node) for inner in graph.node)


def rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let the node read other values, in its subgraphs as well.

    A subgraph's own names hide those around it and stay as they are.
    """
    for index, name in enumerate(node.input):
        if name in names:
            node.input[index] = names[name]
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {t.name for t in graph.initializer}
        own.update(name for inner in graph.node for name in writes(inner))
        visible = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            rename(inner, visible)
        for value in graph.output:
            # A subgraph may hand out a captured value as it is.
            if value.name in visible:
                value.name = visible[value.name]


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, `default` where it has none of that name."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default


def label(node: onnx.NodeProto) -> str:
    """How a person would find the node: its name, else what it makes."""
    return node.name or (writes(node) or [node.op_type])[0]
