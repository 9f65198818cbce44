"""Small ONNX models that several tests cut, and what it takes to run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from splitbed.engine import Engine
from splitbed.errors import ModelError
from splitbed.graph import CanonicalModel, CutPoint, canonicalise, cut_points, extract, load
from splitbed.graph.reading import reads, writes
from splitbed.runnable import carry
from splitbed.tensor import Array

node: Final = helper.make_node

TOLERANCE: Final = 1e-6


def info(
    name: str, shape: Sequence[int | str] | None, dtype: str = "float32"
) -> onnx.ValueInfoProto:
    """A graph input or output; strings in the shape are open dimensions, None is no shape."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, element, shape)


def weights(**arrays: ArrayLike) -> list[onnx.TensorProto]:
    """Initialisers by name; bare floating-point numbers become float32."""
    made = []
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        made.append(numpy_helper.from_array(array, name))
    return made


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initialisers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    ir: int = 8,
) -> onnx.ModelProto:
    """A model of these parts, unchecked: tests also want broken ones."""
    graph = helper.make_graph(
        list(nodes), "test", list(inputs), list(outputs), initializer=list(initialisers)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    """The path, with the model written to it."""
    path.write_bytes(proto.SerializeToString())
    return path


def canonical(
    proto: onnx.ModelProto, folder: Path, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> CanonicalModel:
    """The model, written to a file, loaded and canonicalised."""
    return canonicalise(load(saved(proto, folder / "model.onnx")), shapes)


def refusal(
    proto: onnx.ModelProto, folder: Path, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> str:
    """The one sentence with which a model is refused; it names the file."""
    with pytest.raises(ModelError) as caught:
        canonical(proto, folder, shapes)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(folder / "model.onnx") in sentence
    return sentence


def open_part(content: bytes | Path) -> Engine:
    """ONNX Runtime on the CPU with one thread: what `verify` is handed."""
    return Engine(content, provider="cpu", threads=1)


def random_feed(cleaned: CanonicalModel, seed: int = 0) -> dict[str, Array]:
    """One value for each graph input, uniform in -1..1."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.uniform(-1, 1, spec.shape).astype(spec.numpy_dtype)
        for spec in cleaned.inputs
    }


def run(content: bytes, feed: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs of a model file, by name."""
    engine = open_part(content)
    outputs = engine.run({name: feed[name] for name in engine.inputs})
    return dict(zip(engine.outputs, outputs, strict=True))


def chain() -> onnx.ModelProto:
    """x -> r -> n -> y, one tensor at every cut."""
    return model(
        [node("Relu", ["x"], ["r"]), node("Neg", ["r"], ["n"]), node("Tanh", ["n"], ["y"])],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )


def diamond() -> onnx.ModelProto:
    """Two branches from one value that meet again."""
    return model(
        [
            node("Relu", ["x"], ["top"]),
            node("Neg", ["top"], ["left"]),
            node("Tanh", ["top"], ["right"]),
            node("Add", ["left", "right"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )


def residual() -> onnx.ModelProto:
    """A skip connection over two nodes, from the graph's input itself."""
    return model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Relu", ["m"], ["r"]),
            node("Add", ["r", "x"], ["s"]),
            node("Tanh", ["s"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
        weights(w=np.linspace(-1, 1, 16).reshape(4, 4)),
    )


def two_ended() -> onnx.ModelProto:
    """Two inputs, one of them read only by the last node; two outputs, one finished early."""
    return model(
        [
            node("Relu", ["a"], ["early"]),
            node("Neg", ["early"], ["m"]),
            node("Tanh", ["m"], ["t"]),
            node("Mul", ["t", "b"], ["late"]),
        ],
        [info("a", [1, 4]), info("b", [1, 4])],
        [info("late", [1, 4]), info("early", [1, 4])],
    )


def splitting() -> onnx.ModelProto:
    """Split with three outputs, of which one is read by nobody."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("Split", ["r", "sizes"], ["p", "unread", "q"], axis=1),
            node("Concat", ["q", "p"], ["c"], axis=1),
            node("Neg", ["c"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", None)],
        weights(sizes=np.array([1, 2, 1])),
    )


def branching() -> onnx.ModelProto:
    """An If whose branches capture an outer value, a weight and a graph input.

    No node but the If reads what its branches capture, the graph input `late` included.
    """
    then = helper.make_graph(
        [node("Mul", ["captured", "w"], ["then_y"])], "then", [], [info("then_y", [1, 4])]
    )
    otherwise = helper.make_graph(
        [node("Sub", ["captured", "late"], ["else_y"])], "else", [], [info("else_y", [1, 4])]
    )
    return model(
        [
            node("Neg", ["x"], ["captured"]),
            node("Relu", ["x"], ["r"]),
            node("ReduceSum", ["r"], ["s"], keepdims=0),
            node("Greater", ["s", "limit"], ["above"]),
            node("If", ["above"], ["i"], then_branch=then, else_branch=otherwise),
            node("Tanh", ["i"], ["y"]),
        ],
        [info("x", [1, 4]), info("late", [1, 4])],
        [info("y", [1, 4])],
        weights(w=[1.0, 2.0, 3.0, 4.0], limit=np.float32(1.0)),
    )


def nested() -> onnx.ModelProto:
    """A Loop whose body holds an If that captures a value from outside the Loop."""
    then = helper.make_graph(
        [node("Add", ["carried", "outer"], ["then_y"])], "then", [], [info("then_y", [1, 4])]
    )
    otherwise = helper.make_graph(
        [node("Neg", ["carried"], ["else_y"])], "else", [], [info("else_y", [1, 4])]
    )
    body = helper.make_graph(
        [
            node("Identity", ["going"], ["on"]),
            node("Greater", ["turn", "one"], ["late"]),
            node("If", ["late"], ["next"], then_branch=then, else_branch=otherwise),
        ],
        "body",
        [info("turn", [], "int64"), info("going", [], "bool"), info("carried", [1, 4])],
        [info("on", [], "bool"), info("next", [1, 4])],
    )
    return model(
        [
            node("Relu", ["x"], ["outer"]),
            node("Neg", ["x"], ["n"]),
            # What a Loop carries may change its shape, so no cut is legal before the Reshape.
            node("Loop", ["turns", "", "n"], ["l"], body=body),
            node("Reshape", ["l", "shape"], ["fixed"]),
            node("Tanh", ["fixed"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
        weights(turns=np.array(4), one=np.array(1), shape=np.array([1, 4])),
    )


def with_function() -> onnx.ModelProto:
    """A node that is a function of the model's own."""
    own = helper.make_function(
        "own",
        "NegatedRelu",
        ["v"],
        ["w"],
        [node("Relu", ["v"], ["u"]), node("Neg", ["u"], ["w"])],
        [helper.make_opsetid("", 17)],
    )
    proto = model(
        [
            node("Tanh", ["x"], ["t"]),
            node("NegatedRelu", ["t"], ["f"], domain="own"),
            node("Exp", ["f"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )
    proto.functions.append(own)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return proto


def shared_constants() -> onnx.ModelProto:
    """A value computed from a large weight alone, read on both sides of most cuts."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("Neg", ["big"], ["negated"]),
            node("ReduceMean", ["negated"], ["bias"], keepdims=0),
            node("Add", ["r", "bias"], ["first"]),
            node("Tanh", ["first"], ["t"]),
            node("Add", ["t", "bias"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
        weights(big=np.arange(8192.0).reshape(64, 128) / 8192),
    )


def shape_arithmetic() -> onnx.ModelProto:
    """An exporter's flatten: the target shape is put together from Shape, Gather and Concat."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("Shape", ["r"], ["shape"]),
            node("Gather", ["shape", "zero"], ["batch"], axis=0),
            node("Unsqueeze", ["batch", "axes"], ["batch1"]),
            node("Concat", ["batch1", "rest"], ["target"], axis=0),
            node("Reshape", ["r", "target"], ["flat"]),
            node("Neg", ["flat"], ["y"]),
        ],
        [info("x", ["N", 2, 3])],
        [info("y", None)],
        weights(zero=np.array(0), axes=np.array([0]), rest=np.array([-1])),
    )


def data_dependent() -> onnx.ModelProto:
    """Values whose shape depends on the data between a fixed input and a fixed output."""
    return model(
        [
            node("Relu", ["x"], ["r"], name="rectify"),
            node("NonZero", ["r"], ["where"], name="find"),
            node("Transpose", ["where"], ["rows"]),
            node("GatherND", ["r", "rows"], ["values"]),
            node("ReduceSum", ["values"], ["y"], keepdims=0),
        ],
        [info("x", [1, 4])],
        [info("y", None)],
    )


ALL: Final[dict[str, Callable[[], onnx.ModelProto]]] = {
    build.__name__: build
    for build in (
        chain,
        diamond,
        residual,
        two_ended,
        splitting,
        branching,
        nested,
        with_function,
        shared_constants,
        shape_arithmetic,
        data_dependent,
    )
}
"""Every model above by its name."""


def recombined(
    cleaned: CanonicalModel, point: CutPoint, feed: Mapping[str, Array]
) -> dict[str, Array]:
    """Outputs of head then tail, where the tail gets the boundary and nothing else."""
    parts = extract(cleaned, point)
    first = open_part(parts.first.content) if parts.first else None
    second = open_part(parts.second.content) if parts.second else None
    boundary = carry(first, feed, [spec.name for spec in parts.cut.boundary])
    for spec in parts.cut.boundary:
        assert spec.matches(boundary[spec.name]), f"{spec} is not what crosses at {point.name}"
    return carry(second, boundary, [spec.name for spec in cleaned.outputs])


def depending_on_input(cleaned: CanonicalModel) -> set[str]:
    """Every value of the canonical graph that an input reaches."""
    reached = {value.name for value in cleaned.proto.graph.input}
    for item in cleaned.proto.graph.node:
        if reached.intersection(reads(item)):
            reached.update(writes(item))
    return reached


def assert_exact_at_every_cut(
    cleaned: CanonicalModel, feeds: Sequence[Mapping[str, Array]]
) -> list[CutPoint]:
    """Hold every property that a cut has, at each legal one; those cuts.

    Against the source file as well as the canonical model: cleaning must change nothing either.
    """
    original = cleaned.source.proto.SerializeToString()
    expected = [run(original, feed) for feed in feeds]
    points = cut_points(cleaned)
    assert len({point.name for point in points}) == len(points), "two cuts of one name"
    dynamic = depending_on_input(cleaned)
    finished = {value.name for value in cleaned.proto.graph.output}
    whole = [tuple(writes(item)) for item in cleaned.proto.graph.node]
    legal = [point for point in points if point.cut is not None]
    for point in legal:
        parts = extract(cleaned, point)
        made: list[list[tuple[str, ...]]] = []
        for part in (parts.first, parts.second):
            graph = onnx.load_from_string(part.content).graph if part else onnx.GraphProto()
            made.append([tuple(writes(item)) for item in graph.node])
        twice = {name for names in set(made[0]) & set(made[1]) for name in names}
        assert not twice & dynamic, f"{sorted(twice & dynamic)} made twice at {point.name}"
        assert set(made[0] + made[1]) == set(whole), f"not the same nodes at {point.name}"
        needed = set(finished)
        if parts.second is not None:
            needed |= {spec.name for spec in parts.second.partition.inputs}
        crossing = {spec.name for spec in parts.cut.boundary}
        assert crossing <= needed, f"{sorted(crossing - needed)} cross in vain at {point.name}"
        for feed, wanted in zip(feeds, expected, strict=True):
            got = recombined(cleaned, point, feed)
            assert list(got) == [spec.name for spec in cleaned.outputs]
            for name, array in wanted.items():
                assert np.isfinite(array).all(), f"the test's own {name} is not finite"
                assert got[name].dtype == array.dtype
                np.testing.assert_allclose(
                    got[name].astype(np.float64),
                    array.astype(np.float64),
                    rtol=TOLERANCE,
                    atol=TOLERANCE,
                    err_msg=f"{name} at {point.name}",
                )
    return legal
