"""Cleaning a graph changes what is in the file and nothing that it computes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike
from onnx import TensorProto, helper

from splitbed.graph import CanonicalModel, cut_points, find_cut, shapes
from tests import models
from tests.models import canonical, info, model, node, random_feed, run, weights

ROW: list[int | str] = [1, 4]


def assert_same(cleaned: CanonicalModel) -> None:
    feed = random_feed(cleaned)
    wanted = run(cleaned.source.proto.SerializeToString(), feed)
    got = run(cleaned.file().content, feed)
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def operators(cleaned: CanonicalModel) -> list[str]:
    return [item.op_type for item in cleaned.proto.graph.node]


def branch(nodes: list[onnx.NodeProto], made: str, **held: ArrayLike) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [info(made, None)], weights(**held))


# ------------------------------------------------------------------------------- names in subgraphs


def scan(body_reads: str, body_input: str) -> onnx.NodeProto:
    """A Scan over `s`'s rows that adds an outer value; its body names its input as it likes."""
    body = helper.make_graph(
        [node("Add", [body_input, body_reads], ["inner"])],
        "body",
        [info(body_input, [4])],
        [info("inner", None)],
    )
    return node("Scan", ["rows"], ["scanned"], body=body, num_scan_inputs=1)


@pytest.mark.parametrize(
    "nodes",
    [
        [
            node("Identity", ["x"], ["same"]),
            node("Neg", ["x"], ["rows"]),
            scan("same", "x"),
            node("Relu", ["scanned"], ["y"]),
        ],
        [
            node("Neg", ["x"], ["s"]),
            node("Neg", ["x"], ["rows"]),
            scan("s", "o"),
            node("Identity", ["s"], ["o"]),
            node("Add", ["scanned", "o"], ["y"]),
        ],
    ],
    ids=["a value's new name", "an output's name"],
)
def test_body_that_names_its_input_like_an_outer_value(
    nodes: list[onnx.NodeProto], tmp_path: Path
) -> None:
    outputs = [info("y", None)] + [info("o", None)] * any("o" in n.output for n in nodes)
    cleaned = canonical(model(nodes, [info("x", [2, 4])], outputs), tmp_path)
    assert_same(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


def test_output_that_is_a_weight_is_still_read_by_the_others(tmp_path: Path) -> None:
    proto = model(
        [node("Add", ["x", "w"], ["a"]), node("Mul", ["a", "w"], ["y"])],
        [info("x", ROW)],
        [info("y", None), info("w", [4])],
        weights(w=np.arange(4.0)),
    )
    cleaned = canonical(proto, tmp_path)
    assert_same(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


# --------------------------------------------------------------------------------- branches taken


def test_branches_of_a_condition_that_is_a_weight(tmp_path: Path) -> None:
    inner = node(
        "If",
        ["no"],
        ["deep"],
        then_branch=branch([node("Neg", ["x"], ["a"])], "a"),
        else_branch=branch([node("Mul", ["x", "two"], ["b"])], "b", two=np.full(4, 2.0)),
    )
    outer = node(
        "If",
        ["yes"],
        ["u"],
        then_branch=branch([inner, node("Tanh", ["deep"], ["t"])], "t"),
        else_branch=branch([node("Exp", ["x"], ["e"])], "e"),
    )
    proto = model(
        [outer, node("Relu", ["u"], ["y"])],
        [info("x", ROW)],
        [info("y", None)],
        weights(yes=np.array(True), no=np.array(False)),
    )
    cleaned = canonical(proto, tmp_path)
    assert operators(cleaned) == ["Mul", "Tanh", "Relu"]
    assert_same(cleaned)
    assert [point.name for point in cut_points(cleaned)][2] == "u"


def test_two_branches_with_the_same_names_inside(tmp_path: Path) -> None:
    def choice(made: str, name: str, kind: str) -> onnx.NodeProto:
        return node(
            "If",
            ["yes"],
            [made],
            name=name,
            then_branch=branch([node(kind, ["x"], ["t"]), node("Neg", ["t"], ["r"])], "r"),
            else_branch=branch([node("Exp", ["x"], ["e"])], "e"),
        )

    proto = model(
        [choice("a", "z", "Tanh"), choice("z", "", "Relu"), node("Add", ["a", "z"], ["y"])],
        [info("x", ROW)],
        [info("y", None)],
        weights(yes=np.array(True)),
    )
    cleaned = canonical(proto, tmp_path)
    made = [name for item in cleaned.proto.graph.node for name in item.output]
    assert len(made) == len(set(made)) == 5
    assert_same(cleaned)


def test_names_are_followed_through_several_renamings(tmp_path: Path) -> None:
    proto = model(
        [
            node("Neg", ["x"], ["s"]),
            node("Identity", ["s"], ["first"]),
            node("Relu", ["first"], ["r"]),
            node(
                "If",
                ["yes"],
                ["second"],
                then_branch=branch([node("Identity", ["s"], ["t"])], "t"),
                else_branch=branch([node("Exp", ["x"], ["e"])], "e"),
            ),
            node("Identity", ["second"], ["out"]),
            node("Add", ["r", "second"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None), info("out", None)],
        weights(yes=np.array(True)),
    )
    cleaned = canonical(proto, tmp_path)
    assert_same(cleaned)
    points = cut_points(cleaned)
    for name in ("first", "s", "second", "out"):
        assert find_cut(cleaned, points, name).position == 1, name


# ------------------------------------------------------------------------- what only looks constant


def drawn(operator: str, domain: str) -> onnx.ModelProto:
    """A value that an operator of another domain makes of a weight, read on both sides of a cut."""
    proto = model(
        [
            node(operator, ["w"], ["u"], domain=domain),
            node("Add", ["x", "u"], ["a"]),
            node("Neg", ["a"], ["n"]),
            node("Mul", ["n", "u"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", ROW)],
        weights(w=np.ones((1, 4))),
    )
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


def drawn_by_a_function() -> onnx.ModelProto:
    """A function that draws, of older operators, so that it stays a node."""
    proto = drawn("Draw", "own")
    body = [node("RandomNormalLike", ["v"], ["d"])]
    imports = [helper.make_opsetid("", 13)]
    proto.functions.append(helper.make_function("own", "Draw", ["v"], ["d"], body, imports))
    return proto


def drawn_by_a_stranger() -> onnx.ModelProto:
    """An operator that nobody here knows, of which the file states the shape."""
    proto = drawn("Noise", "no.such")
    proto.graph.value_info.append(info("u", ROW))
    return proto


@pytest.mark.parametrize("build", [drawn_by_a_function, drawn_by_a_stranger])
def test_value_that_may_be_drawn_is_made_once_and_sent(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    cleaned = canonical(build(), tmp_path)
    assert "u" not in cleaned.constants
    crossing = {point.name: point.tensors for point in cut_points(cleaned)}
    assert set(crossing["n"]) == {"n", "u"}


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [("Range", [np.float32(0), np.float32(10), np.float32(0.1)]), ("NonZero", [np.float32(3)])],
)
def test_what_runtimes_compute_otherwise_is_not_folded(
    operator: str, inputs: list[np.float32], tmp_path: Path
) -> None:
    names = [f"c{at}" for at in range(len(inputs))]
    proto = model(
        [
            node(operator, names, ["v"]),
            node("Cast", ["v"], ["f"], to=TensorProto.FLOAT),
            node("ReduceSum", ["f"], ["sum"], keepdims=0),
            node("Add", ["x", "sum"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(**dict(zip(names, inputs, strict=True))),
    )
    cleaned = canonical(proto, tmp_path)
    assert operator in operators(cleaned)
    assert_same(cleaned)


def test_folding_never_makes_more_than_its_limit(tmp_path: Path) -> None:
    """Three small shapes that only together are large."""
    nodes, held = [], {}
    for axis in range(3):
        shape = np.ones(3, np.int64)
        shape[axis] = 900
        held[f"s{axis}"] = shape * 2
        nodes += [
            node("Div", [f"s{axis}", "two"], [f"d{axis}"]),
            node("ConstantOfShape", [f"d{axis}"], [f"z{axis}"]),
        ]
    proto = model(
        [
            *nodes,
            node("Max", ["z0", "z1", "z2"], ["large"]),
            node("ReduceSum", ["large"], ["sum"], keepdims=0),
            node("Add", ["x", "sum"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(two=np.array(2), **held),
    )
    tracemalloc.start()
    cleaned = canonical(proto, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    assert "Max" in operators(cleaned)


def test_shape_of_a_weight_is_folded_and_the_weight_goes(tmp_path: Path) -> None:
    proto = model(
        [
            node("Shape", ["w"], ["shape"]),
            node("Reshape", ["x", "shape"], ["r"]),
            node("Neg", ["r"], ["y"]),
        ],
        [info("x", [1, 9000])],
        [info("y", None)],
        weights(w=np.ones((90, 100))),
    )
    cleaned = canonical(proto, tmp_path)
    assert operators(cleaned) == ["Reshape", "Neg"]
    assert "w" not in {tensor.name for tensor in cleaned.proto.graph.initializer}


# ----------------------------------------------------------------------------- outputs nobody reads


def test_batch_normalisation_that_trains_keeps_its_outputs(tmp_path: Path) -> None:
    proto = model(
        [
            node(
                "BatchNormalization",
                ["x", "one", "one", "one", "one"],
                ["b", "mean", "var"],
                training_mode=1,
            ),
            node("Relu", ["b"], ["y"]),
        ],
        [info("x", [3, 4])],
        [info("y", None)],
        weights(one=np.ones(4)),
    )
    assert_same(canonical(proto, tmp_path))


def test_dropout_that_drops_nothing_is_only_a_name(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Dropout", ["r"], ["d"]),
            node("Neg", ["d"], ["n"]),
            node("Add", ["n", "r"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
    )
    cleaned = canonical(proto, tmp_path)
    assert operators(cleaned) == ["Relu", "Neg", "Add"]
    assert find_cut(cleaned, cut_points(cleaned), "d").name == "r"
    assert_same(cleaned)


def test_dropout_whose_mask_is_read_stays(tmp_path: Path) -> None:
    proto = model(
        [
            node("Dropout", ["x"], ["d", "mask"]),
            node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            node("Add", ["d", "m"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
    )
    cleaned = canonical(proto, tmp_path)
    assert operators(cleaned) == ["Dropout", "Cast", "Add"]
    assert_same(cleaned)


def test_long_chains_of_shape_arithmetic_are_folded_in_a_few_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A division hides the target from ONNX's own propagation; each shape needs the one before."""
    nodes, value = [], "x"
    for at in range(60):
        nodes += [
            node("Shape", [value], [f"s{at}"]),
            node("Div", [f"s{at}", "one"], [f"d{at}"]),
            node("Reshape", [value, f"d{at}"], [f"r{at}"]),
            node("MatMul", [f"r{at}", "w"], [f"m{at}"]),
        ]
        value = f"m{at}"
    proto = model(
        nodes,
        [info("x", ROW)],
        [info(value, None)],
        weights(one=np.array([1, 1]), w=np.eye(4)),
    )
    passes: list[int] = []
    whole = shapes._inferred

    def counted(given: onnx.ModelProto) -> onnx.ModelProto:
        passes.append(1)
        return whole(given)

    monkeypatch.setattr(shapes, "_inferred", counted)
    cleaned = canonical(proto, tmp_path)
    assert set(operators(cleaned)) == {"Reshape", "MatMul"}
    assert len(passes) < 10
    monkeypatch.undo()
    assert_same(cleaned)
