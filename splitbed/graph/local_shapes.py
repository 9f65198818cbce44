"""Shapes that become known while a graph is folded, node by node."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TypeProto, helper, numpy_helper, shape_inference

from splitbed.graph.reading import is_onnx, subgraphs, writes
from splitbed.graph.shapes import Specs
from splitbed.tensor import Array


class LocalShapes:
    """What is known of shapes so far.

    Folding a reshape's target makes the shape behind it known, and with it what the next target is
    computed from. To infer the whole graph anew for each would take the square of the chain's
    length: here the nodes whose results are not known yet are inferred one by one.
    """

    def __init__(self, model: onnx.ModelProto, specs: Specs) -> None:
        self._model, self._specs = model, specs
        self._held = {tensor.name: tensor for tensor in model.graph.initializer}
        self._learnt: dict[str, TypeProto] = {}
        self._version = next((o.version for o in model.opset_import if not o.domain), 0)
        self.shapes = {name: spec.shape for name, spec in specs.items()}
        """By value, weights included."""
        self.shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}

    def lacks(self, node: onnx.NodeProto) -> bool:
        """Whether a shape of what the node makes is not known."""
        return not all(name in self.shapes for name in writes(node))

    def learn(self, node: onnx.NodeProto, known: Mapping[str, Array]) -> None:
        """Find the shapes of what a node makes, from its inputs and the `known` ones' values."""
        if not is_onnx(node) or not onnx.defs.has(node.op_type, self._version):
            return
        if any(True for _ in subgraphs(node)):
            return
        types: dict[str, TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for name in filter(None, node.input):
            found = self._type(name, known)
            if found is None:
                return
            types[name] = found
            if name in known:
                data[name] = numpy_helper.from_array(known[name], name)
        try:
            results = shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, self._version),
                node,
                types,
                data,
                opset_imports=list(self._model.opset_import),
                ir_version=self._model.ir_version,
            )
        except Exception:  # whatever it is, inference of the whole graph says it with the node
            return
        for name, result in results.items():
            dims = result.tensor_type.shape.dim
            is_fixed = all(dim.HasField("dim_value") for dim in dims)
            if result.tensor_type.HasField("shape") and is_fixed:
                self._learnt[name] = result
                self.shapes[name] = tuple(dim.dim_value for dim in dims)

    def _type(self, name: str, known: Mapping[str, Array]) -> TypeProto | None:
        if name in self._learnt:
            return self._learnt[name]
        if name in known:
            element = helper.np_dtype_to_tensor_dtype(known[name].dtype)
            return helper.make_tensor_type_proto(element, known[name].shape)
        if name in self._held:
            tensor = self._held[name]
            return helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        if name in self._specs:
            spec = self._specs[name]
            element = helper.np_dtype_to_tensor_dtype(spec.numpy_dtype)
            return helper.make_tensor_type_proto(element, spec.shape)
        return None
