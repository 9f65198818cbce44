"""Random graphs, cut at every legal place: the parts are always the uncut model.

Every value is a float32 tensor of one shape, so that any node can read any earlier value; what a
node does inside (splitting, reshaping, branching, folding) is where the graphs differ.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import helper

from splitbed.graph import canonicalise, cut_points, extract, load
from splitbed.graph.reading import reads
from tests import models
from tests.models import info, model, node, random_feed, saved, weights

SHAPE = (2, 4)
BIG = (70, 70)
"""More elements than are ever folded."""


class RandomGraph:
    """A graph under construction. `values` can be read; each operation adds to them."""

    def __init__(self, inputs: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs = [f"in{index}" for index in range(inputs)]
        self.values = list(self.inputs)
        self.aliases: set[str] = set()
        """Made by Identity: not offered as outputs (see test_graph_canonical, two identities)."""
        self.initialisers = weights(
            small=np.linspace(-1, 1, 8).reshape(SHAPE),
            big=np.linspace(-1, 1, BIG[0] * BIG[1]).reshape(BIG),
            sizes=np.array([1, 2, 1]),
            zero=np.array(0),
            axes=np.array([0]),
            rest=np.array([-1]),
        )

    def new(self, kind: str) -> str:
        return f"{kind}{sum(len(item.output) for item in self.nodes)}"

    def add(self, operator: str, reads: list[str], **attributes: object) -> str:
        name = self.new(operator.lower())
        made = node(operator, reads, [name])
        made.attribute.extend(helper.make_attribute(key, at) for key, at in attributes.items())
        self.nodes.append(made)
        return name

    def unary(self, a: str, _: str) -> str:
        return self.add("Tanh", [a])

    def binary(self, a: str, b: str) -> str:
        return self.add("Sub", [a, b])

    def largest(self, a: str, b: str) -> str:
        return self.add("Max", [a, b, "small"])

    def identity(self, a: str, _: str) -> str:
        name = self.add("Identity", [a])
        self.aliases.add(name)
        return name

    def constant(self, a: str, _: str) -> str:
        value = helper.make_tensor("", onnx.TensorProto.FLOAT, SHAPE, [0.5] * 8)
        return self.add("Add", [a, self.add("Constant", [], value=value)])

    def small_constants(self, a: str, _: str) -> str:
        """A subgraph of constants that is folded."""
        return self.add("Mul", [a, self.add("Neg", [self.add("Identity", ["small"])])])

    def big_constants(self, a: str, _: str) -> str:
        """A subgraph of constants that is not; every graph has one value of it at most."""
        if not any("bias" in item.output for item in self.nodes):
            self.nodes.append(node("Neg", ["big"], ["big_negated"]))
            self.nodes.append(node("ReduceMax", ["big_negated"], ["bias"], keepdims=0))
        return self.add("Add", [a, "bias"])

    def split(self, a: str, b: str) -> str:
        """Three outputs, of which one is read by nobody."""
        one, unread, other = (self.new(f"split{at}_") for at in "abc")
        self.nodes.append(node("Split", [a, "sizes"], [one, unread, other], axis=1))
        middle = self.add("ReduceMean", [b], axes=[1], keepdims=1)
        return self.add("Concat", [other, middle, one, middle], axis=1)

    def reshape(self, a: str, b: str) -> str:
        """Through another shape and back, by arithmetic on the shape of a third value."""
        first = self.add("Gather", [self.add("Shape", [b]), "zero"], axis=0)
        target = self.add("Concat", [self.add("Unsqueeze", [first, "axes"]), "rest"], axis=0)
        flat = self.add("Flatten", [a], axis=0)
        return self.add("Reshape", [flat, target])

    def branch(self, a: str, b: str) -> str:
        """An If that captures both values and a weight."""
        branches = {}
        for at, inner in (("then_branch", "Add"), ("else_branch", "Mul")):
            made = self.new(at)
            nodes = [node(inner, [b, "small"], [f"{made}_s"]), node("Neg", [f"{made}_s"], [made])]
            branches[at] = helper.make_graph(nodes, at, [], [info(made, SHAPE)])
        total = self.add("ReduceSum", [a], keepdims=0)
        condition = self.add("Cast", [self.add("Relu", [total])], to=onnx.TensorProto.BOOL)
        return self.add("If", [condition], **branches)

    def illegal(self, a: str, b: str) -> str:
        """Values whose shape depends on the data, so that some cuts are not legal."""
        where = self.add("Transpose", [self.add("NonZero", [self.add("Relu", [a])])])
        return self.add(
            "Add", [b, self.add("ReduceSum", [self.add("GatherND", [a, where])], keepdims=0)]
        )


OPERATIONS = (
    RandomGraph.unary,
    RandomGraph.binary,
    RandomGraph.largest,
    RandomGraph.identity,
    RandomGraph.constant,
    RandomGraph.small_constants,
    RandomGraph.big_constants,
    RandomGraph.split,
    RandomGraph.reshape,
    RandomGraph.branch,
    RandomGraph.illegal,
)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """A model of up to nine operations; later values are read more often than early ones."""
    graph = RandomGraph(draw(st.integers(1, 3)))
    back = st.integers(0, 5)
    for operation in draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=9)):
        a, b = (graph.values[-1 - min(draw(back), len(graph.values) - 1)] for _ in range(2))
        graph.values.append(operation(graph, a, b))
        event(operation.__name__)
    made = [v for v in graph.values[len(graph.inputs) :] if v not in graph.aliases]
    if not made:
        made = [graph.add("Neg", [graph.values[-1]])]
    chosen = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return model(
        graph.nodes,
        [info(name, SHAPE) for name in graph.inputs],
        [info(name, None) for name in chosen],
        graph.initialisers,
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(proto=graphs(), seed=st.integers(0, 2**32 - 1))
def test_every_legal_cut_of_any_graph_recombines(proto: onnx.ModelProto, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = saved(proto, Path(folder) / "model.onnx")
        cleaned = canonicalise(load(path))
        models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned, seed)])
        again = canonicalise(load(path))
    points = cut_points(cleaned)
    assert points == cut_points(again)
    legal = [point for point in points if point.cut is not None]
    assert [extract(cleaned, point) for point in legal] == [
        extract(again, point) for point in legal
    ]
    event(f"{len(legal) == len(points)=}")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(proto=graphs())
def test_boundary_is_what_a_naive_search_finds(proto: onnx.ModelProto) -> None:
    """Liveness in one pass against the definition: made or given above, needed below."""
    with tempfile.TemporaryDirectory() as folder:
        cleaned = canonicalise(load(saved(proto, Path(folder) / "model.onnx")))
    graph = cleaned.proto.graph
    dynamic = models.depending_on_input(cleaned)
    outputs = {value.name for value in graph.output}
    order = [n for n in graph.node if (dynamic | outputs).intersection(n.output)]
    for point in cut_points(cleaned):
        upstream, downstream = order[: point.position], order[point.position :]
        above = {value.name for value in graph.input}.union(*(n.output for n in upstream))
        below = outputs.union(*(reads(n) for n in downstream))
        below -= {name for n in downstream for name in n.output}
        assert set(point.tensors) == above & below
        assert len(set(point.tensors)) == len(point.tensors)
