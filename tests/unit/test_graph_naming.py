"""What a person writes for a cut, and the cut that it means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from splitbed.errors import CutUnknown
from splitbed.graph import INPUT_CUT, OUTPUT_CUT, CutPoint, cut_points, extract, find_cut
from tests import models
from tests.models import (
    canonical,
    info,
    model,
    node,
    random_feed,
    recombined,
    run,
    weights,
)


def found(proto: onnx.ModelProto, name: str, folder: Path) -> CutPoint:
    cleaned = canonical(proto, folder)
    return find_cut(cleaned, cut_points(cleaned), name, "model 'm'")


def refused(proto: onnx.ModelProto, name: str, folder: Path) -> str:
    with pytest.raises(CutUnknown) as caught:
        found(proto, name, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "cut"),
    [("r", "r"), ("rectify", "r"), ("after:rectify", "r"), ("x", INPUT_CUT), ("y", OUTPUT_CUT)],
)
def test_cut_is_found_by_tensor_by_node_and_by_either_end(
    name: str, cut: str, tmp_path: Path
) -> None:
    assert found(models.data_dependent(), name, tmp_path).name == cut


def named_chain() -> onnx.ModelProto:
    """x -> first -> r -> second -> n -> third -> y."""
    proto = models.chain()
    for item, name in zip(proto.graph.node, ("first", "second", "third"), strict=True):
        item.name = name
    return proto


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("before:first", INPUT_CUT),
        ("after:first", "r"),
        ("before:second", "r"),
        ("before:third", "n"),
        ("after:third", OUTPUT_CUT),
    ],
)
def test_sides_of_a_node(name: str, cut: str, tmp_path: Path) -> None:
    assert found(named_chain(), name, tmp_path).name == cut


def test_second_output_of_a_node_means_the_cut_after_it(tmp_path: Path) -> None:
    point = found(models.splitting(), "q", tmp_path)
    assert point.name == "p"
    assert set(point.tensors) == {"p", "q"}


def test_name_that_cleaning_removed_still_means_its_value(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Identity", ["r"], ["same"], name="rename"),
            node("Neg", ["same"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )
    assert found(proto, "same", tmp_path).name == "r"
    assert found(proto, "after:rename", tmp_path).name == "r"
    assert "node 'rename' of model 'm' is not there after cleaning" in refused(
        proto, "before:rename", tmp_path
    )


def test_node_without_a_name_is_called_after_what_it_makes(tmp_path: Path) -> None:
    assert found(models.chain(), "after:n", tmp_path).name == "n"
    assert found(models.chain(), "before:n", tmp_path).name == "r"


def test_one_of_two_inputs_is_no_cut_and_the_other_is_named(tmp_path: Path) -> None:
    assert "'b' would cross as well" in refused(models.two_ended(), "a", tmp_path)


def test_tensor_listed_twice_is_told(tmp_path: Path) -> None:
    assert "'r' is named twice" in refused(models.chain(), "r,r", tmp_path)


def test_cuts_have_names_of_their_own(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "@a"
    proto.graph.node[1].output[0] = proto.graph.node[2].input[0] = "tensor:@a"
    cleaned = canonical(proto, tmp_path)
    names = [point.name for point in cut_points(cleaned)]
    assert names == [INPUT_CUT, "tensor:@a", "tensor:@a'", OUTPUT_CUT]


def test_tensor_name_comes_before_node_name(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["b"], name="a"),
            node("Neg", ["b"], ["a"], name="b"),
            node("Tanh", ["a"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )
    assert found(proto, "a", tmp_path).tensors == ("a",)
    assert found(proto, "after:a", tmp_path).tensors == ("b",)


def test_name_of_several_nodes_is_refused(tmp_path: Path) -> None:
    proto = named_chain()
    proto.graph.node[1].name = "first"
    assert "2 nodes of model 'm' are called 'first'" in refused(proto, "after:first", tmp_path)


def test_constant_never_crosses(tmp_path: Path) -> None:
    assert "'w' of model 'm' never crosses" in refused(models.residual(), "w", tmp_path)


def test_unknown_cut_suggests_near_names(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "layer1_out"
    sentence = refused(proto, "layer1", tmp_path)
    assert "model 'm' has no cut 'layer1'; near it are layer1_out" in sentence
    assert "lists all 4" in refused(proto, "???", tmp_path)


# ------------------------------------------------------------------------------- lists of tensors


def pyramid() -> onnx.ModelProto:
    """Two heads on two levels; the file's order mixes them, so no position has both levels only."""
    return model(
        [
            node("Relu", ["x"], ["c1"]),
            node("MatMul", ["c1", "w"], ["p1"], name="level1"),
            node("Tanh", ["p1"], ["h1"], name="head1"),
            node("Neg", ["c1"], ["c2"]),
            node("MatMul", ["c2", "w"], ["p2"], name="level2"),
            node("Tanh", ["p2"], ["h2"], name="head2"),
            node("Concat", ["h1", "h2"], ["y"], axis=1),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 8])],
        weights(w=np.linspace(-1, 1, 16).reshape(4, 4)),
    )


def test_listed_tensors_are_a_cut_of_their_own(tmp_path: Path) -> None:
    cleaned = canonical(pyramid(), tmp_path)
    points = cut_points(cleaned)
    assert all(set(point.tensors) != {"p1", "p2"} for point in points)
    point = find_cut(cleaned, points, "p1, p2")
    assert point.name == "p1,p2"
    assert set(point.tensors) == {"p1", "p2"}
    assert find_cut(cleaned, points, "p2,p1") == point
    parts = extract(cleaned, point)
    assert parts.first is not None
    assert {n.op_type for n in onnx.load_from_string(parts.first.content).graph.node} == {
        "Relu",
        "Neg",
        "MatMul",
    }
    feed = random_feed(cleaned)
    np.testing.assert_array_equal(
        recombined(cleaned, point, feed)["y"], run(cleaned.file().content, feed)["y"]
    )


def test_list_that_is_a_position_is_that_cut(tmp_path: Path) -> None:
    assert found(models.diamond(), "left,right", tmp_path).name == "right"
    assert found(models.diamond(), "top,left", tmp_path).name == "left"


def test_incomplete_list_names_what_is_missing(tmp_path: Path) -> None:
    assert "'q' would cross as well" in refused(models.splitting(), "x,p", tmp_path)
    sentence = refused(models.two_ended(), "m,b", tmp_path)
    assert "'early' would cross as well; name every tensor that crosses" in sentence
    assert found(models.two_ended(), "m,b,early", tmp_path).name == "m"


def test_list_with_a_tensor_that_does_not_cross_is_refused(tmp_path: Path) -> None:
    assert "'r' would not cross" in refused(models.chain(), "r,n", tmp_path)


def test_list_with_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    assert "a tensor 'p3' is not there" in refused(pyramid(), "p1,p3", tmp_path)
    assert "near it are early" in refused(models.two_ended(), "m,earl", tmp_path)
    assert "a tensor 'w' is a constant" in refused(pyramid(), "p1,w", tmp_path)


def test_graph_input_may_be_listed(tmp_path: Path) -> None:
    assert set(found(models.residual(), "m,x", tmp_path).tensors) == {"m", "x"}
