"""Small networks as exporters write them: a CNN of every opset, quantised and recurrent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper

from tests.models import info, model, node, weights


class Network:
    """A model under construction: every call adds a node and names what it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def add(
        self, operator: str, reads: Sequence[str], *, domain: str = "", **attributes: Any
    ) -> str:
        """The name of the new node's first output."""
        name = f"/{operator.lower()}_{len(self.nodes)}/out"
        self.nodes.append(node(operator, reads, [name], domain=domain, **attributes))
        return name

    def constant(self, value: object) -> str:
        """A Constant node of this value, as exporters write shapes and indices."""
        tensor = onnx.numpy_helper.from_array(np.asarray(value))
        return self.add("Constant", [], value=tensor)

    def weight(self, *shape: int, scale: float = 0.5) -> str:
        """A random weight."""
        return self.hold(self._rng.uniform(-scale, scale, shape).astype(np.float32))

    def hold(self, value: ArrayLike) -> str:
        """An initialiser of this value."""
        name = f"w{len(self.initialisers)}"
        self.initialisers.extend(weights(**{name: value}))
        return name

    def finish(self, value: str, output: str) -> None:
        """Let `value` be called `output` from here on."""
        for item in self.nodes:
            for names in (item.input, item.output):
                for index, name in enumerate(names):
                    if name == value:
                        names[index] = output


# -------------------------------------------------------------------------------- one CNN per opset


