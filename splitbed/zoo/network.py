"""An ONNX graph being written: each call adds a layer and gives the value that it makes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from splitbed.zoo.naming import Naming
from splitbed.zoo.parameters import Norm, Parameters
from splitbed.zoo.weights import Shape, Weights
from splitbed.zoo.window import Padding, Size, pads, pair, slide

OPSET: Final = 17
IR_VERSION: Final = 8


class Value(NamedTuple):
    """A tensor in the graph: its name, and its shape with the batch first."""

    name: str
    shape: Shape

    @property
    def channels(self) -> int:
        """Size of the second axis."""
        return self.shape[1]


class Network:
    """Collects nodes and initialisers in topological order.

    `fold` merges every batch norm into its convolution, as exporters do for inference. Paths are
    module paths; `naming` makes the names of nodes and parameters out of them. A node's tensor is
    called `<node>_output_0`.
    """

    def __init__(self, weights: Weights, naming: Naming, *, batch: int, fold: bool) -> None:
        self.batch = batch
        self._naming = naming
        self._model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="splitbed.zoo")
        self._parameters = Parameters(self._model.graph, weights, naming, fold=fold)
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[Value] = []
        self._outputs: dict[str, Value] = {}
        self._calls: Counter[str] = Counter()

    def input(self, name: str, shape: Shape) -> Value:
        """A float32 input of the graph; `shape` is without the batch."""
        value = Value(name, (self.batch, *shape))
        self._inputs.append(value)
        return value

    def output(self, value: Value, name: str) -> None:
        """Hand `value` out as the graph's next output, under this name."""
        self._outputs[name] = value

    def conv(
        self,
        x: Value,
        path: str,
        channels: int,
        kernel: Size,
        *,
        stride: int = 1,
        padding: Padding = 0,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
        norm: Norm | None = None,
    ) -> Value:
        """A convolution, and the batch norm after it if there is one."""
        sides = pair(kernel)
        depthwise = groups == x.channels > 1
        names = self._parameters.conv(
            path,
            (channels, x.channels // groups, *sides),
            depthwise=depthwise,
            bias=bias,
            norm=norm,
        )
        edges = pads(x.shape[2:], sides, stride, padding, dilation)
        y = self._add(
            self._module(path, "Depthwise" if depthwise else "Conv"),
            "Conv",
            [x.name, *names],
            (self.batch, channels, *slide(x.shape[2:], sides, stride, edges, dilation)),
            dilations=[dilation, dilation],
            group=groups,
            kernel_shape=list(sides),
            pads=edges,
            strides=[stride, stride],
        )
        if norm is None or self._parameters.fold:
            return y
        names = [y.name, *self._parameters.norm(norm, channels)]
        node = self._module(norm.path, "BatchNormalization")
        return self._add(node, "BatchNormalization", names, y.shape, epsilon=norm.epsilon)

    def linear(self, x: Value, path: str, features: int) -> Value:
        """A fully connected layer with bias, on a value of shape (batch, features)."""
        names = [x.name, *self._parameters.linear(path, (features, x.channels))]
        return self._add(
            self._module(path, "Gemm"), "Gemm", names, (self.batch, features), transB=1
        )

    def relu(self, x: Value, path: str, *, function: bool = False) -> Value:
        """max(x, 0); `function` where it is no module of its own but a call inside `path`."""
        return self._add(self._named(path, "Relu", function), "Relu", [x.name], x.shape)

    def relu6(self, x: Value, path: str) -> Value:
        """min(max(x, 0), 6)."""
        ends = [
            self._parameters.constant(name, np.float32(end))
            for name, end in (("zero", 0), ("six", 6))
        ]
        return self._add(self._module(path, "Clip"), "Clip", [x.name, *ends], x.shape)

    def local_norm(self, x: Value, path: str, *, alpha: float, bias: float) -> Value:
        """Local response normalisation over 5 channels with exponent 0.75.

        x / (bias + alpha / 5 * sum of squares)^0.75, as ONNX and Caffe write it.
        """
        node = self._module(path, "LRN")
        return self._add(node, "LRN", [x.name], x.shape, alpha=alpha, beta=0.75, bias=bias, size=5)

    def max_pool(
        self,
        x: Value,
        path: str,
        kernel: int,
        stride: int,
        *,
        padding: int = 0,
        ceil: bool = False,
        function: bool = False,
    ) -> Value:
        """Largest of each window; `ceil` lets the last window hang over the edge."""
        sides = (kernel, kernel)
        edges = pads(x.shape[2:], sides, stride, padding)
        return self._add(
            self._named(path, "MaxPool", function),
            "MaxPool",
            [x.name],
            (*x.shape[:2], *slide(x.shape[2:], sides, stride, edges, ceil=ceil)),
            ceil_mode=int(ceil),
            kernel_shape=list(sides),
            pads=edges,
            strides=[stride, stride],
        )

    def average_pool(self, x: Value, path: str) -> Value:
        """Mean of each 3x3 window, stride 1, the zeros of the padding counted in; no module."""
        node = self._named(path, "AveragePool", True)
        return self._add(
            node,
            "AveragePool",
            [x.name],
            x.shape,
            count_include_pad=1,
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=[1, 1],
        )

    def global_average(self, x: Value, path: str, *, function: bool = False) -> Value:
        """Mean of each channel, as a 1x1 map."""
        node = self._named(path, "GlobalAveragePool", function)
        return self._add(node, "GlobalAveragePool", [x.name], (*x.shape[:2], 1, 1))

    def flatten(self, x: Value, path: str = "") -> Value:
        """All axes but the batch as one."""
        shape = (x.shape[0], math.prod(x.shape[1:]))
        return self._add(self._named(path, "Flatten", True), "Flatten", [x.name], shape, axis=1)

    def add(self, a: Value, b: Value, path: str) -> Value:
        """The sum of two values of the same shape, inside the module `path`."""
        return self._add(self._named(path, "Add", True), "Add", [a.name, b.name], a.shape)

    def concat(self, values: Sequence[Value], path: str, *, axis: int = 1) -> Value:
        """The values side by side along `axis`, inside the module `path`."""
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        names = [value.name for value in values]
        node = self._named(path, "Concat", True)
        return self._add(node, "Concat", names, tuple(shape), axis=axis)

    def reshape(self, x: Value, path: str, shape: Shape) -> Value:
        """The same elements in another shape, which is without the batch; one size may be -1."""
        rest = math.prod(x.shape[1:]) // -math.prod(shape) if -1 in shape else 0
        whole = (self.batch, *(rest if size < 0 else size for size in shape))
        target = self._parameters.constant(
            f"shape_{'x'.join(map(str, whole))}", np.array(whole, np.int64)
        )
        return self._add(self._named(path, "Reshape", True), "Reshape", [x.name, target], whole)

    def transpose(self, x: Value, path: str, order: Sequence[int]) -> Value:
        """The axes in another order."""
        shape = tuple(x.shape[axis] for axis in order)
        node = self._named(path, "Transpose", True)
        return self._add(node, "Transpose", [x.name], shape, perm=list(order))

    def enlarge(self, x: Value, path: str, like: Value) -> Value:
        """Nearest-neighbour upsampling to the height and width of `like`, as PyTorch does it."""
        shape = (*x.shape[:2], *like.shape[2:])
        sizes = self._parameters.constant(
            f"size_{'x'.join(map(str, shape))}", np.array(shape, np.int64)
        )
        return self._add(
            self._named(path, "Resize", True),
            "Resize",
            [x.name, "", "", sizes],
            shape,
            coordinate_transformation_mode="asymmetric",
            mode="nearest",
            nearest_mode="floor",
        )

    def finish(self, name: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The graph as a model."""
        self._parameters.finish()
        public = {value.name: name for name, value in self._outputs.items()}
        graph = self._model.graph
        graph.name = name
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [public.get(value, value) for value in names]
        graph.node.extend(self._nodes)
        graph.input.extend(_info(value.name, value.shape) for value in self._inputs)
        graph.output.extend(_info(output, value.shape) for output, value in self._outputs.items())
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        helper.set_model_props(self._model, dict(metadata))
        return self._model

    def _module(self, path: str, op: str) -> str:
        self._calls[path] += 1
        return self._naming.node(path, op, self._calls[path] - 1)

    def _named(self, path: str, op: str, function: bool) -> str:
        if not function:
            return self._module(path, op)
        key = f"{path}()/{op}"
        self._calls[key] += 1
        return self._naming.function(path, op, self._calls[key] - 1)

    def _add(self, node: str, op: str, inputs: list[str], shape: Shape, **attributes: Any) -> Value:
        output = f"{node}_output_0"
        self._nodes.append(helper.make_node(op, inputs, [output], node, **attributes))
        return Value(output, shape)


def _info(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
