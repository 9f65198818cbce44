"""Idioms in which exporters write shapes: squeezing behind an If, grids, sizes of another value."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hard_models import subgraph, with_domain
from tests.models import info, model, node, weights


def squeeze() -> onnx.ModelProto:
    """PyTorch's `x.squeeze(1)` with an open dimension: an If on the dimension's size.

    The branches have different ranks, so that only the condition's value says which it is.
    """
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("Shape", ["r"], ["shape"]),
            node("Gather", ["shape", "one"], ["size"], axis=0),
            node("Equal", ["size", "one"], ["is_one"]),
            node(
                "If",
                ["is_one"],
                ["squeezed"],
                then_branch=subgraph(
                    "then", [node("Squeeze", ["r", "axes"], ["t"])], [info("t", None)]
                ),
                else_branch=subgraph("else", [node("Identity", ["r"], ["e"])], [info("e", None)]),
            ),
            node("Tanh", ["squeezed"], ["t2"]),
            node("MatMul", ["t2", "w"], ["y"]),
        ],
        [info("x", ["N", "C", 4])],
        [info("y", None)],
        weights(one=np.array(1), axes=np.array([1]), w=np.linspace(-1, 1, 8).reshape(4, 2)),
    )


def grid() -> onnx.ModelProto:
    """Row numbers by NonZero, `expand_as` by Where, a size that is doubled as floats."""
    ones = numpy_helper.from_array(np.array([1], np.int64))
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("Shape", ["r"], ["shape"]),
            # torch.arange(height), as a column
            node("Gather", ["shape", "two"], ["height"], axis=0),
            node("Unsqueeze", ["height", "first"], ["height1"]),
            node("ConstantOfShape", ["height1"], ["marks"], value=ones),
            node("NonZero", ["marks"], ["marked"]),
            node("Transpose", ["marked"], ["numbers"]),
            node("Squeeze", ["numbers", "second"], ["range"]),
            node("Cast", ["range"], ["floats"], to=TensorProto.FLOAT),
            node("Reshape", ["floats", "column"], ["rows"]),
            # rows.expand(shape), where -1 keeps a size
            node("ConstantOfShape", ["rank"], ["kept"], value=ones),
            node("Mul", ["kept", "minus"], ["open"]),
            node("Equal", ["shape", "open"], ["is_open"]),
            node("Where", ["is_open", "kept", "shape"], ["target"]),
            node("Expand", ["rows", "target"], ["expanded"]),
            node("Add", ["r", "expanded"], ["shifted"]),
            # interpolate(scale_factor=2)
            node("Cast", ["shape"], ["sizes_f"], to=TensorProto.FLOAT),
            node("Mul", ["sizes_f", "scales"], ["wider"]),
            node("Floor", ["wider"], ["whole"]),
            node("Cast", ["whole"], ["sizes"], to=TensorProto.INT64),
            node("Resize", ["shifted", "", "", "sizes"], ["z"], mode="nearest"),
            node("Tanh", ["z"], ["y"]),
        ],
        [info("x", ["N", 3, "H", "W"])],
        [info("y", ["N", 3, "H2", "W2"])],
        weights(
            two=np.array(2),
            first=np.array([0]),
            second=np.array([1]),
            column=np.array([-1, 1]),
            rank=np.array([4]),
            minus=np.array(-1),
            scales=[1.0, 1.0, 2.0, 2.0],
        ),
    )


def flattening(*, product: bool) -> onnx.ModelProto:
    """A function that flattens by the shape of its own input.

    `product`: to a length that is computed with an operator which shape inference does not follow.
    """
    if product:
        arithmetic = [
            node("Shape", ["v"], ["shape"]),
            node("ReduceProd", ["shape"], ["target"], keepdims=1),
        ]
    else:
        arithmetic = [
            node("Shape", ["v"], ["batch"], start=0, end=1),
            node("Constant", [], ["rest"], value_ints=[-1]),
            node("Concat", ["batch", "rest"], ["target"], axis=0),
        ]
    function = helper.make_function(
        "own",
        "Flat",
        ["v"],
        ["w"],
        [*arithmetic, node("Reshape", ["v", "target"], ["w"])],
        [helper.make_opsetid("", 17)],
    )
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Flat", ["r"], ["flat"], domain="own"),
            node("Neg", ["flat"], ["y"]),
        ],
        [info("x", ["N", 2, 3])],
        [info("y", None)],
    )
    return with_domain(proto, "own", [function])


def ending_in_a_loop(batch: int | str) -> onnx.ModelProto:
    """A Loop makes the output; its shape is known from what the file states alone."""
    body = subgraph(
        "body",
        [node("Identity", ["going"], ["on"]), node("Tanh", ["h"], ["next"])],
        [info("on", [], "bool"), info("next", [batch, 4])],
        [info("turn", [], "int64"), info("going", [], "bool"), info("h", [batch, 4])],
    )
    return model(
        [node("Relu", ["x"], ["start"]), node("Loop", ["turns", "", "start"], ["y"], body=body)],
        [info("x", [batch, 4])],
        [info("y", [batch, 4])],
        weights(turns=np.array(3)),
    )
