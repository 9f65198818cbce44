"""Small models that are hard to cut for their functions, and what all hard models are made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from splitbed.graph import CanonicalModel
from splitbed.tensor import Array
from tests.models import info, model, node, weights

Shapes = Mapping[str, tuple[int, ...]]


class Case(NamedTuple):
    """A model, the shapes to bind, and the cuts that are not legal with a part of the reason.

    `unknown` are cuts that shape inference knows too little about; all others must be legal.
    """

    build: Callable[[], onnx.ModelProto]
    shapes: Shapes | None = None
    illegal: Mapping[str, str] = {}
    unknown: Mapping[str, str] = {}


def any_feed(cleaned: CanonicalModel, seed: int = 0) -> dict[str, Array]:
    """One value for each graph input: small integers, booleans, floats in -1..1."""
    rng = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for spec in cleaned.inputs:
        if spec.is_float:
            drawn = rng.uniform(-1, 1, spec.shape)
            if spec.dtype == "float16":  # few bits, so that sums come out the same in any order
                drawn = np.round(drawn * 8) / 8
        else:
            drawn = rng.integers(0, 2 if spec.dtype == "bool" else 7, spec.shape).astype(np.float64)
        feed[spec.name] = drawn.astype(spec.numpy_dtype)
    return feed


def subgraph(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    initialisers: Sequence[onnx.TensorProto] = (),
) -> onnx.GraphProto:
    """A branch or a body."""
    return helper.make_graph(nodes, name, list(inputs), list(outputs), list(initialisers))


def with_domain(
    proto: onnx.ModelProto, domain: str, functions: Sequence[onnx.FunctionProto] = ()
) -> onnx.ModelProto:
    """The model, which imports one more domain and may define functions in it."""
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    proto.functions.extend(functions)
    return proto


def decision() -> list[onnx.NodeProto]:
    """Nodes that make `above`, the condition of an If: whether the sum of `x` is above `zero`."""
    return [
        node("ReduceSum", ["x"], ["s"], keepdims=0, name="sum"),
        node("Greater", ["s", "zero"], ["above"]),
    ]


def choice(then: onnx.GraphProto, otherwise: onnx.GraphProto) -> onnx.NodeProto:
    """An If named `choice` that makes `i`."""
    return node("If", ["above"], ["i"], "choice", then_branch=then, else_branch=otherwise)


def held(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The initialisers of a model by name."""
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def external(tensor: onnx.TensorProto, file: str, offset: int = 0) -> bytes:
    """Let the tensor's data lie in a file of its own or of several tensors; the data."""
    data = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", offset), ("length", len(data))):
        tensor.external_data.add(key=key, value=str(value))
    return data


ZERO: Final = np.float32(0)
ROW: Final = [1, 4]


def reference(name: str, outer: str, kind: int = onnx.AttributeProto.FLOAT) -> onnx.AttributeProto:
    """An attribute that takes the value of the function's own attribute `outer`."""
    return onnx.AttributeProto(name=name, ref_attr_name=outer, type=kind)  # type: ignore[arg-type]


def nested_functions() -> onnx.ModelProto:
    """A function that calls a function twice and hands an attribute down; another with a default.

    The functions import an older opset than the model.
    """
    imports = [helper.make_opsetid("", 14), helper.make_opsetid("own", 1)]
    leaky = node("LeakyRelu", ["v"], ["w"])
    leaky.attribute.append(reference("alpha", "slope"))
    calls = [
        node("Leaky", ["v"], ["q"], domain="own"),
        node("Leaky", ["q"], ["q2"], domain="own"),
        node("Add", ["q2", "v"], ["w"]),
    ]
    for call in calls[:2]:
        call.attribute.append(reference("slope", "slope"))
    elu = node("Elu", ["v"], ["w"])
    elu.attribute.append(reference("alpha", "alpha"))
    functions = [
        helper.make_function("own", "Leaky", ["v"], ["w"], [leaky], imports, ["slope"]),
        helper.make_function("own", "Twice", ["v"], ["w"], calls, imports, ["slope"]),
        helper.make_function(
            "own",
            "Soft",
            ["v"],
            ["w"],
            [elu],
            imports,
            attribute_protos=[helper.make_attribute("alpha", 0.7)],
        ),
    ]
    return with_domain(
        model(
            [
                node("Tanh", ["x"], ["t"]),
                node("Twice", ["t"], ["f"], domain="own", slope=0.3),
                node("Soft", ["f"], ["g"], domain="own"),
                node("Twice", ["g"], ["k"], domain="own", slope=0.1),
                node("Add", ["k", "t"], ["y"]),
            ],
            [info("x", ROW)],
            [info("y", ROW)],
        ),
        "own",
        functions,
    )


def functions_and_branches() -> onnx.ModelProto:
    """A function with an If that captures, one without inputs, and a branch that calls it."""
    imports = [helper.make_opsetid("", 17)]
    inside = {
        f"{at}_branch": subgraph(at, [node(kind, ["v", "q"], [at])], [info(at, None)])
        for at, kind in (("then", "Mul"), ("else", "Sub"))
    }
    functions = [
        helper.make_function(
            "own",
            "Pick",
            ["v"],
            ["w"],
            [
                node("Relu", ["v"], ["q"]),
                node("ReduceSum", ["v"], ["sum"], keepdims=0),
                node("Sign", ["sum"], ["sign"]),
                node("Relu", ["sign"], ["positive"]),
                node("Cast", ["positive"], ["c"], to=TensorProto.BOOL),
                node("If", ["c"], ["w"], **inside),  # type: ignore[arg-type]
            ],
            imports,
        ),
        helper.make_function(
            "own", "Row", [], ["w"], [node("Constant", [], ["w"], value_floats=[1.0] * 4)], imports
        ),
    ]
    return with_domain(
        model(
            [
                node("Row", [], ["ones"], domain="own"),
                *decision(),
                choice(
                    subgraph("then", [node("Pick", ["x"], ["t"], domain="own")], [info("t", ROW)]),
                    subgraph("else", [node("Add", ["x", "ones"], ["e"])], [info("e", ROW)]),
                ),
                node("Pick", ["i"], ["p"], domain="own"),
                node("Add", ["p", "ones"], ["y"]),
            ],
            [info("x", ROW)],
            [info("y", ROW)],
            weights(zero=ZERO),
        ),
        "own",
        functions,
    )


ALL: Final[dict[str, Case]] = {
    "nested functions": Case(nested_functions),
    "functions and branches": Case(functions_and_branches),
}
"""Models that must be exact at every legal cut."""
