"""What a tail sees of a tensor: proven by running the tail on what it should not tell apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from splitbed.engine import Engine
from splitbed.graph import extract, find_cut, seen_range
from splitbed.graph.cuts import cut_points
from splitbed.runnable import carry
from tests.models import canonical, info, model, node, weights

INF = math.inf


def tails(*nodes: onnx.NodeProto, opset: int = 17, **constants: Any) -> onnx.ModelProto:
    """`x` times two is `cut`; then these nodes, the last of which makes `y`."""
    return model(
        [node("Mul", ["x", "two"], ["cut"]), *nodes],
        [info("x", [1, 2, 6, 6])],
        [info("y", None)],
        weights(two=np.float32(2), **constants),
        opset=opset,
        ir=8 if opset > 10 else 6,
    )


CLIP: dict[str, Any] = {"low": np.float32(-0.5), "high": np.float32(1.5)}
CASES = {
    "relu": (tails(node("Relu", ["cut"], ["y"])), (0, INF)),
    "clip": (tails(node("Clip", ["cut", "low", "high"], ["y"]), **CLIP), (-0.5, 1.5)),
    "clip below": (tails(node("Clip", ["cut", "low"], ["y"]), low=CLIP["low"]), (-0.5, INF)),
    "clip above": (tails(node("Clip", ["cut", "", "high"], ["y"]), high=CLIP["high"]), (-INF, 1.5)),
    "clip of old": (tails(node("Clip", ["cut"], ["y"], min=0.0, max=6.0), opset=9), (0, 6)),
    "hard swish": (tails(node("HardSwish", ["cut"], ["y"])), (-3, INF)),
    "hard sigmoid": (tails(node("HardSigmoid", ["cut"], ["y"], alpha=0.25)), (-2, 2)),
    "after moves": (
        tails(
            node("MaxPool", ["cut"], ["pooled"], kernel_shape=[2, 2]),
            node("Transpose", ["pooled"], ["turned"], perm=[0, 2, 3, 1]),
            node("Relu", ["turned"], ["y"]),
        ),
        (0, INF),
    ),
    "two readers": (
        tails(
            node("Relu", ["cut"], ["a"]),
            node("Clip", ["cut", "low", "high"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
            **CLIP,
        ),
        (-0.5, INF),
    ),
    "a reader that sees all": (
        tails(
            node("Relu", ["cut"], ["a"]),
            node("Sigmoid", ["cut"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
        ),
        (-INF, INF),
    ),
    "both inputs": (tails(node("Mul", ["cut", "cut"], ["y"])), (-INF, INF)),
    "a mean is no move": (
        tails(node("GlobalAveragePool", ["cut"], ["m"]), node("Relu", ["m"], ["y"])),
        (-INF, INF),
    ),
    "a computed end": (
        tails(
            node("ReduceMean", ["cut"], ["end"], keepdims=0),
            node("Clip", ["cut", "end"], ["y"]),
        ),
        (-INF, INF),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_clipped_away_changes_nothing(name: str, tmp_path: Path) -> None:
    proto, wanted = CASES[name]
    found = canonical(proto, tmp_path)
    points = cut_points(found)
    point = find_cut(found, points, "cut", "the model")
    assert seen_range(found, point, "cut") == pytest.approx(wanted)
    tail = extract(found, point).second
    assert tail is not None
    engine = tail.file.opened(Engine)
    values = np.random.default_rng(0).normal(0, 4, (1, 2, 6, 6)).astype(np.float32)
    (plain,), (clipped,) = (
        carry(engine, {"cut": given}, ["y"]).values()
        for given in (values, np.clip(values, *wanted).astype(np.float32))
    )
    np.testing.assert_array_equal(plain, clipped)


def test_an_output_of_the_model_is_seen_whole(tmp_path: Path) -> None:
    proto = tails(node("Relu", ["cut"], ["y"]))
    proto.graph.output.append(info("cut", [1, 2, 6, 6]))
    found = canonical(proto, tmp_path)
    point = find_cut(found, cut_points(found), "cut", "the model")
    assert seen_range(found, point, "cut") == (-INF, INF)
