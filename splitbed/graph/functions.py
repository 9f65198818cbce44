"""Local functions of a model, and what a graph looks like before anything else is done to it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import inliner

from splitbed.errors import ModelError
from splitbed.graph.checking import check
from splitbed.graph.reading import is_random, subgraphs


def prepared(given: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """A checked copy of a model, its local functions made nodes of the graph where they can be.

    A function that imports other operator versions than the model stays one node. Raises
    ModelError, which begins with `where`.
    """
    model = onnx.ModelProto()
    model.CopyFrom(given)
    # IR versions below 4 demand that initialisers are inputs too.
    model.ir_version = max(4, model.ir_version)
    _use_short_domain(model)
    check(model, where)
    if not model.functions:
        return model
    try:
        inlined = inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises plain RuntimeError
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"{where} has local functions that cannot be used: {said}") from error
    check(inlined, where)
    return inlined


def random_functions(model: onnx.ModelProto) -> frozenset[tuple[str, str]]:
    """Domain and name of every local function whose result may be drawn."""
    found: set[tuple[str, str]] = set()
    while True:
        more = {
            (function.domain, function.name)
            for function in model.functions
            if any(is_random(node, found) for node in function.node)
        }
        if more <= found:
            return frozenset(found)
        found |= more


def _use_short_domain(model: onnx.ModelProto) -> None:
    """`ai.onnx` is the long name of the empty domain, which not every reader knows."""
    for opset in model.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    for function in model.functions:
        for opset in function.opset_import:
            if opset.domain == "ai.onnx":
                opset.domain = ""
    for node in _nodes(model):
        if node.domain == "ai.onnx":
            node.domain = ""


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    todo = [*model.graph.node]
    for function in model.functions:
        todo += function.node
    while todo:
        node = todo.pop()
        yield node
        for graph in subgraphs(node):
            todo += graph.node
