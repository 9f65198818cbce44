"""Operators that ONNX does not know and the runtime does: the runtime is asked for shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from splitbed.engine import observed
from splitbed.errors import EngineError, ModelError
from splitbed.graph import CanonicalModel, canonicalise, cut_points, list_cuts, load
from splitbed.tensor import TensorSpec
from tests import models
from tests.models import info, model, node, random_feed, saved, weights

RUNTIME = "com.microsoft"


def with_runtime_operators(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.opset_import.append(helper.make_opsetid(RUNTIME, 1))
    return proto


def fused() -> onnx.ModelProto:
    """What ONNX Runtime's own fusions leave in a file, with a skip around it and an open batch."""
    return with_runtime_operators(
        model(
            [
                node("FusedMatMul", ["x", "w"], ["f"], domain=RUNTIME, alpha=0.5),
                node("Gelu", ["f"], ["g"], domain=RUNTIME),
                node("Shape", ["g"], ["shape"]),
                node("Reshape", ["g", "shape"], ["r"]),
                node("Add", ["r", "f"], ["s"]),
                node("Tanh", ["s"], ["y"]),
            ],
            [info("x", ["N", 4])],
            [info("y", None)],
            weights(w=np.linspace(-1, 1, 12).reshape(4, 3)),
        )
    )


def quantised() -> onnx.ModelProto:
    """An int8 model in the operator form, whose residual Add is the runtime's own."""
    scale, zero = np.float32(0.02), np.uint8(128)
    return with_runtime_operators(
        model(
            [
                node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
                node(
                    "QLinearMatMul",
                    ["q", "scale", "zero", "w", "scale", "zero", "scale", "zero"],
                    ["m"],
                ),
                node(
                    "QLinearAdd",
                    ["m", "scale", "zero", "q", "scale", "zero", "scale", "zero"],
                    ["a"],
                    domain=RUNTIME,
                ),
                node("DequantizeLinear", ["a", "scale", "zero"], ["d"]),
                node("Softmax", ["d"], ["y"]),
            ],
            [info("x", [1, 4])],
            [info("y", None)],
            weights(
                scale=scale,
                zero=zero,
                w=np.random.default_rng(0).integers(90, 160, (4, 4)).astype(np.uint8),
            ),
        )
    )


def looked_at(proto: onnx.ModelProto, folder: Path) -> CanonicalModel:
    return canonicalise(load(saved(proto, folder / "model.onnx")), None, observed)


@pytest.mark.parametrize("build", [fused, quantised])
def test_every_cut_is_legal_and_exact(build: object, tmp_path: Path) -> None:
    proto = build()  # type: ignore[operator]
    cleaned = looked_at(proto, tmp_path)
    legal = models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])
    assert len(legal) == len(cut_points(cleaned))


def test_without_the_runtime_the_operator_is_named(tmp_path: Path) -> None:
    path = saved(fused(), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"node 'f' is a FusedMatMul of com\.microsoft, whose"):
        canonicalise(load(path))


def test_shape_arithmetic_behind_it_is_folded(tmp_path: Path) -> None:
    cleaned = looked_at(fused(), tmp_path)
    assert "Shape" not in {item.op_type for item in cleaned.proto.graph.node}
    assert cleaned.batch_free
    assert list_cuts(cleaned).macs == 12


def test_runtime_is_asked_once_and_only_where_it_must_be(tmp_path: Path) -> None:
    asked: list[int] = []

    def counting(content: bytes | Path) -> list[TensorSpec]:
        asked.append(1)
        return observed(content)

    canonicalise(load(saved(models.residual(), tmp_path / "plain.onnx")), None, counting)
    canonicalise(load(saved(models.data_dependent(), tmp_path / "data.onnx")), None, counting)
    assert not asked
    canonicalise(load(saved(quantised(), tmp_path / "quantised.onnx")), None, counting)
    assert asked == [1]


def test_operator_that_the_runtime_does_not_know_either_is_named(tmp_path: Path) -> None:
    proto = model(
        [node("Thing", ["x"], ["y"], name="mystery", domain="no.such")],
        [info("x", [1])],
        [info("y", None)],
    )
    proto.opset_import.append(helper.make_opsetid("no.such", 1))
    with pytest.raises(ModelError, match=r"node 'mystery' is a Thing of no\.such"):
        looked_at(proto, tmp_path)
    with pytest.raises(EngineError):
        observed(proto.SerializeToString())


def test_what_is_no_tensor_of_numbers_is_left_out() -> None:
    proto = model(
        [
            node("SplitToSequence", ["x"], ["sequence"], axis=1),
            node("Relu", ["x"], ["r"]),
            node("NonZero", ["x"], ["open"]),
        ],
        [info("x", [1, 4])],
        [onnx.ValueInfoProto(name=name) for name in ("sequence", "r", "open")],
    )
    assert observed(proto.SerializeToString()) == [TensorSpec("r", "float32", (1, 4))]
