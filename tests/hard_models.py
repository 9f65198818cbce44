"""Small models that are hard to cut for what they hold: subgraphs that capture, functions."""

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


# ------------------------------------------------------------------------------------- control flow


def deep_captures() -> onnx.ModelProto:
    """An If with a Loop with an If inside, which captures a value, an input and two weights."""
    then = subgraph(
        "inner_then",
        [node("Add", ["carried", "outer"], ["a"]), node("Mul", ["a", "w"], ["inner_t"])],
        [info("inner_t", ROW)],
    )
    otherwise = subgraph(
        "inner_else", [node("Sub", ["carried", "late"], ["inner_e"])], [info("inner_e", ROW)]
    )
    body = subgraph(
        "body",
        [
            node("Identity", ["going"], ["on"]),
            node("Mod", ["turn", "two"], ["odd"]),
            node("Cast", ["odd"], ["is_odd"], to=TensorProto.BOOL),
            node("If", ["is_odd"], ["next"], then_branch=then, else_branch=otherwise),
        ],
        [info("on", [], "bool"), info("next", ROW)],
        [info("turn", [], "int64"), info("going", [], "bool"), info("carried", ROW)],
        weights(two=np.array(2)),
    )
    loop = node("Loop", ["turns", "", "outer"], ["looped"], body=body)
    return model(
        [
            node("Tanh", ["x"], ["outer"]),
            *decision(),
            choice(
                subgraph("then", [loop], [info("looped", None)]),
                # Sibling scopes may use one name for different things.
                subgraph(
                    "else",
                    [node("Neg", ["outer"], ["a"]), node("Add", ["a", "late"], ["e"])],
                    [info("e", ROW)],
                ),
            ),
            node("Reshape", ["i", "shape"], ["fixed"]),
            node("Tanh", ["fixed"], ["y"]),
        ],
        [info("x", ROW), info("late", ROW)],
        [info("y", ROW)],
        weights(zero=ZERO, w=[0.5, 1.0, 1.5, 2.0], turns=np.array(3), shape=np.array([1, 4])),
    )


def scanning() -> onnx.ModelProto:
    """A Scan over rows whose body captures a value and a weight; both outputs are used."""
    body = subgraph(
        "body",
        [
            node("Add", ["state", "row"], ["sum"]),
            node("Mul", ["sum", "gain"], ["scaled"]),
            node("Add", ["scaled", "bias"], ["state_out"]),
            node("Neg", ["sum"], ["row_out"]),
        ],
        [info("state_out", [4]), info("row_out", [4])],
        [info("state", [4]), info("row", [4])],
    )
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("ReduceMean", ["r"], ["bias"], axes=[0], keepdims=0),
            node("Tanh", ["r"], ["rows"]),
            node("Scan", ["start", "rows"], ["last", "all"], body=body, num_scan_inputs=1),
            node("Add", ["all", "last"], ["mixed"]),
            node("Tanh", ["mixed"], ["y"]),
        ],
        [info("x", [3, 4])],
        [info("y", None)],
        weights(start=np.zeros(4), gain=[0.5, 0.25, 1.0, 2.0]),
    )


def shadowing_loop() -> onnx.ModelProto:
    """A Loop whose body calls its own input `h`, as a value outside is called."""
    body = subgraph(
        "body",
        [node("Identity", ["going"], ["on"]), node("Tanh", ["h"], ["next"])],
        [info("on", [], "bool"), info("next", ROW)],
        [info("turn", [], "int64"), info("going", [], "bool"), info("h", ROW)],
    )
    return model(
        [
            node("Relu", ["x"], ["h"]),
            node("Neg", ["x"], ["n"]),
            node("Loop", ["turns", "", "n"], ["l"], body=body),
            node("Reshape", ["l", "shape"], ["fixed"]),
            node("Add", ["fixed", "h"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", ROW)],
        weights(turns=np.array(3), shape=np.array([1, 4])),
    )


def shadowed_identity() -> onnx.ModelProto:
    """As `shadowing_loop`, where the value outside is made by an Identity."""
    proto = shadowing_loop()
    proto.graph.node[0].output[0] = "hidden"
    proto.graph.node.insert(1, node("Identity", ["hidden"], ["h"]))
    return proto


def local_before_output() -> onnx.ModelProto:
    """Branches with a local `r`; further down the graph has an `r` too, handed out as `out`."""
    then = subgraph(
        "then", [node("Neg", ["x"], ["r"]), node("Tanh", ["r"], ["t"])], [info("t", ROW)]
    )
    otherwise = subgraph(
        "else", [node("Abs", ["x"], ["r"]), node("Tanh", ["r"], ["e"])], [info("e", ROW)]
    )
    return model(
        [
            *decision(),
            choice(then, otherwise),
            node("Relu", ["i"], ["r"]),
            node("Neg", ["r"], ["y"]),
            node("Identity", ["r"], ["out"]),
        ],
        [info("x", ROW)],
        [info("y", ROW), info("out", ROW)],
        weights(zero=ZERO),
    )


def weight_handed_out() -> onnx.ModelProto:
    """As `shadowing_loop`, where the value outside is a weight and one of the outputs."""
    proto = shadowing_loop()
    del proto.graph.node[0]
    proto.graph.initializer.extend(weights(h=np.full((1, 4), 0.5)))
    proto.graph.output.append(info("h", ROW))
    return proto


def decided_beforehand() -> onnx.ModelProto:
    """An If whose condition is a constant, with a capture and a captured weight."""
    branches = {
        f"{at}_branch": subgraph(at, [node(kind, ["h", "w"], [at])], [info(at, ROW)])
        for at, kind in (("then", "Mul"), ("else", "Add"))
    }
    return model(
        [
            node("Relu", ["x"], ["h"]),
            node("Neg", ["x"], ["n"]),
            node("If", ["yes"], ["i"], **branches),  # type: ignore[arg-type]
            node("Add", ["i", "n"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", ROW)],
        weights(yes=np.array(True), w=[1.0, 2.0, 3.0, 4.0]),
    )


# ---------------------------------------------------------------------------------------- functions


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
    "deep captures": Case(deep_captures, unknown={"i": "'i'"}),
    "scanning": Case(scanning),
    "shadowing loop": Case(shadowing_loop, unknown={"l": "'l'"}),
    "decided beforehand": Case(decided_beforehand),
    "nested functions": Case(nested_functions),
    "functions and branches": Case(functions_and_branches),
}
"""Models that must be exact at every legal cut."""
