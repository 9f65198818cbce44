"""A batch that the file left open stays open in the parts, where every value follows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from splitbed.graph import cut_points, extract
from splitbed.runnable import carry
from tests import models
from tests.models import canonical, info, model, node, open_part, weights

ROW: list[int | str] = ["N", 4]


def flow(*nodes: onnx.NodeProto, **arrays: object) -> onnx.ModelProto:
    return model(
        list(nodes),
        [info("x", ROW)],
        [info("y", None)],
        weights(**arrays),  # type: ignore[arg-type]
    )


FREE = {
    "shape arithmetic": model(
        [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "zero"], ["n"]),
            node("Reshape", ["n", "one"], ["n1"]),
            node("Concat", ["n1", "rest"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["r"]),
            node("Neg", ["r"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(zero=np.array(0), one=np.array([1]), rest=np.array([2, -1])),
    ),
    "products": flow(
        node("MatMul", ["x", "w"], ["m"]),
        node("Relu", ["m"], ["r"]),
        node("Add", ["r", "x"], ["y"]),
        w=np.ones((4, 4)),
    ),
    "flattened": flow(
        node("Unsqueeze", ["x", "axes"], ["u"]),
        node("Flatten", ["u"], ["y"]),
        axes=np.array([2]),
    ),
    "reshaped by what is open": flow(
        node("Reshape", ["x", "shape"], ["r"]),
        node("Neg", ["r"], ["y"]),
        shape=np.array([-1, 2, 2]),
    ),
}
BOUND = {
    "reshaped to a size": flow(
        node("Reshape", ["x", "shape"], ["r"]), node("Neg", ["r"], ["y"]), shape=np.array([1, 4])
    ),
    "turned round": flow(node("Transpose", ["x"], ["t"]), node("Neg", ["t"], ["y"])),
    "summed up": flow(node("ReduceSum", ["x", "axes"], ["y"], keepdims=1), axes=np.array([0])),
    "as many as the batch": flow(
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Cast", ["n"], ["f"], to=1),
        node("Mul", ["x", "f"], ["y"]),
        zero=np.array(0),
    ),
    "a weight for each of the batch": flow(
        node("Shape", ["x"], ["shape"]),
        node("Expand", ["one", "shape"], ["ones"]),
        node("Add", ["x", "ones"], ["y"]),
        one=np.ones((1, 1)),
    ),
    "a branch for one": flow(
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Equal", ["n", "single"], ["alone"]),
        node(
            "If",
            ["alone"],
            ["y"],
            then_branch=helper.make_graph([node("Neg", ["x"], ["t"])], "t", [], [info("t", None)]),
            else_branch=helper.make_graph([node("Exp", ["x"], ["e"])], "e", [], [info("e", None)]),
        ),
        zero=np.array(0),
        single=np.array(1),
    ),
}


@pytest.mark.parametrize("name", FREE)
def test_parts_take_any_batch(name: str, tmp_path: Path) -> None:
    cleaned = canonical(FREE[name], tmp_path)
    assert cleaned.batch_free
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    whole = open_part(cleaned.file().content)
    for point in cut_points(cleaned):
        parts = extract(cleaned, point)
        first, second = (open_part(p.content) if p else None for p in (parts.first, parts.second))
        boundary = [spec.name for spec in parts.cut.boundary]
        together = carry(second, carry(first, {"x": rows}, boundary), ["y"])["y"]
        alone = [whole.run({"x": rows[at : at + 1]})[0] for at in range(3)]
        np.testing.assert_array_equal(together, np.concatenate(alone))
        assert parts.cut.boundary[0].shape[0] == 1


@pytest.mark.parametrize("name", BOUND)
def test_batch_that_a_value_does_not_follow_is_bound(name: str, tmp_path: Path) -> None:
    cleaned = canonical(BOUND[name], tmp_path)
    assert not cleaned.batch_free
    for point in cut_points(cleaned):
        for part in (extract(cleaned, point).first, extract(cleaned, point).second):
            if part is not None:
                for value in onnx.load_from_string(part.content).graph.input:
                    dims = value.type.tensor_type.shape.dim
                    assert all(dim.HasField("dim_value") for dim in dims)


def test_batch_that_the_file_fixes_stays_fixed(tmp_path: Path) -> None:
    assert not canonical(models.residual(), tmp_path).batch_free
