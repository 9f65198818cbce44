"""Work, parameters and file sizes at every cut, against counting by hand and against the files."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from splitbed.graph import (
    canonicalise,
    cut_points,
    extract,
    find_cut,
    list_cuts,
    operator_costs,
    parameter_count,
)
from splitbed.graph.cost import CostModel
from splitbed.graph.macs import node_macs
from tests import control_flow, hard_models, hard_values, models
from tests.models import canonical, info, model, node, weights

CASES = {
    **{name: hard_models.Case(build) for name, build in models.ALL.items()},
    **control_flow.ALL,
    **hard_models.ALL,
    **hard_values.ALL,
}


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "attributes", "macs"),
    [
        ("Conv", [(1, 3, 8, 8), (16, 3, 3, 3)], (1, 16, 8, 8), {}, 16 * 64 * 27),
        ("Conv", [(2, 8, 9), (8, 1, 3)], (2, 8, 7), {"group": 8}, 2 * 8 * 7 * 3),
        ("ConvTranspose", [(1, 4, 5, 5), (4, 6, 2, 2)], (1, 6, 10, 10), {}, 4 * 25 * 24),
        ("Gemm", [(2, 7), (7, 5)], (2, 5), {}, 70),
        ("Gemm", [(7, 2), (7, 5)], (2, 5), {"transA": 1}, 70),
        ("MatMul", [(2, 3, 4, 5), (5, 6)], (2, 3, 4, 6), {}, 2 * 3 * 4 * 5 * 6),
        ("MatMul", [(5,), (5,)], (), {}, 5),
        ("MatMulInteger", [(2, 5), (5, 6)], (2, 6), {}, 60),
        ("LSTM", [(7, 2, 3), (1, 16, 3), (1, 16, 4)], (7, 1, 2, 4), {}, 7 * 2 * 16 * 7),
        ("GRU", [(7, 2, 3), (2, 12, 3), (2, 12, 4)], (7, 2, 2, 4), {}, 7 * 2 * 2 * 12 * 7),
        ("Einsum", [(2, 3), (3, 4)], (2, 4), {"equation": "ij, jk -> ik"}, 24),
        ("Attention", [(1, 2, 5, 8)] * 3, (1, 2, 5, 8), {}, 2 * 5 * 5 * 16),
        ("Relu", [(1, 3)], (1, 3), {}, 0),
        ("Add", [(1, 3), (1, 3)], (1, 3), {}, 0),
    ],
)
def test_work_of_one_node(
    operator: str,
    inputs: list[tuple[int, ...]],
    output: tuple[int, ...],
    attributes: dict[str, Any],
    macs: int,
) -> None:
    names = [f"i{at}" for at in range(len(inputs))]
    shapes = dict(zip(names, inputs, strict=True)) | {"o": output}
    assert node_macs(node(operator, names, ["o"], **attributes), shapes) == macs


def test_work_of_a_node_with_unknown_shapes_is_not_guessed() -> None:
    assert node_macs(node("MatMul", ["a", "b"], ["c"]), {}) == 0
    assert node_macs(node("Conv", ["a"], ["c"]), {"a": (1, 2, 3)}) == 0


def test_work_of_a_branch_is_that_of_the_larger_one() -> None:
    def branch(width: int) -> onnx.GraphProto:
        return helper.make_graph(
            [node("MatMul", ["x", f"w{width}"], [f"m{width}"])], "b", [], [info(f"m{width}", None)]
        )

    shapes = {"x": (1, 4), "w2": (4, 2), "w9": (4, 9), "m2": (1, 2), "m9": (1, 9)}
    choice = node("If", ["c"], ["y"], then_branch=branch(2), else_branch=branch(9))
    assert node_macs(choice, shapes) == 36


def network() -> onnx.ModelProto:
    """Two layers that share a weight, a scalar, a shape, and a batch normalisation."""
    return model(
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["n"]),
            node("Clip", ["n", "low"], ["c"]),
            node("Reshape", ["c", "shape"], ["r"]),
            node("MatMul", ["r", "w"], ["b"]),
            node("MatMul", ["b", "v"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", None)],
        weights(
            w=np.ones((4, 4)),
            v=np.ones((4, 2)),
            scale=np.ones(4),
            shift=np.ones(4),
            mean=np.ones(4),
            var=np.ones(4),
            low=np.float32(0),
            shape=np.array([1, 4]),
        ),
    )


def test_parameters_are_counted_once_and_without_statistics(tmp_path: Path) -> None:
    cleaned = canonical(network(), tmp_path)
    costs = CostModel(cleaned)
    assert costs.parameters == parameter_count(network()) == 16 + 8 + 4 + 4
    assert costs.parameter_bytes == 4 * costs.parameters
    assert costs.macs == 16 + 16 + 8
    heads = [costs.at(point).head_parameters for point in cut_points(cleaned)]
    assert heads == [0, 16, 24, 24, 24, 24, 32]
    macs = [costs.at(point).head_macs for point in cut_points(cleaned)]
    assert macs == [0, 16, 16, 16, 16, 32, 40]
    rows = {row["operator"]: row for row in operator_costs(cleaned, costs.node_macs)}
    assert rows["MatMul"] == {"operator": "MatMul", "nodes": 3, "parameters": 24, "macs": 40}
    assert sum(row["parameters"] for row in rows.values()) == costs.parameters


@pytest.mark.parametrize("name", CASES)
def test_sizes_are_those_of_the_files_at_every_cut(name: str, tmp_path: Path) -> None:
    cleaned = canonical(CASES[name].build(), tmp_path, CASES[name].shapes)
    listing = list_cuts(cleaned)
    for listed in listing.legal:
        parts = extract(cleaned, listed.point)
        assert listed.cost is not None
        sizes = tuple(len(part.content) if part else 0 for part in (parts.first, parts.second))
        assert (listed.cost.head_file_bytes, listed.cost.tail_file_bytes) == sizes
    heads = [listed.cost for listed in listing.legal if listed.cost is not None]
    for before, after in pairwise(heads):
        assert before.head_macs <= after.head_macs
        assert before.head_parameters <= after.head_parameters
    assert (heads[-1].head_macs, heads[-1].head_parameters) == (listing.macs, listing.parameters)


def test_cost_of_listed_tensors_is_that_of_their_head(tmp_path: Path) -> None:
    proto = model(
        [
            node("MatMul", ["x", "w"], ["p"]),
            node("Tanh", ["p"], ["h"]),
            node("MatMul", ["x", "v"], ["q"]),
            node("Add", ["h", "q"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", None)],
        weights(w=np.ones((4, 4)), v=np.ones((4, 4))),
    )
    cleaned = canonical(proto, tmp_path)
    point = find_cut(cleaned, cut_points(cleaned), "p,q")
    cost = CostModel(cleaned).at(point)
    parts = extract(cleaned, point)
    assert parts.first is not None
    assert parts.second is not None
    assert (cost.head_macs, cost.head_parameters) == (32, 32)
    assert cost.head_file_bytes == len(parts.first.content)
    assert cost.tail_file_bytes == len(parts.second.content)


def test_narrow_weights_are_stored_in_shared_bytes(tmp_path: Path) -> None:
    packed = helper.make_tensor("w", TensorProto.INT4, [5, 3], list(range(-7, 8)))
    proto = model(
        [
            node("DequantizeLinear", ["w", "scale"], ["d"]),
            node("MatMul", ["x", "d"], ["y"]),
        ],
        [info("x", [1, 5])],
        [info("y", None)],
        [packed, *weights(scale=np.float32(0.1))],
        opset=21,
        ir=10,
    )
    cleaned = canonicalise(canonical(proto, tmp_path).source)
    costs = CostModel(cleaned)
    assert costs.parameters == 15
    assert costs.parameter_bytes == math.ceil(15 / 2)


def branches(*widths: int, size: int = 4) -> onnx.ModelProto:
    """An If with a product in each branch; both call what is inside them alike."""
    graphs = [
        helper.make_graph(
            [node("MatMul", ["x", "w"], ["m"]), node("ReduceSum", ["m"], ["t"])],
            "branch",
            [],
            [info("t", None)],
            weights(w=np.ones((size, width))),
        )
        for width in widths
    ]
    return model(
        [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Greater", ["s", "zero"], ["c"]),
            node("If", ["c"], ["i"], then_branch=graphs[0], else_branch=graphs[1]),
            node("Reshape", ["i", "shape"], ["r"]),
            node("Relu", ["r"], ["y"]),
        ],
        [info("x", [1, size])],
        [info("y", None)],
        weights(zero=np.float32(0), shape=np.array([1, 1])),
    )


@pytest.mark.parametrize("widths", [(8, 512), (512, 8)])
def test_what_branches_call_alike_is_not_mixed_up(widths: tuple[int, int], tmp_path: Path) -> None:
    listing = list_cuts(canonical(branches(*widths), tmp_path))
    assert listing.macs == 4 * 512
    # Parameters of both branches, and the threshold of the comparison.
    assert listing.parameters == 4 * 520 + 1


def test_large_weights_inside_a_branch_count_in_the_files(tmp_path: Path) -> None:
    cleaned = canonical(branches(200, 9, size=64), tmp_path)
    for listed in list_cuts(cleaned).legal:
        parts = extract(cleaned, listed.point)
        assert listed.cost is not None
        sizes = tuple(len(part.content) if part else 0 for part in (parts.first, parts.second))
        assert (listed.cost.head_file_bytes, listed.cost.tail_file_bytes) == sizes


def test_biases_of_quantised_layers_are_parameters() -> None:
    proto = model(
        [
            node("DequantizeLinear", ["b", "scale"], ["bias"]),
            node("DequantizeLinear", ["w", "scale"], ["kernel"]),
            node("Conv", ["x", "kernel", "bias"], ["y"]),
        ],
        [info("x", [1, 2, 4, 4])],
        [info("y", None)],
        weights(
            b=np.arange(8, dtype=np.int32),
            w=np.ones((8, 2, 1, 1), np.int8),
            scale=np.float32(0.1),
        ),
    )
    assert parameter_count(proto) == 8 + 16


def test_operator_of_the_same_name_from_elsewhere_is_not_counted() -> None:
    item = node("LSTM", ["x", "w"], ["y"], domain="no.such")
    assert node_macs(item, {"x": (1, 2), "w": (3, 4), "y": (1, 2)}) == 0


def test_listing_of_many_long_lived_values_takes_no_time(tmp_path: Path) -> None:
    count = 1500
    nodes = [node("Relu", ["x"], [f"v{at}"]) for at in range(count)]
    nodes.append(node("Sum", [f"v{at}" for at in range(count)], ["y"]))
    cleaned = canonical(model(nodes, [info("x", [1, 4])], [info("y", None)]), tmp_path)
    start = time.process_time()  # other work on the machine does not count
    assert len(list_cuts(cleaned).legal) == count + 2
    assert time.process_time() - start < 10
