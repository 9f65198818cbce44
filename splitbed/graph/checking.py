"""The rules of a graph without which nothing else makes sense."""

from __future__ import annotations

import math
from collections import Counter

import onnx

from splitbed.errors import ModelError
from splitbed.graph.dimensions import MOST_ELEMENTS
from splitbed.graph.reading import label, reads, subgraphs, writes
from splitbed.graph.weights import tensors


def check(model: onnx.ModelProto, where: str) -> None:
    """Raise ModelError, which begins with `where`, for a graph that is none.

    Names are made once, before they are read; a subgraph sees what is around it, its own inputs may
    hide that, and its nodes may not make it again.
    """
    graph = model.graph
    for what, field in (
        ("inputs", graph.input),
        ("outputs", graph.output),
        ("initialisers", graph.initializer),
    ):
        for name, times in Counter(item.name for item in field).items():
            if times > 1:
                raise ModelError(f"{where} is no valid graph: '{name}' is twice among its {what}")
    if not graph.output:
        raise ModelError(f"{where} is no valid graph: it has no output")
    for tensor in tensors(graph):
        sizes = list(tensor.dims)
        if min(sizes, default=0) < 0 or math.prod(sizes) > MOST_ELEMENTS:
            raise ModelError(
                f"{where} is no valid graph: '{tensor.name}' is a weight of shape {sizes}"
            )
    if any(True for _ in graph.sparse_initializer):
        raise ModelError(f"{where} has sparse initialisers, which splitbed cannot cut")
    known = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    _check_nodes(graph, known, where)
    for value in graph.output:
        if value.name not in known:
            raise ModelError(f"{where} is no valid graph: nothing makes its output '{value.name}'")


def _check_nodes(graph: onnx.GraphProto, known: set[str], where: str) -> None:
    """Check the nodes in order; what they make is `known` afterwards."""
    for node in graph.node:
        for name in reads(node):
            if name not in known:
                raise ModelError(
                    f"{where} is no valid graph: node '{label(node)}' reads '{name}', which "
                    "nothing before it makes (a cycle, or nodes out of order)"
                )
        for inner in subgraphs(node):
            own = {value.name for value in inner.input} | {t.name for t in inner.initializer}
            _check_nodes(inner, known | own, where)
        for name in writes(node):
            if name in known:
                raise ModelError(
                    f"{where} is no valid graph: '{name}' is made twice, the second time by node "
                    f"'{label(node)}'"
                )
            known.add(name)
