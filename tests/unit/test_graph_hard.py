"""Models that are hard to cut: every legal cut is exact, and every other one says why."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from splitbed.errors import CutUnknown, EngineError
from splitbed.graph import (
    INPUT_CUT,
    OUTPUT_CUT,
    CanonicalModel,
    CutPoint,
    Parts,
    canonicalise,
    cut_points,
    extract,
    find_cut,
    load,
    verify,
)
from splitbed.tensor import DType
from tests import control_flow, exports, hard_models, hard_values, models, networks, transformers
from tests.hard_models import ROW, Case, any_feed, choice, decision, held, subgraph
from tests.models import canonical, info, model, node, open_part, refusal, run, saved, weights

CASES = {
    **hard_models.ALL,
    **control_flow.ALL,
    **hard_values.ALL,
    "quantised and back": Case(networks.qdq),
    "quantised operators": Case(networks.qoperator),
    "quantised by the input": Case(networks.dynamically_quantised),
    "recurrent": Case(networks.recurrent, {"x": (5, 2, 4), "start": (1, 2, 3)}),
    "left out": Case(networks.leftovers),
    "old normalisation": Case(networks.old_normalisation),
    "grid": Case(exports.grid, {"x": (2, 3, 4, 5)}),
    "flattening function": Case(lambda: exports.flattening(product=False), {"x": (2, 2, 3)}),
    "ai.onnx.ml": Case(
        networks.learned,
        unknown={
            "/scaler_0/out": "'/scaler_0/out'",
            "/reshape_1/out": "'/reshape_1/out'",
            "/tanh_2/out": "'/tanh_2/out'",
            "score": "'score'",
        },
    ),
    "contributed operators": Case(
        lambda: transformers.contributed(reshaped=True),
        unknown={
            "/fusedmatmul_1/out": "'/fusedmatmul_1/out'",
            "/gelu_2/out": "'/gelu_2/out'",
            "/skiplayernormalization_3/out": "'/skiplayernormalization_3/out'",
            "/cast_4/out": "'/cast_4/out'",
        },
    ),
}
SEEDS = range(3)


def feeds(cleaned: CanonicalModel) -> list[dict[str, Any]]:
    return [any_feed(cleaned, seed) for seed in SEEDS]


def by_name(cleaned: CanonicalModel) -> dict[str, CutPoint]:
    return {point.name: point for point in cut_points(cleaned)}


def parts_at(cleaned: CanonicalModel, name: str) -> Parts:
    return extract(cleaned, find_cut(cleaned, cut_points(cleaned), name))


def graphs_at(cleaned: CanonicalModel, name: str) -> tuple[onnx.GraphProto, onnx.GraphProto]:
    """Head and tail, where there are both."""
    parts = parts_at(cleaned, name)
    assert parts.first is not None
    assert parts.second is not None
    first, second = (onnx.load_from_string(p.content) for p in (parts.first, parts.second))
    return first.graph, second.graph


def makers(graph: onnx.GraphProto) -> list[str]:
    return [name for item in graph.node for name in item.output]


# ------------------------------------------------------------------------------- exact at every cut


@pytest.mark.parametrize("name", CASES)
def test_every_legal_cut_is_exact_and_every_other_says_why(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    cleaned = canonical(case.build(), tmp_path, case.shapes)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    points = by_name(cleaned)
    refused = {key: point.why_not for key, point in points.items() if point.cut is None}
    assert case.illegal.keys() <= refused.keys() <= {*case.illegal, *case.unknown}
    for key, why in {**case.illegal, **case.unknown}.items():
        assert key in points
        if key in refused:
            assert why in refused[key]
            with pytest.raises(CutUnknown, match=f"cannot be cut at '{key}': "):
                find_cut(cleaned, list(points.values()), key)


@pytest.mark.parametrize("name", CASES)
def test_verify_passes_in_the_middle(name: str, tmp_path: Path) -> None:
    cleaned = canonical(CASES[name].build(), tmp_path, CASES[name].shapes)
    legal = [point for point in cut_points(cleaned) if point.cut is not None]
    found = verify(cleaned, extract(cleaned, legal[len(legal) // 2]), feeds(cleaned), open_part)
    assert (found.inputs, found.same_top1) == (len(SEEDS), len(SEEDS))


OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)


@pytest.mark.parametrize("opset", OPSETS)
def test_cnn_of_every_opset(opset: int, tmp_path: Path) -> None:
    cleaned = canonical(networks.cnn(opset), tmp_path, {"image": (2, 3, 6, 8)})
    points = cut_points(cleaned)
    assert [spec.name for spec in cleaned.inputs] == ["image"]
    assert cleaned.outputs[0].shape == (2, 5)
    assert all(point.cut is not None for point in points)
    assert not {"Shape", "Slice", "Constant"} & {n.op_type for n in cleaned.proto.graph.node}
    for point in points:
        for part in (extract(cleaned, point).first, extract(cleaned, point).second):
            if part is not None:
                onnx.checker.check_model(onnx.load_from_string(part.content), full_check=True)
    try:
        open_part(cleaned.source.proto.SerializeToString())
    except EngineError as error:
        pytest.skip(f"opset {opset} is listed and extracted, not run: {str(error)[-160:]}")
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned)[:1])


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (2, 5)])
def test_transformer_as_exported(batch: int, sequence: int, tmp_path: Path) -> None:
    shape = (batch, sequence)
    cleaned = canonical(transformers.transformer(), tmp_path, {"ids": shape, "mask": shape})
    assert [spec.shape for spec in cleaned.outputs] == [(*shape, 8), (batch, 8)]
    left = {item.op_type for item in cleaned.proto.graph.node}
    assert not left & {"Shape", "Range", "Constant", "Concat", "Sqrt"}, "shape arithmetic is left"
    points = by_name(cleaned)
    assert all(point.cut is not None for point in points.values())
    # The mask's bias is read by both layers: it crosses every cut until the second is done.
    bias = next(n.output[0] for n in cleaned.proto.graph.node if n.op_type == "Mul")
    last_add = [n for n in cleaned.proto.graph.node if bias in n.input][-1].output[0]
    between = [p for p in points.values() if points[bias].position < p.position]
    assert all((bias in p.tensors) == (p.position < points[last_add].position) for p in between)
    some = [point for index, point in enumerate(points.values()) if index % 5 == 0]
    feed = any_feed(cleaned)
    whole = run(cleaned.file().content, feed)
    for point in some:
        got = models.recombined(cleaned, point, feed)
        for name, array in whole.items():
            np.testing.assert_allclose(
                got[name].astype(float), array.astype(float), rtol=1e-5, atol=1e-5
            )
    if batch == 1:
        models.assert_exact_at_every_cut(cleaned, [feed])


def test_shapes_of_a_grid_are_folded(tmp_path: Path) -> None:
    cleaned = canonical(exports.grid(), tmp_path, {"x": (1, 3, 6, 2)})
    kinds = [item.op_type for item in cleaned.proto.graph.node]
    assert kinds == ["Relu", "Add", "Resize", "Tanh"]
    assert cleaned.outputs[0].shape == (1, 3, 12, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_if_on_a_known_size_is_the_branch_taken(channels: int, tmp_path: Path) -> None:
    cleaned = canonical(exports.squeeze(), tmp_path, {"x": (2, channels, 4)})
    assert cleaned.outputs[0].shape == ((2, 2) if channels == 1 else (2, channels, 2))
    legal = models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    assert {"r", "t2"} <= {point.name for point in legal}


def test_shape_arithmetic_in_a_function_is_folded(tmp_path: Path) -> None:
    cleaned = canonical(exports.flattening(product=True), tmp_path, {"x": (2, 2, 3)})
    assert cleaned.outputs[0].shape == (12,)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


def test_one_model_bound_to_two_shapes_is_two_models(tmp_path: Path) -> None:
    path = saved(networks.cnn(17), tmp_path / "model.onnx")
    small, wide = (canonicalise(load(path), {"": (1, 3, 6, size)}) for size in (6, 10))
    assert small.id.digest != wide.id.digest
    names = [point.name for point in cut_points(small)]
    assert names == [point.name for point in cut_points(wide)]
    for one, other in zip(cut_points(small)[1:5], cut_points(wide)[1:5], strict=True):
        assert one.cut is not None
        assert other.cut is not None
        assert one.cut.nbytes < other.cut.nbytes


# ------------------------------------------------------------------- inputs, outputs and boundaries


def many_ended() -> onnx.ModelProto:
    """Outputs that are an input, consumed inside, and made beside another by one node."""
    return model(
        [
            node("Tanh", ["a"], ["early"]),
            node("Split", ["early", "sizes"], ["left", "right"], axis=1),
            node("Add", ["left", "left"], ["doubled"]),
            node("Mul", ["doubled", "right"], ["m"]),
            node("Sub", ["m", "b"], ["late"]),
        ],
        [info("a", [1, 4]), info("b", [1, 2]), info("untouched", [3])],
        [info(name, None) for name in ("late", "untouched", "early", "right")],
        weights(sizes=np.array([2, 2])),
    )


def test_outputs_cross_every_cut_after_they_are_made(tmp_path: Path) -> None:
    cleaned = canonical(many_ended(), tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    points = by_name(cleaned)
    assert points[INPUT_CUT].tensors == ("a", "b", "untouched")
    assert set(points["early"].tensors) == {"b", "untouched", "early"}
    assert set(points["doubled"].tensors) == {"b", "untouched", "early", "right", "doubled"}
    assert set(points["m"].tensors) == {"b", "untouched", "early", "right", "m"}
    assert points[OUTPUT_CUT].tensors == ("late", "untouched", "early", "right")


def test_value_read_many_times_crosses_once(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Add", ["r", "r"], ["a"]),
            node("Concat", ["a", "r", "a", "r"], ["y"], axis=0),
        ],
        [info("x", ROW)],
        [info("y", None)],
    )
    cleaned = canonical(proto, tmp_path)
    assert by_name(cleaned)["a"].tensors == ("r", "a")
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


def test_model_without_inputs(tmp_path: Path) -> None:
    proto = model(
        [node("MatMul", ["w", "w"], ["m"]), node("Tanh", ["m"], ["t"]), node("Neg", ["t"], ["y"])],
        [],
        [info("t", None), info("y", None)],
        weights(w=np.eye(70)),
    )
    cleaned = canonical(proto, tmp_path)
    assert by_name(cleaned)[INPUT_CUT].tensors == ()
    models.assert_exact_at_every_cut(cleaned, [{}])


def test_batch_of_nought_crosses_as_nothing(tmp_path: Path) -> None:
    proto = model(
        [node("Relu", ["x"], ["r"]), node("Neg", ["r"], ["y"])],
        [info("x", ["N", 4])],
        [info("y", None)],
    )
    cleaned = canonical(proto, tmp_path, {"x": (0, 4)})
    assert by_name(cleaned)["r"].cut.nbytes == 0  # type: ignore[union-attr]
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


def twins() -> onnx.ModelProto:
    """Two inputs whose first dimension is the same one by name."""
    return model(
        [node("Add", ["a", "b"], ["s"]), node("Tanh", ["s"], ["y"])],
        [info("a", ["N", 4]), info("b", ["N", 4])],
        [info("y", None)],
    )


def test_dimension_named_alike_is_bound_alike(tmp_path: Path) -> None:
    cleaned = canonical(twins(), tmp_path, {"a": (2, 4)})
    assert [spec.shape for spec in cleaned.inputs] == [(2, 4), (2, 4)]


def test_dimension_named_alike_takes_one_size_only(tmp_path: Path) -> None:
    sentence = refusal(twins(), tmp_path, {"a": (2, 4), "b": (1, 4)})
    assert "'N'" in sentence or "'b'" in sentence


def test_weight_of_ir_3_is_nothing_to_bind(tmp_path: Path) -> None:
    assert "has no input 'w0' to bind; it has image" in refusal(
        networks.cnn(7), tmp_path, {"image": (1, 3, 6, 6), "w0": (4, 3, 3, 3)}
    )


def test_output_that_is_a_weight_when_the_obvious_new_name_is_taken(tmp_path: Path) -> None:
    proto = model(
        [node("Relu", ["x"], ["w.weight"]), node("Add", ["w.weight", "w"], ["y"])],
        [info("x", ROW)],
        [info("y", ROW), info("w", ROW)],
        weights(w=np.ones((1, 4))),
    )
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


# ----------------------------------------------------------------------------------------- captures


def test_captures_from_two_deep_are_in_the_boundary(tmp_path: Path) -> None:
    cleaned = canonical(control_flow.deep_captures(), tmp_path)
    points = by_name(cleaned)
    assert set(points["s"].tensors) == {"late", "outer", "s"}
    assert set(points["above"].tensors) == {"late", "outer", "above"}
    # What is captured comes with the If, and with nothing else.
    first, second = graphs_at(cleaned, "above")
    assert {tensor.name for tensor in first.initializer} == {"zero"}
    assert {tensor.name for tensor in second.initializer} == {"w", "turns", "shape"}
    assert {value.name for value in second.input} == {"late", "outer", "above"}
    signs = {bool(any_feed(cleaned, seed)["x"].sum() > 0) for seed in SEEDS}
    assert signs == {True, False}, "both branches are to be taken"


def test_capture_of_a_scan_crosses_and_its_local_names_do_not(tmp_path: Path) -> None:
    cleaned = canonical(control_flow.scanning(), tmp_path)
    points = by_name(cleaned)
    assert set(points["rows"].tensors) == {"bias", "rows"}
    assert set(points["last"].tensors) == {"last", "all"}
    _, second = graphs_at(cleaned, "rows")
    assert {tensor.name for tensor in second.initializer} == {"start", "gain"}


def test_identity_whose_name_a_body_uses_for_its_input(tmp_path: Path) -> None:
    cleaned = canonical(control_flow.shadowed_identity(), tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


def test_output_that_is_a_weight_whose_name_a_body_uses_for_its_input(tmp_path: Path) -> None:
    cleaned = canonical(control_flow.weight_handed_out(), tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


def test_output_whose_source_a_branch_has_a_local_namesake_of(tmp_path: Path) -> None:
    cleaned = canonical(control_flow.local_before_output(), tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


def test_constants_inside_and_outside_of_a_branch(tmp_path: Path) -> None:
    proto = model(
        [
            node("Constant", [], ["outside"], value_floats=[1.0, 2.0, 3.0, 4.0]),
            *decision(),
            choice(
                subgraph(
                    "then",
                    [
                        node("Constant", [], ["inside"], value_float=0.5),
                        node("Mul", ["outside", "inside"], ["scaled"]),
                        node("Mul", ["x", "scaled"], ["t"]),
                    ],
                    [info("t", ROW)],
                ),
                subgraph(
                    "else",
                    [node("Add", ["x", "own"], ["e"])],
                    [info("e", ROW)],
                    initialisers=weights(own=[4.0, 3.0, 2.0, 1.0]),
                ),
            ),
            node("Tanh", ["i"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", ROW)],
        weights(zero=np.float32(0)),
    )
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    first, second = graphs_at(cleaned, "above")
    assert "outside" not in held(onnx.ModelProto(graph=first))
    assert "outside" in held(onnx.ModelProto(graph=second))
    assert by_name(cleaned)["above"].tensors == ("x", "above")


# ----------------------------------------------------------------------------- values that are sent


def test_shape_that_depends_on_the_data_is_sent_along(tmp_path: Path) -> None:
    cleaned = canonical(hard_values.counted(), tmp_path)
    point = by_name(cleaned)["size"]
    assert point.cut is not None
    assert [str(spec) for spec in point.cut.boundary] == ["r float32[1x4]", "size int64[2]"]
    _, second = graphs_at(cleaned, "size")
    assert not {"NonZero", "Shape"} & {item.op_type for item in second.node}


RANDOM = hard_values.random_nodes()


@pytest.mark.parametrize("how", RANDOM)
def test_random_value_is_drawn_in_one_part_and_sent(how: str, tmp_path: Path) -> None:
    cleaned = canonical(RANDOM[how], tmp_path)
    assert "u" in makers(cleaned.proto.graph), "frozen"
    for point in cut_points(cleaned):
        parts = extract(cleaned, point)
        files = [part.content for part in (parts.first, parts.second) if part is not None]
        drawn = sum("u" in makers(onnx.load_from_string(file).graph) for file in files)
        assert drawn == 1, f"drawn {drawn} times at {point.name}"
    assert set(by_name(cleaned)["n"].tensors) == {"x", "u", "n"}


# ---------------------------------------------------------------------------------------- constants


@pytest.mark.parametrize(
    "attribute",
    [
        {"value_int": 3},
        {"value_ints": [3, 1, 4, 1]},
        {"value": helper.make_tensor("", TensorProto.INT64, [1, 4], [3, 1, 4, 1])},
        {"value": helper.make_tensor("", TensorProto.INT64, [0], [])},
    ],
    ids=["value_int", "value_ints", "value", "empty value"],
)
def test_integer_constants_of_every_kind(attribute: dict[str, Any], tmp_path: Path) -> None:
    proto = model(
        [
            node("Constant", [], ["c"], **attribute),
            node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
            node("ReduceSum", ["f"], ["sum"], keepdims=0),
            node("Tanh", ["x"], ["t"]),
            node("Add", ["t", "sum"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
    )
    cleaned = canonical(proto, tmp_path)
    assert [item.op_type for item in cleaned.proto.graph.node] == ["Tanh", "Add"]
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


@pytest.mark.parametrize(
    "attribute",
    [
        {"value_string": "0"},
        {"value_strings": ["0", "1", "ä/ö ü", ""]},
        {"value": numpy_helper.from_array(np.array([["0"]], object))},
    ],
    ids=["value_string", "value_strings", "value"],
)
def test_string_constants_of_every_kind(attribute: dict[str, Any], tmp_path: Path) -> None:
    proto = model(
        [
            node("Constant", [], ["c"], **attribute),
            node("Floor", ["x"], ["whole"]),
            node("Cast", ["whole"], ["number"], to=TensorProto.INT64),
            node("Cast", ["number"], ["word"], to=TensorProto.STRING),
            node("Equal", ["word", "c"], ["same"]),
            node("Cast", ["same"], ["y"], to=TensorProto.FLOAT),
        ],
        [info("x", ROW)],
        [info("y", None)],
        opset=19,
    )
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    assert "'word' has elements of type" in by_name(cleaned)["word"].why_not


def test_sparse_constant_with_noughts(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("", TensorProto.FLOAT, [2], [1.5, -2.5]),
        helper.make_tensor("", TensorProto.INT64, [2], [1, 3]),
        [4],
    )
    proto = model(
        [
            node("Constant", [], ["c"], sparse_value=sparse),
            node("Add", ["x", "c"], ["a"]),
            node("Mul", ["a", "c"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
    )
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    assert by_name(cleaned)["a"].tensors == ("a",)


@pytest.mark.parametrize("elements", [4, 5000])
def test_filled_constants_never_cross(elements: int, tmp_path: Path) -> None:
    filling = helper.make_tensor("", TensorProto.FLOAT, [1], [2.0])
    proto = model(
        [
            node("Tanh", ["x"], ["t"]),
            node("Shape", ["t"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["twos"], value=filling),
            node("Mul", ["t", "twos"], ["a"]),
            node("Sub", ["twos", "a"], ["y"]),
        ],
        [info("x", ["N", elements])],
        [info("y", None)],
    )
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    assert by_name(cleaned)["a"].tensors == ("a",)


SHARP = np.array([[[0.0, 3.0], [1.0, -2.0]], [[4.0, 0.5], [2.0, 2.5]]], np.float32)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "opset"),
    [
        # ONNX's reference has the Softmax of opset 13 alone, and another Resize than the runtime.
        (name, [SHARP], {}, opset)
        for name in ("Softmax", "LogSoftmax", "Hardmax")
        for opset in (7, 11, 12, 13)
    ]
    + [
        (
            "Resize",
            [SHARP, "", np.array([1, 1.5, 1.7], np.float32)],
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            17,
        ),
        ("Div", [np.array([-7, 7, -7, 7]), np.array([2, 2, -2, -2])], {}, 17),
        ("Mod", [np.array([-7, 7, -7, 7]), np.array([3, 3, -3, -3])], {}, 17),
        ("Mod", [np.array([-7, 7, -7, 7]), np.array([3, 3, -3, -3])], {"fmod": 1}, 17),
        ("Round", [np.array([0.5, 1.5, 2.5, -0.5], np.float32)], {}, 17),
        ("Cast", [np.array([-1.7, 1.7, 300.0], np.float32)], {"to": TensorProto.INT64}, 17),
        ("Slice", [SHARP, *(np.array([v]) for v in (-1, -9, 0, -1))], {}, 17),
        ("Split", [SHARP], {"axis": 2}, 11),
        ("TopK", [np.array([1, 3, 3, 2], np.float32), np.array([3])], {}, 17),
        ("CumSum", [SHARP, np.array(1)], {"exclusive": 1, "reverse": 1}, 17),
        ("OneHot", [np.array([0, -1, 9]), np.array(4), np.array([0.0, 1.0], np.float32)], {}, 17),
        ("Clip", [SHARP, "", np.float32(1)], {}, 17),
        ("Squeeze", [SHARP[:, :1]], {"axes": [1]}, 11),
        ("Unsqueeze", [SHARP], {"axes": [0, 2]}, 11),
        ("ReduceSum", [SHARP], {"noop_with_empty_axes": 1}, 13),
        ("Gather", [SHARP, np.array([-1, 0])], {"axis": 1}, 17),
        ("Range", [np.array(5), np.array(0), np.array(-2)], {}, 17),
        ("Pad", [SHARP, np.array([1, 0, -1, 0, 1, 0])], {}, 17),
        ("Trilu", [SHARP, np.array(1)], {"upper": 0}, 17),
    ],
)
def test_folding_computes_what_the_runtime_computes(
    operator: str, inputs: list[Any], attributes: dict[str, Any], opset: int, tmp_path: Path
) -> None:
    names = [
        f"c{at}" if isinstance(value, np.ndarray | np.generic) else ""
        for at, value in enumerate(inputs)
    ]
    constants = {name: value for name, value in zip(names, inputs, strict=True) if name}
    outputs = ["v", "second"] if operator in ("TopK", "Split") else ["v"]
    proto = model(
        [
            node(operator, names, outputs, **attributes),
            node("Cast", ["v"], ["f"], to=TensorProto.FLOAT),
            node("Add", ["f", "x"], ["y"]),
        ],
        [info("x", [1])],
        [info("y", None)],
        weights(**constants),
        opset=opset,
    )
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned)[:1])


def test_folding_allocates_nothing_large(tmp_path: Path) -> None:
    # Inference does not follow Max, so the size of `e` is not known when `target` is folded.
    proto = model(
        [
            node("Max", ["rows", "columns"], ["target"]),
            node("Expand", ["one", "target"], ["e"]),
            node("ReduceSum", ["e"], ["sum"], keepdims=0),
            node("Add", ["x", "sum"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(rows=np.array([3000, 1]), columns=np.array([1, 3000]), one=np.float32(1)),
    )
    source = load(saved(proto, tmp_path / "model.onnx"))
    tracemalloc.start()
    cleaned = canonicalise(source)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cleaned.outputs[0].shape == (1, 4)
    assert peak_bytes < 10e6


# ------------------------------------------------------------- sequences and optionals as constants


def test_sequence_that_starts_empty(tmp_path: Path) -> None:
    cleaned = canonical(hard_values.empty_sequence(), tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    points = by_name(cleaned)
    assert "'one' is no tensor" in points["one"].why_not
    assert "'two' is no tensor" in points["two"].why_not


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3)])
def test_sequence_of_constants(sizes: tuple[int, int], tmp_path: Path) -> None:
    cleaned = canonical(hard_values.constant_sequence(sizes), tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


def test_optional_that_holds_nothing(tmp_path: Path) -> None:
    cleaned = canonical(hard_values.empty_optional(), tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))


# ---------------------------------------------------------------------- narrow and quantised values


NARROW = [
    kind
    for kind in (
        "INT4",
        "UINT4",
        "INT2",
        "UINT2",
        "FLOAT8E4M3FN",
        "FLOAT8E4M3FNUZ",
        "FLOAT8E5M2",
        "FLOAT8E5M2FNUZ",
        "FLOAT4E2M1",
    )
    if kind in TensorProto.DataType.keys()  # noqa: SIM118  (an enum wrapper, no mapping)
]


def test_every_type_that_can_cross_does(tmp_path: Path) -> None:
    kinds = get_args(DType)
    names = ["x", *kinds, "y"]
    targets = [*(np.dtype(kind) for kind in kinds), np.dtype(np.float32)]
    casts = [
        node("Cast", [before], [after], to=helper.np_dtype_to_tensor_dtype(target))
        for (before, after), target in zip(pairwise(names), targets, strict=True)
    ]
    proto = model(casts, [info("x", ROW, "int8")], [info("y", None)])
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    points = by_name(cleaned)
    for kind in kinds:
        assert str(points[kind].cut.boundary[0]) == f"{kind} {kind}[1x4]"  # type: ignore[union-attr]


@pytest.mark.parametrize("held_by", ["initialiser", "Constant"])
@pytest.mark.parametrize("kind", NARROW)
def test_narrow_types_are_listed_and_extracted(kind: str, held_by: str, tmp_path: Path) -> None:
    proto = hard_values.through(TensorProto.DataType.Value(kind))
    before = numpy_helper.to_array(held(proto)["w"])
    if held_by == "Constant":
        proto.graph.node.insert(0, node("Constant", [], ["w"], value=held(proto)["w"]))
        proto.graph.initializer.remove(held(proto)["w"])
    cleaned = canonical(proto, tmp_path)
    points = by_name(cleaned)
    assert [name for name, point in points.items() if point.cut is None] == ["narrow"]
    assert "'narrow' has elements of type" in points["narrow"].why_not
    assert points["back"].tensors == ("a", "back")
    first, second = graphs_at(cleaned, "a")
    weight = held(onnx.ModelProto(graph=first))["w"]
    assert weight.data_type == TensorProto.DataType.Value(kind)
    np.testing.assert_array_equal(numpy_helper.to_array(weight), before)
    assert not second.initializer
    for point in points.values():
        if point.cut is not None:
            assert extract(cleaned, point).cut == point.cut


def test_brain_floats_are_listed_and_extracted(tmp_path: Path) -> None:
    cleaned = canonical(hard_values.brain_floats(), tmp_path)
    points = by_name(cleaned)
    assert "'narrow' has elements of type bfloat16" in points["narrow"].why_not
    assert "'product' has elements of type bfloat16" in points["product"].why_not
    first, second = graphs_at(cleaned, "r")
    assert not first.initializer
    assert [tensor.data_type for tensor in second.initializer] == [TensorProto.BFLOAT16]


@pytest.mark.parametrize(
    "build", [networks.qdq, networks.qoperator, networks.dynamically_quantised]
)
def test_weights_stay_quantised_and_lie_in_one_part(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    proto = build()
    wanted = {
        name: tensor.SerializeToString()
        for name, tensor in held(proto).items()
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
    }
    assert wanted
    cleaned = canonical(proto, tmp_path)
    for point in cut_points(cleaned):
        parts = extract(cleaned, point)
        found: list[str] = []
        for part in filter(None, (parts.first, parts.second)):
            for name, tensor in held(onnx.load_from_string(part.content)).items():
                if name in wanted:
                    assert tensor.SerializeToString() == wanted[name]
                    found.append(name)
                else:
                    assert int(np.prod(tensor.dims)) <= 4, f"{name} is a blown up weight"
        assert sorted(found) == sorted(wanted), f"at {point.name}"


def test_quantised_values_cross_as_they_are(tmp_path: Path) -> None:
    points = by_name(canonical(networks.qoperator(), tmp_path))
    assert [str(s) for s in points["/qlinearconv_1/out"].cut.boundary] == [  # type: ignore[union-attr]
        "/qlinearconv_1/out uint8[1x4x5x5]"
    ]
    points = by_name(canonical(networks.dynamically_quantised(), tmp_path))
    assert [str(s) for s in points["q"].cut.boundary] == [  # type: ignore[union-attr]
        "q uint8[1x3x5x5]",
        "q_scale float32[]",
        "q_zero uint8[]",
    ]


# -------------------------------------------------------------------------------------------- names


ODD_NAMES = ("/model/layer 0/Relu", "Größe·層", "a:0", "x" * 300, "'quoted'", "%s{}", "-1")


def odd_names() -> onnx.ModelProto:
    """A chain of values with the names above, by nodes of which only one has a name."""
    values = ["input:0", *ODD_NAMES, "y"]
    nodes = [
        node("Tanh" if at % 2 else "Neg", [before], [after], name="Knoten 3/µ" if at == 3 else "")
        for at, (before, after) in enumerate(pairwise(values))
    ]
    return model(nodes, [info("input:0", ROW)], [info("y", ROW)])


def test_odd_names_are_cuts_like_others(tmp_path: Path) -> None:
    cleaned = canonical(odd_names(), tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    points = cut_points(cleaned)
    for name in ODD_NAMES:
        assert find_cut(cleaned, points, name).tensors == (name,)
    assert find_cut(cleaned, points, "Knoten 3/µ").position == 4
    with pytest.raises(CutUnknown):
        find_cut(cleaned, points, "")


def test_nodes_of_one_name_are_told_apart_by_what_they_make(tmp_path: Path) -> None:
    # ONNX allows it, ONNX Runtime does not: it is listed and extracted.
    proto = models.chain()
    for item in proto.graph.node:
        item.name = "twin"
    cleaned = canonical(proto, tmp_path)
    points = cut_points(cleaned)
    assert [point.name for point in points] == [INPUT_CUT, "r", "n", OUTPUT_CUT]
    assert find_cut(cleaned, points, "n").position == 2
    with pytest.raises(CutUnknown, match="3 nodes of the model are called 'twin'"):
        find_cut(cleaned, points, "twin")
    first, second = graphs_at(canonical(proto, tmp_path), "r")
    assert (makers(first), makers(second)) == (["r"], ["n", "y"])


def test_tensors_called_like_the_ends_do_not_hide_them(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], [OUTPUT_CUT]),
            node("Tanh", [OUTPUT_CUT], [INPUT_CUT]),
            node("Neg", [INPUT_CUT], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", ROW)],
    )
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, feeds(cleaned))
    points = cut_points(cleaned)
    assert find_cut(cleaned, points, INPUT_CUT).position == 0
    assert find_cut(cleaned, points, OUTPUT_CUT).position == 3


def test_line_break_in_a_name_does_not_break_the_sentence(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.node[0].name = "first\nsecond"
    proto.graph.node[0].input[0] = "nowhere"
    assert "first" in refusal(proto, tmp_path)


# --------------------------------------------------------------------------------------------- size


def deep(nodes: int = 3000) -> onnx.ModelProto:
    values = ["x", *(f"v{at}" for at in range(nodes - 1)), "y"]
    kinds = ("Tanh", "Neg", "Relu", "Identity")
    chain = [node(kinds[at % 4], [values[at]], [values[at + 1]]) for at in range(nodes)]
    return model(chain, [info("x", ROW)], [info("y", ROW)])


def wide(branches: int = 500) -> onnx.ModelProto:
    names = [f"b{at}" for at in range(branches)]
    apart = [node("Mul", ["r", f"w{at}"], [name]) for at, name in enumerate(names)]
    return model(
        [node("Relu", ["x"], ["r"]), *apart, node("Sum", names, ["y"])],
        [info("x", ROW)],
        [info("y", ROW)],
        weights(**{f"w{at}": np.full(4, at / branches) for at in range(branches)}),
    )


def staged(stages: int = 60) -> onnx.ModelProto:
    """Every shape is known only when the one before is folded."""
    nodes, last = [], "x"
    for at in range(stages):
        nodes.append(node("Shape", [last], [f"shape{at}"]))
        nodes.append(node("Max", [f"shape{at}", "least"], [f"target{at}"]))
        nodes.append(node("Reshape", [last, f"target{at}"], [f"flat{at}"]))
        last = f"flat{at}"
    nodes.append(node("Neg", [last], ["y"]))
    return model(nodes, [info("x", [2, 6])], [info("y", None)], weights(least=np.array([2, 3])))


@pytest.mark.parametrize(("build", "points"), [(deep, 2250), (wide, 503), (staged, 62)])
def test_large_graphs_are_listed_and_cut_at_once(
    build: Callable[[], onnx.ModelProto], points: int, tmp_path: Path
) -> None:
    path = saved(build(), tmp_path / "model.onnx")
    start = time.perf_counter()
    cleaned = canonicalise(load(path))
    found = cut_points(cleaned)
    middle = found[len(found) // 2]
    extract(cleaned, middle)
    assert time.perf_counter() - start < 3
    assert abs(len(found) - points) <= 2
    assert all(point.cut is not None for point in found)
    feed = any_feed(cleaned)
    wanted = run(path.read_bytes(), feed)["y"]
    got = models.recombined(cleaned, middle, feed)["y"]
    np.testing.assert_allclose(got.astype(float), wanted.astype(float), rtol=1e-6, atol=1e-6)
