"""Small transformers: one in the words of PyTorch's exporter, one of contributed operators."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests.models import info, model
from tests.networks import Network

WIDTH, HEADS, VOCABULARY, LONGEST = 8, 2, 11, 16


class Transformer(Network):
    """Layers in the words of PyTorch's exporter."""

    def dimension(self, x: str, axis: int) -> str:
        """One dimension of `x` as a vector of one element."""
        size = self.add("Gather", [self.add("Shape", [x]), self.constant(axis)], axis=0)
        return self.add("Unsqueeze", [size, self.constant([0])])

    def reshape(self, x: str, *sizes: int | str) -> str:
        parts = [self.constant([s]) if isinstance(s, int) else s for s in sizes]
        return self.add("Reshape", [x, self.add("Concat", parts, axis=0)])

    def linear(self, x: str, inside: int, outside: int) -> str:
        return self.add(
            "Add", [self.weight(outside), self.add("MatMul", [x, self.weight(inside, outside)])]
        )

    def heads(self, x: str) -> str:
        apart = self.reshape(
            self.linear(x, WIDTH, WIDTH),
            self.dimension(x, 0),
            self.dimension(x, 1),
            HEADS,
            WIDTH // HEADS,
        )
        return self.add("Transpose", [apart], perm=[0, 2, 1, 3])

    def attention(self, x: str, mask: str) -> str:
        query, key, value = (self.heads(x) for _ in range(3))
        scores = self.add("MatMul", [query, self.add("Transpose", [key], perm=[0, 1, 3, 2])])
        last = self.add("Gather", [self.add("Shape", [key]), self.constant(-1)], axis=0)
        root = self.add("Sqrt", [self.add("Cast", [last], to=onnx.TensorProto.FLOAT)])
        scores = self.add("Add", [self.add("Div", [scores, root]), mask])
        mixed = self.add("MatMul", [self.add("Softmax", [scores], axis=-1), value])
        joined = self.reshape(
            self.add("Transpose", [mixed], perm=[0, 2, 1, 3]),
            self.dimension(x, 0),
            self.dimension(x, 1),
            WIDTH,
        )
        return self.linear(joined, WIDTH, WIDTH)

    def norm(self, x: str) -> str:
        return self.add("LayerNormalization", [x, self.weight(WIDTH), self.weight(WIDTH)], axis=-1)

    def gelu(self, x: str) -> str:
        tail = self.add("Erf", [self.add("Div", [x, self.constant(np.float32(2**0.5))])])
        half = self.add("Mul", [x, self.add("Add", [tail, self.constant(np.float32(1))])])
        return self.add("Mul", [half, self.constant(np.float32(0.5))])

    def layer(self, x: str, mask: str) -> str:
        x = self.norm(self.add("Add", [x, self.attention(x, mask)]))
        inner = self.gelu(self.linear(x, WIDTH, 2 * WIDTH))
        return self.norm(self.add("Add", [x, self.linear(inner, 2 * WIDTH, WIDTH)]))

    def embedding(self, ids: str) -> str:
        length = self.add("Gather", [self.add("Shape", [ids]), self.constant(1)], axis=0)
        steps = self.add("Range", [self.constant(0), length, self.constant(1)])
        at = self.add("Gather", [self.weight(LONGEST, WIDTH, scale=1.0), steps], axis=0)
        words = self.add("Gather", [self.weight(VOCABULARY, WIDTH, scale=1.0), ids], axis=0)
        return self.norm(self.add("Add", [words, self.add("Unsqueeze", [at, self.constant([0])])]))

    def bias(self, mask: str) -> str:
        """What is added to the scores: nought where the mask is 1, much below where it is 0."""
        wide = self.add("Unsqueeze", [mask, self.constant([1, 2])])
        off = self.add("Sub", [self.constant(np.float32(1)), self.add("Cast", [wide], to=1)])
        return self.add("Mul", [off, self.constant(np.float32(-1e4))])


def transformer(layers: int = 2) -> onnx.ModelProto:
    """An encoder over tokens with an attention mask; batch and sequence length are open."""
    net = Transformer()
    bias = net.bias("mask")
    x = net.embedding("ids")
    for _ in range(layers):
        x = net.layer(x, bias)
    first = net.add("Gather", [x, net.constant(0)], axis=1)
    pooled = net.add(
        "Tanh", [net.add("Gemm", [first, net.weight(WIDTH, WIDTH), net.weight(WIDTH)])]
    )
    net.finish(x, "hidden")
    net.finish(pooled, "pooled")
    open_shape = ["batch", "sequence"]
    return model(
        net.nodes,
        [info("ids", open_shape, "int64"), info("mask", open_shape, "int64")],
        [info("hidden", [*open_shape, WIDTH]), info("pooled", ["batch", WIDTH])],
        net.initialisers,
    )


MICROSOFT = "com.microsoft"


def contributed(*, reshaped: bool) -> onnx.ModelProto:
    """A feed-forward block of fused operators, which ONNX itself knows nothing about.

    `reshaped`: standard operators at the end give the output a type and a shape again.
    """
    net = Transformer()
    x = net.add("Tanh", ["x"])
    x = inner = net.add("FusedMatMul", [x, net.weight(WIDTH, WIDTH)], domain=MICROSOFT, alpha=0.5)
    x = net.add("Gelu", [x], domain=MICROSOFT)
    x = net.add(
        "SkipLayerNormalization",
        [x, inner, net.weight(WIDTH), net.weight(WIDTH)],
        domain=MICROSOFT,
    )
    if reshaped:
        x = net.add("Cast", [x], to=onnx.TensorProto.FLOAT)
        x = net.add("Reshape", [x, net.hold(np.array([1, 3, WIDTH]))])
    net.finish(net.add("Sigmoid", [x]), "y")
    proto = model(
        net.nodes, [info("x", [1, 3, WIDTH])], [info("y", [1, 3, WIDTH])], net.initialisers
    )
    proto.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return proto
