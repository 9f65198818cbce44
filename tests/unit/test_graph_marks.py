"""Stages, layers, beaten cuts and broken fusions, read off small graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbed.graph import ListedCut, Listing, list_cuts
from splitbed.graph.cost import PartCost
from splitbed.graph.cuts import CutPoint
from splitbed.graph.marks import _dominated
from splitbed.tensor import Cut, TensorSpec
from tests.models import canonical, info, model, node, weights


def listed(proto: onnx.ModelProto, folder: Path) -> tuple[Listing, dict[str, ListedCut]]:
    listing = list_cuts(canonical(proto, folder))
    return listing, {cut.point.name: cut for cut in listing.cuts}


def convolutional() -> onnx.ModelProto:
    """conv+relu, conv+relu, pool, bottleneck (wide, narrow), pool over all, classifier."""

    def conv(source: str, weight: str, made: str, **attributes: object) -> onnx.NodeProto:
        return node("Conv", [source, weight], [made], **attributes)  # type: ignore[arg-type]

    return model(
        [
            conv("x", "w1", "c1", pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["r1"]),
            conv("r1", "w2", "c2", pads=[1, 1, 1, 1]),
            node("Relu", ["c2"], ["r2"]),
            node("MaxPool", ["r2"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
            conv("pool", "wide", "c3"),
            node("Clip", ["c3", "zero"], ["r3"]),
            conv("r3", "narrow", "c4"),
            conv("c4", "again", "c5"),
            node("GlobalAveragePool", ["c5"], ["mean"]),
            node("Flatten", ["mean"], ["flat"]),
            node("Gemm", ["flat", "fc"], ["g"]),
            node("Softmax", ["g"], ["y"]),
        ],
        [info("x", [1, 3, 8, 8])],
        [info("y", None)],
        weights(
            w1=np.ones((4, 3, 3, 3)),
            w2=np.ones((4, 4, 3, 3)),
            wide=np.ones((24, 4, 1, 1)),
            narrow=np.ones((2, 24, 1, 1)),
            again=np.ones((6, 2, 1, 1)),
            fc=np.ones((6, 10)),
            zero=np.float32(0),
        ),
    )


def test_stages_end_at_pools_and_where_a_resolution_is_left(tmp_path: Path) -> None:
    _, cuts = listed(convolutional(), tmp_path)
    found = {name: cut.marks.stage for name, cut in cuts.items() if cut.marks.stage}
    # Of the places at 4x4, the narrow end of the bottleneck and not what is wide around it.
    assert found == {
        "r2": "8x8",
        "pool": "MaxPool",
        "c4": "4x4",
        "mean": "GlobalAveragePool",
        "@output": "output",
    }


def test_layers_end_before_the_next_operator_with_weights(tmp_path: Path) -> None:
    _, cuts = listed(convolutional(), tmp_path)
    found = {name: cut.marks.layer for name, cut in cuts.items() if cut.marks.layer is not None}
    assert found == {
        "@input": 0,
        "r1": 1,
        "pool": 2,
        "r3": 3,
        "c4": 4,
        "flat": 5,
        "@output": 6,
    }


def test_broken_fusions_name_the_place_with_the_same_bytes(tmp_path: Path) -> None:
    _, cuts = listed(convolutional(), tmp_path)
    found = {
        name: (cut.marks.breaks, cut.marks.moved_to)
        for name, cut in cuts.items()
        if cut.marks.breaks
    }
    assert found == {
        "c1": ("Conv+Relu", "r1"),
        "c2": ("Conv+Relu", "r2"),
        "c3": ("Conv+Clip", "r3"),
    }


def test_layout_is_told_between_convolutions_only(tmp_path: Path) -> None:
    _, cuts = listed(convolutional(), tmp_path)
    assert {name for name, cut in cuts.items() if cut.marks.layout} == {
        *("c1", "r1", "c2", "r2", "pool", "c3", "r3", "c4", "c5")
    }
    # The same after the last convolution or pool, or before the first, is in no layout.
    assert not cuts["@input"].marks.layout
    assert not cuts["mean"].marks.layout


def test_what_comes_straight_out_of_a_relu(tmp_path: Path) -> None:
    _, cuts = listed(convolutional(), tmp_path)
    assert {name for name, cut in cuts.items() if cut.marks.rectified} == {"r1", "r2", "r3"}


def test_a_clip_is_a_relu_where_it_ends_at_zero(tmp_path: Path) -> None:
    """The bound may be missing, below zero, or computed; the branch beside it makes two tensors."""
    proto = model(
        [
            node("Clip", ["x", "zero", "six"], ["relu6"]),
            node("Clip", ["relu6", "below", "six"], ["hard"]),
            node("Clip", ["hard", "", "six"], ["open"]),
            node("ReduceMin", ["open"], ["least"], keepdims=0),
            node("Clip", ["open", "least"], ["computed"]),
            node("Relu", ["computed"], ["relu"]),
            node("Add", ["relu", "open"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", None)],
        weights(zero=np.float32(0), six=np.float32(6), below=np.float32(-1)),
    )
    _, cuts = listed(proto, tmp_path)
    assert {name for name, cut in cuts.items() if cut.marks.rectified} == {"relu6"}


def test_a_clip_of_old_has_its_bounds_as_attributes(tmp_path: Path) -> None:
    for low, wanted in ((0.0, True), (-1.0, False)):
        proto = model(
            [
                node("Clip", ["x"], ["c"], min=low, max=6.0),
                node("Neg", ["c"], ["y"]),
            ],
            [info("x", [1, 4])],
            [info("y", None)],
            opset=10,
        )
        _, cuts = listed(proto, tmp_path)
        assert cuts["c"].marks.rectified is wanted


def test_several_fusions_in_a_row_lead_past_all_of_them(tmp_path: Path) -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("BatchNormalization", ["c", "one", "one", "one", "one"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("Neg", ["r"], ["y"]),
        ],
        [info("x", [1, 3, 2, 2])],
        [info("y", None)],
        weights(w=np.ones((4, 3, 1, 1)), one=np.ones(4)),
    )
    _, cuts = listed(proto, tmp_path)
    assert {name: cut.marks.moved_to for name, cut in cuts.items() if cut.marks.breaks} == {
        "c": "r",
        "n": "r",
    }


def test_activation_of_a_value_that_others_read_is_no_fusion(tmp_path: Path) -> None:
    proto = model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Relu", ["m"], ["r"]),
            node("Add", ["r", "m"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", None)],
        weights(w=np.ones((4, 4))),
    )
    _, cuts = listed(proto, tmp_path)
    assert not any(cut.marks.breaks for cut in cuts.values())


def test_normalisation_and_bias_behind_a_product_are_fusions(tmp_path: Path) -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("BatchNormalization", ["c", "one", "one", "one", "one"], ["n"]),
            node("Reshape", ["n", "shape"], ["s"]),
            node("MatMul", ["s", "v"], ["m"]),
            node("Add", ["m", "bias"], ["b"]),
            node("Neg", ["b"], ["y"]),
        ],
        [info("x", [1, 3, 1, 1])],
        [info("y", None)],
        weights(
            w=np.ones((4, 3, 1, 1)),
            one=np.ones(4),
            v=np.ones((4, 4)),
            bias=np.ones(4),
            shape=np.array([1, 4]),
        ),
    )
    _, cuts = listed(proto, tmp_path)
    assert {name: cut.marks.moved_to for name, cut in cuts.items() if cut.marks.breaks} == {
        "c": "n",
        "m": "b",
    }


def test_single_counts_tensors_and_not_nodes(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["a"]),
            node("Neg", ["a"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", None)],
    )
    _, cuts = listed(proto, tmp_path)
    assert {name: cut.marks.single for name, cut in cuts.items()} == {
        "@input": True,
        "a": True,
        "b": False,
        "@output": True,
    }


@settings(max_examples=200, deadline=None)
@given(
    figures=st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 6), st.booleans()), min_size=1, max_size=12
    )
)
def test_a_cut_is_beaten_exactly_when_another_is_as_good_in_both(
    figures: list[tuple[int, int, bool]],
) -> None:
    points, costs = [], []
    for at, (_, nbytes, legal) in enumerate(figures):
        spec = TensorSpec(f"t{at}", "uint8", (nbytes,))
        cut = Cut(f"t{at}", (spec,)) if legal else None
        points.append(CutPoint(f"t{at}", at, "", (f"t{at}",), cut, "" if legal else "no", 0.0))
    for macs, _, legal in figures:
        costs.append(PartCost(0, 0, macs, 0, 0) if legal else None)
    found = _dominated(points, costs, {})
    standing = [at for at, (_, _, legal) in enumerate(figures) if legal and at not in found]
    for at, (macs, nbytes, legal) in enumerate(figures):
        better = [
            other
            for other, (m, b, ok) in enumerate(figures)
            if ok and other != at and m <= macs and b <= nbytes
        ]
        if not legal:
            assert at not in found
        elif any((figures[o][0], figures[o][1]) != (macs, nbytes) for o in better):
            assert at in found
        if at in found:
            beater = int(found[at].removeprefix("t"))
            assert beater in standing
            assert beater in better
