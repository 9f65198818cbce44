"""Multiply-accumulate operations of a node, from shapes alone.

Convolutions, matrix products and recurrent layers are counted; what works element by element counts
nothing, as in the published figures (TR 22.874 clause 5.1: AlexNet 724 M, VGG-16 15.5 G).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import onnx

from splitbed.graph.reading import KNOWN_DOMAINS, attribute, subgraphs
from splitbed.graph.shapes import shapes_in

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

WEIGHT_INPUT: Final[Mapping[str, int]] = {
    "Conv": 1,
    "ConvInteger": 1,
    "ConvTranspose": 1,
    "DeformConv": 1,
    "DynamicQuantizeMatMul": 1,
    "FusedConv": 1,
    "FusedGemm": 1,
    "FusedMatMul": 1,
    "Gemm": 1,
    "GRU": 1,
    "LSTM": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "QGemm": 3,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "RNN": 1,
}
"""Operators that usually carry weights, and which of their inputs these are."""


def node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Of one node on tensors of these shapes (weights included); 0 where a shape is not known.

    The larger branch of an If counts, and the body of a Loop or Scan once: how often it runs is in
    the data. What is inside a subgraph is known from its own value_info.
    """
    inner = [
        sum(node_macs(n, {**shapes, **shapes_in(graph)}) for n in graph.node)
        for graph in subgraphs(node)
    ]
    if inner:
        return max(inner)
    if not is_counted(node):
        return 0
    try:
        return _COUNTS[node.op_type](node, shapes)
    except (KeyError, IndexError, ValueError):
        return 0


def is_counted(node: onnx.NodeProto) -> bool:
    """Whether the operator multiplies and accumulates, as far as is known here."""
    return node.op_type in _COUNTS and node.domain in KNOWN_DOMAINS


def _convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    weight = shapes[node.input[WEIGHT_INPUT[node.op_type]]]
    return math.prod(shapes[node.output[0]]) * math.prod(weight[1:])


def _transposed(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    left = shapes[node.input[0]]
    turned = bool(attribute(node, "transA", 0))
    return math.prod(shapes[node.output[0]]) * left[-2 if turned else -1]


def _recurrent(gates: int) -> Callable[[onnx.NodeProto, Shapes], int]:
    def count(node: onnx.NodeProto, shapes: Shapes) -> int:
        sequence = shapes[node.input[0]]
        directions, width, inputs = shapes[node.input[1]]
        hidden = width // gates
        return math.prod(sequence[:2]) * directions * gates * hidden * (inputs + hidden)

    return count


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "." in equation or len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        sizes |= zip(term, shapes[name], strict=True)
    return math.prod(sizes.values())


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    query, key, value = (shapes[name] for name in node.input[:3])
    # Scores take one product for each query, key and feature, the weighted sum the same again.
    if len(query) == 4:  # batch, heads, length, features
        return query[0] * query[1] * query[2] * key[2] * (query[3] + value[3])
    return query[0] * query[1] * key[1] * (query[2] + value[2])


_COUNTS: Final[Mapping[str, Callable[[onnx.NodeProto, Shapes], int]]] = {
    "Attention": _attention,
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed,
    "DeformConv": _convolution,
    "DynamicQuantizeMatMul": _product,
    "Einsum": _einsum,
    "FusedConv": _convolution,
    "FusedGemm": _product,
    "FusedMatMul": _product,
    "GRU": _recurrent(3),
    "Gemm": _product,
    "LSTM": _recurrent(4),
    "MatMul": _product,
    "MatMulInteger": _product,
    "MatMulIntegerToFloat": _product,
    "QGemm": _product,
    "QLinearConv": _convolution,
    "QLinearMatMul": _product,
    "RNN": _recurrent(1),
}
