"""Random graphs of what test_graph_random leaves out, cut at every legal place.

The batch is an open dimension, so that every target shape is arithmetic on a Shape; values of
several types cross; nodes make several values of which some are read and some are not; If and Loop
capture; a function is called; outputs are inputs, copies of one another and values read further on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from splitbed.graph import CanonicalModel, canonicalise, cut_points, extract, load, verify
from splitbed.graph.reading import reads, writes
from tests import models
from tests.hard_models import subgraph, with_domain
from tests.models import info, model, node, open_part, random_feed, saved, weights

OPEN: list[int | str] = ["N", 4]

PAIR = helper.make_function(
    "own",
    "Pair",
    ["p", "q"],
    ["sum", "difference"],
    [node("Add", ["p", "q"], ["sum"]), node("Sub", ["p", "q"], ["difference"])],
    [helper.make_opsetid("", 17)],
)


class OpenGraph:
    """A graph under construction, all of whose `values` are float32 of shape N x 4."""

    def __init__(self, inputs: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs = [f"in{index}" for index in range(inputs)]
        self.values = list(self.inputs)
        self.initialisers = weights(
            row=[0.5, -0.5, 1.0, -1.0],
            halves=np.array([2, 2]),
            whole=np.array([4]),
            square=np.array([2, 2]),
            nought=np.array(0),
            start=np.array([0]),
            two=np.array(2),
            zero=np.float32(0),
        )
        self._count = 0

    def new(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def add(self, operator: str, reads: list[str], outputs: int = 1, **attributes: object) -> str:
        """A node with this many outputs; the name of the first."""
        names = [self.new(operator.lower()) for _ in range(outputs)]
        made = node(operator, reads, names)
        made.attribute.extend(helper.make_attribute(key, at) for key, at in attributes.items())
        self.nodes.append(made)
        return names[0]

    def other(self, at: int) -> str:
        """Another output of the newest node."""
        return self.nodes[-1].output[at]

    def target(self, like: str, rest: str) -> str:
        """The batch of `like`, then the sizes held by `rest`."""
        size = self.add("Gather", [self.add("Shape", [like]), "nought"], axis=0)
        return self.add("Concat", [self.add("Unsqueeze", [size, "start"]), rest], axis=0)

    def condition(self, a: str) -> str:
        return self.add("Greater", [self.add("ReduceSum", [a], keepdims=0), "zero"])

    # What follows adds one or more values that later operations can read.

    def diamond(self, a: str, b: str) -> None:
        left, right = self.add("Tanh", [a]), self.add("Neg", [a])
        self.values += [self.add("Sub", [left, right]), self.add("Max", [right, b])]

    def squares(self, a: str, b: str) -> None:
        cube = self.add("Reshape", [a, self.target(b, "square")])
        turned = self.add("Transpose", [cube], perm=[0, 2, 1])
        self.values.append(self.add("Reshape", [turned, self.target(a, "whole")]))

    def expand(self, a: str, b: str) -> None:
        mean = self.add("ReduceMean", [a], axes=[0], keepdims=1)
        self.values.append(self.add("Expand", [mean, self.add("Shape", [b])]))

    def halves(self, a: str, b: str) -> None:
        left = self.add("Split", [a, "halves"], 2, axis=1)
        right = self.other(1)
        self.values.append(self.add("Concat", [right, left], axis=1))
        self.values.append(self.add("Concat", [right, self.add("Tanh", [right])], axis=1))

    def largest(self, a: str, b: str) -> None:
        """Integers cross; the values of the TopK are read by nobody, or later."""
        best = self.add("TopK", [a, "whole"], 2, axis=1)
        order = self.other(1)
        self.values += [best, self.add("GatherElements", [b, order], axis=1)]

    def choose(self, a: str, b: str) -> None:
        """Booleans cross."""
        above = self.add("Greater", [a, b])
        self.values.append(self.add("Where", [above, a, self.add("Neg", [b])]))

    def drop(self, a: str, b: str) -> None:
        """A mask that is read, unlike the value beside it."""
        self.add("Dropout", [a], 2)
        self.values.append(self.add("Where", [self.other(1), b, a]))

    def copy(self, a: str, _: str) -> None:
        self.values.append(self.add("Identity", [a]))

    def unread(self, a: str, b: str) -> None:
        self.add("Mul", [a, b])

    def call(self, a: str, b: str) -> None:
        names = [self.new("pair"), self.new("pair")]
        self.nodes.append(node("Pair", [a, b], names, domain="own"))
        self.values.append(names[1])

    def branch(self, a: str, b: str) -> None:
        """An If in an If; the names inside are the same every time."""
        inner = {
            f"{at}_branch": subgraph(at, [node(kind, [b, "row"], ["local"])], [info("local", None)])
            for at, kind in (("then", "Add"), ("else", "Mul"))
        }
        condition, other = self.condition(a), self.condition(b)
        then = subgraph(
            "outer_then",
            [node("If", [other], ["inside"], **inner), node("Add", ["inside", a], ["made"])],  # type: ignore[arg-type]
            [info("made", None)],
        )
        otherwise = subgraph("outer_else", [node("Sub", [a, b], ["made"])], [info("made", None)])
        name = self.new("if")
        self.nodes.append(node("If", [condition], [name], then_branch=then, else_branch=otherwise))
        self.values.append(self.add("Reshape", [name, self.target(a, "whole")]))

    def loop(self, a: str, b: str) -> None:
        body = subgraph(
            "body",
            [
                node("Identity", ["going"], ["on"]),
                node("Mul", ["carried", "row"], ["scaled"]),
                node("Add", ["scaled", b], ["next"]),
            ],
            [info("on", [], "bool"), info("next", None)],
            [info("turn", [], "int64"), info("going", [], "bool"), info("carried", None)],
        )
        name = self.new("loop")
        self.nodes.append(node("Loop", ["two", "", a], [name], body=body))
        self.values.append(self.add("Reshape", [name, self.target(b, "whole")]))

    def counted(self, a: str, b: str) -> None:
        """A shape that depends on the data."""
        where = self.add("NonZero", [self.add("Relu", [a])])
        count = self.add("Cast", [self.add("Shape", [where])], to=TensorProto.FLOAT)
        self.values.append(self.add("Add", [b, self.add("ReduceMax", [count], keepdims=0)]))


OPERATIONS: tuple[Callable[[OpenGraph, str, str], None], ...] = (
    OpenGraph.diamond,
    OpenGraph.squares,
    OpenGraph.expand,
    OpenGraph.halves,
    OpenGraph.largest,
    OpenGraph.choose,
    OpenGraph.drop,
    OpenGraph.copy,
    OpenGraph.unread,
    OpenGraph.call,
    OpenGraph.branch,
    OpenGraph.loop,
    OpenGraph.counted,
)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """A model of up to seven operations and four outputs, inputs among them."""
    graph = OpenGraph(draw(st.integers(1, 3)))
    back = st.integers(0, 6)
    for operation in draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=7)):
        a, b = (graph.values[-1 - min(draw(back), len(graph.values) - 1)] for _ in range(2))
        operation(graph, a, b)
        event(operation.__name__)
    chosen = draw(st.lists(st.sampled_from(graph.values), min_size=1, max_size=4, unique=True))
    proto = model(
        graph.nodes,
        [info(name, OPEN) for name in graph.inputs],
        [info(name, None) for name in chosen],
        graph.initialisers,
    )
    return with_domain(proto, "own", [PAIR])


def bound(proto: onnx.ModelProto, batch: int, folder: str) -> CanonicalModel:
    source = load(saved(proto, Path(folder) / "model.onnx"))
    return canonicalise(source, {value.name: (batch, 4) for value in proto.graph.input})


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(proto=graphs(), batch=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_every_legal_cut_of_any_open_graph_recombines(
    proto: onnx.ModelProto, batch: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cleaned = bound(proto, batch, folder)
        legal = models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned, seed)])
        # All that is left open is what a Loop carries, what an If may choose, and what is counted.
        left_open = {"Loop", "If", "NonZero"}
        maker = {name: item for item in cleaned.proto.graph.node for name in writes(item)}
        for point in cut_points(cleaned):
            assert point.cut is not None or any(
                maker[name].op_type in left_open for name in point.tensors if name in maker
            ), point.why_not
        middle = legal[len(legal) // 2]
        assert verify(cleaned, extract(cleaned, middle), [random_feed(cleaned)], open_part).passed


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(proto=graphs(), batch=st.integers(1, 3))
def test_nothing_is_lost_between_the_parts(proto: onnx.ModelProto, batch: int) -> None:
    """Read from the files alone: what the tail reads, the boundary has, and the head made it."""
    with tempfile.TemporaryDirectory() as folder:
        cleaned = bound(proto, batch, folder)
    dynamic = models.depending_on_input(cleaned)
    given_names = {spec.name for spec in cleaned.inputs}
    for point in cut_points(cleaned):
        if point.cut is None:
            assert point.why_not
            continue
        parts = extract(cleaned, point)
        first, second = (
            onnx.load_from_string(part.content).graph if part else onnx.GraphProto()
            for part in (parts.first, parts.second)
        )
        boundary = {spec.name for spec in parts.cut.boundary}
        assert {value.name for value in first.output} <= boundary
        assert boundary - {value.name for value in first.output} <= given_names
        assert {value.name for value in second.input} <= boundary
        for part in (first, second):
            known = {value.name for value in part.input} | {t.name for t in part.initializer}
            for item in part.node:
                assert known.issuperset(reads(item)), f"{item.name} reads what is not there"
                known.update(writes(item))
            assert known.issuperset(value.name for value in part.output)
            read = {name for item in part.node for name in reads(item)}
            assert {t.name for t in part.initializer} <= read, "a weight that nobody reads"
        twice = {n for i in first.node for n in i.output} & {
            n for i in second.node for n in i.output
        }
        assert not twice & dynamic
