"""Small models that are hard to cut for their If, Loop and Scan nodes: captures and local names."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from tests.hard_models import ROW, ZERO, Case, choice, decision, subgraph
from tests.models import info, model, node, weights


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


def searching() -> onnx.ModelProto:
    """A Loop without a number of turns, whose body ends it by a captured value of the data."""
    body = subgraph(
        "body",
        [node("Less", ["turn", "limit"], ["on"]), node("Tanh", ["carried"], ["next"])],
        [info("on", [], "bool"), info("next", ROW)],
        [info("turn", [], "int64"), info("going", [], "bool"), info("carried", ROW)],
    )
    return model(
        [
            node("Abs", ["x"], ["a"]),
            node("ReduceSum", ["a"], ["s"], keepdims=0),
            node("Cast", ["s"], ["limit"], to=TensorProto.INT64),
            node("Neg", ["x"], ["n"]),
            node("Loop", ["", "yes", "n"], ["l"], body=body),
            node("Reshape", ["l", "shape"], ["fixed"]),
            node("Tanh", ["fixed"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", ROW)],
        weights(yes=np.array(True), shape=np.array([1, 4])),
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


ALL: Final[dict[str, Case]] = {
    "deep captures": Case(deep_captures, unknown={"i": "'i'"}),
    "scanning": Case(scanning),
    "searching": Case(searching, unknown={"l": "'l'"}),
    "shadowing loop": Case(shadowing_loop, unknown={"l": "'l'"}),
    "decided beforehand": Case(decided_beforehand),
}
"""Models that must be exact at every legal cut."""