class Convolutions(Network):
    """The operators of a CNN in the form that an opset has them in."""

    def __init__(self, opset: int) -> None:
        super().__init__()
        self.opset = opset

    def choose(
        self, operator: str, x: str, since: int, key: str, value: Sequence[int], **more: Any
    ) -> str:
        """A node with a list of integers as an input since that opset, before as an attribute."""
        if self.opset >= since:
            return self.add(operator, [x, self.hold(np.array(value))], **more)
        more[key] = list(value)
        return self.add(operator, [x], **more)

    def clip(self, x: str, low: float, high: float) -> str:
        if self.opset >= 11:
            return self.add("Clip", [x, self.hold(np.float32(low)), self.hold(np.float32(high))])
        return self.add("Clip", [x], min=low, max=high)

    def double(self, x: str) -> str:
        scales = [1.0, 1.0, 2.0, 2.0]
        if self.opset < 9:
            return self.add("Upsample", [x], scales=scales, mode="nearest")
        held = self.hold(np.array(scales, np.float32))
        if self.opset == 9:
            return self.add("Upsample", [x, held], mode="nearest")
        if self.opset == 10:
            return self.add("Resize", [x, held], mode="nearest")
        region = "" if self.opset >= 13 else self.hold(np.array([], np.float32))
        return self.add(
            "Resize",
            [x, region, held],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def first_dimension(self, x: str) -> str:
        shape = self.add("Shape", [x])
        if self.opset >= 10:
            ends = [self.hold(np.array([at])) for at in (0, 1)]
            return self.add("Slice", [shape, *ends])
        return self.add("Slice", [shape], starts=[0], ends=[1])


def cnn(opset: int) -> onnx.ModelProto:
    """A convolutional classifier in the forms of this opset; batch, height and width are open."""
    net = Convolutions(opset)
    x = net.add("Conv", ["image", net.weight(4, 3, 3, 3), net.weight(4)], pads=[1, 1, 1, 1])
    held = [net.hold(np.linspace(0.5, 1.5, 4, dtype=np.float32)) for _ in range(4)]
    x = net.add("BatchNormalization", [x, *held], epsilon=1e-3)
    x = skip = net.clip(x, 0.0, 0.75)
    x = net.choose("Pad", x, 11, "pads", [0, 0, 1, 1, 0, 0, 1, 1])
    x = net.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Conv", [x, net.weight(4, 1, 2, 2)], group=4, kernel_shape=[2, 2])
    x = net.add("Dropout", [x, net.hold(np.float32(0.5))] if opset >= 12 else [x])
    x = net.add("Add", [net.double(x), skip])
    pooled = net.add("GlobalAveragePool", [x])
    mean = net.choose("ReduceMean", x, 18, "axes", [2, 3], keepdims=1)
    x = net.add("Concat", [pooled, mean], axis=1)
    x = net.choose("Squeeze", x, 13, "axes", [2, 3])
    x = net.choose("Unsqueeze", x, 13, "axes", [1])
    target = net.add("Concat", [net.first_dimension(x), net.hold(np.array([-1]))], axis=0)
    x = net.add("Reshape", [x, target])
    x = net.add("Gemm", [x, net.weight(8, 5), net.weight(5)])
    net.finish(net.add("Softmax", [x], axis=1), "scores")
    inputs = [info("image", ["N", 3, "H", "W"])]
    ir = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    if ir < 4:
        inputs += [
            helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
            for t in net.initialisers
        ]
    return model(
        net.nodes, inputs, [info("scores", ["N", 5])], net.initialisers, opset=opset, ir=ir
    )


# ---------------------------------------------------------------------------------------- quantised


class Quantised(Network):
    """Nodes on int8 and uint8 values."""

    scale = 0.02

    def integers(self, *shape: int) -> str:
        return self.hold(self._rng.integers(-100, 100, shape).astype(np.int8))

    def point(self, kind: type[np.int8 | np.uint8], scale: float = scale) -> list[str]:
        """Scale and zero point."""
        return [self.hold(np.float32(scale)), self.hold(kind(3 if kind is np.uint8 else 0))]


def qdq() -> onnx.ModelProto:
    """Convolutions between QuantizeLinear and DequantizeLinear, with weights in int8."""
    net = Quantised()
    x = "x"
    for channels in (3, 4):
        pair = net.point(np.uint8)
        x = net.add("DequantizeLinear", [net.add("QuantizeLinear", [x, *pair]), *pair])
        scales = net.hold(np.linspace(0.01, 0.02, 4, dtype=np.float32))
        w = net.add(
            "DequantizeLinear",
            [net.integers(4, channels, 3, 3), scales, net.hold(np.zeros(4, np.int8))],
            axis=0,
        )
        x = net.add("Relu", [net.add("Conv", [x, w], pads=[1, 1, 1, 1])])
    net.finish(net.add("GlobalAveragePool", [x]), "y")
    return model(net.nodes, [info("x", [1, 3, 5, 5])], [info("y", None)], net.initialisers)


def qoperator() -> onnx.ModelProto:
    """QLinearConv and QLinearMatMul: whole stretches run on uint8 values."""
    net = Quantised()
    pair = net.point(np.uint8)
    out = net.point(np.uint8, 0.1)
    x = net.add("QuantizeLinear", ["x", *pair])
    w = [net.integers(4, 3, 3, 3), *net.point(np.int8, 0.01)]
    x = net.add("QLinearConv", [x, *pair, *w, *out], pads=[1, 1, 1, 1])
    x = net.add("MaxPool", [x], kernel_shape=[5, 5])
    x = net.add("Flatten", [x])
    y = net.point(np.uint8, 0.2)
    x = net.add("QLinearMatMul", [x, *out, net.integers(4, 6), *net.point(np.int8, 0.01), *y])
    net.finish(net.add("DequantizeLinear", [x, *y]), "y")
    return model(net.nodes, [info("x", [1, 3, 5, 5])], [info("y", None)], net.initialisers)


def dynamically_quantised() -> onnx.ModelProto:
    """Scale and zero point are computed from the input, so that three tensors cross together."""
    net = Quantised()
    net.nodes.append(node("DynamicQuantizeLinear", ["x"], ["q", "q_scale", "q_zero"]))
    x = net.add(
        "ConvInteger",
        ["q", net.integers(4, 3, 3, 3), "q_zero", net.hold(np.int8(0))],
        pads=[1, 1, 1, 1],
    )
    x = net.add("Cast", [x], to=onnx.TensorProto.FLOAT)
    scale = net.add("Mul", ["q_scale", net.hold(np.float32(0.01))])
    net.finish(net.add("Mul", [x, scale]), "y")
    return model(net.nodes, [info("x", [1, 3, 5, 5])], [info("y", None)], net.initialisers)


# ---------------------------------------------------------------------- optional inputs and outputs


def recurrent() -> onnx.ModelProto:
    """An LSTM without lengths and start, whose middle output alone is read; then a GRU."""
    net = Network()
    hidden = 3
    lstm = node(
        "LSTM",
        ["x", net.weight(1, 4 * hidden, 4), net.weight(1, 4 * hidden, hidden), "", "", "", "cell"],
        ["", "last", ""],
        hidden_size=hidden,
    )
    lstm2 = node(
        "GRU",
        ["x", net.weight(2, 3 * hidden, 4), net.weight(2, 3 * hidden, hidden)],
        ["all", ""],
        hidden_size=hidden,
        direction="bidirectional",
    )
    net.nodes += [node("Tanh", ["start"], ["cell"]), lstm, lstm2]
    x = net.add("Add", [net.add("ReduceMean", ["all"], axes=[0, 1], keepdims=0), "last"])
    net.finish(net.add("Relu", [x]), "y")
    return model(
        net.nodes,
        [info("x", ["T", "N", 4]), info("start", [1, "N", hidden])],
        [info("y", None)],
        net.initialisers,
    )


def leftovers() -> onnx.ModelProto:
    """Optional inputs left out in the middle, optional outputs used and left out."""
    net = Network()
    x = net.add("Clip", ["x", "", net.hold(np.float32(0.5))])
    x = net.add("Resize", [x, "", "", net.hold(np.array([1, 2, 6, 6]))], mode="linear")
    net.nodes.append(node("MaxPool", [x], ["p", "where"], kernel_shape=[2, 2], strides=[2, 2]))
    x = net.add("Tanh", ["p"])
    x = net.add("MaxUnpool", [x, "where"], kernel_shape=[2, 2], strides=[2, 2])
    net.nodes.append(node("Dropout", [x], ["d", "mask"]))
    x = net.add("Where", ["mask", "d", net.hold(np.float32(-1))])
    net.nodes.append(node("TopK", [x, net.hold(np.array([2]))], ["unread", "indices"]))
    net.nodes.append(node("LayerNormalization", [x, net.weight(6)], ["n", "", "deviation"]))
    x = net.add("Add", ["n", "deviation"])
    x = net.add("GatherElements", [x, "indices"], axis=3)
    net.finish(net.add("Neg", [x]), "y")
    return model(net.nodes, [info("x", [1, 2, 3, 3])], [info("y", None)], net.initialisers)


def old_normalisation() -> onnx.ModelProto:
    """Operators as they were in opset 8; a mask that is named and read by nobody."""
    net = Network()
    held = [net.hold(np.linspace(0.5, 1.5, 2, dtype=np.float32)) for _ in range(4)]
    net.nodes.append(node("BatchNormalization", ["x", *held], ["b"], momentum=0.5))
    net.nodes.append(node("Dropout", ["b"], ["d", "mask"], ratio=0.5))
    net.nodes.append(node("MaxPool", ["d"], ["p"], kernel_shape=[2, 2]))
    net.finish(net.add("Softmax", ["p"]), "y")
    return model(
        net.nodes, [info("x", [1, 2, 3, 3])], [info("y", None)], net.initialisers, opset=8, ir=4
    )


def learned() -> onnx.ModelProto:
    """Operators of ai.onnx.ml around a layer of the standard."""
    net = Network()
    x = net.add(
        "Scaler",
        ["x"],
        domain="ai.onnx.ml",
        offset=[0.1, 0.2, 0.3, 0.4],
        scale=[1.0, 2.0, 3.0, 4.0],
    )
    x = net.add("Reshape", [x, net.hold(np.array([3, 4]))])
    x = net.add("Tanh", [x])
    net.nodes.append(
        node(
            "LinearClassifier",
            [x],
            ["label", "score"],
            domain="ai.onnx.ml",
            coefficients=[1.0, -1.0, 0.5, -0.5, 0.2, 0.3, -0.4, 0.1],
            intercepts=[0.0, 0.1],
            classlabels_ints=[0, 1],
            post_transform="SOFTMAX",
        )
    )
    net.finish(net.add("Reshape", ["score", net.hold(np.array([3, 2]))]), "y")
    proto = model(net.nodes, [info("x", [3, 4])], [info("y", None)], net.initialisers)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    return proto
