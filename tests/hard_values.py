"""Small models that are hard to cut for their values: odd types, sizes by the data, chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hard_models import ROW, ZERO, Case, subgraph, with_domain
from tests.models import info, model, node, weights

# ---------------------------------------------------------------------------------------- odd types


def sequences() -> onnx.ModelProto:
    """A tensor taken apart into a sequence and put together again."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("SplitToSequence", ["r", "sizes"], ["parts"], axis=1),
            node("SequenceAt", ["parts", "last"], ["one"]),
            node("SequenceInsert", ["parts", "r"], ["more"]),
            node("ConcatFromSequence", ["more"], ["joined"], axis=1),
            node("Concat", ["joined", "one"], ["c"], axis=1),
            node("Reshape", ["c", "shape"], ["fixed"]),
            node("Tanh", ["fixed"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(sizes=np.array([1, 3]), last=np.array(-1), shape=np.array([1, 11])),
    )


def looped_sequence() -> onnx.ModelProto:
    """A Loop that fills a sequence, with a capture."""
    body = subgraph(
        "body",
        [
            node("Identity", ["going"], ["on"]),
            node("Cast", ["turn"], ["f"], to=TensorProto.FLOAT),
            node("Add", ["h", "f"], ["element"]),
            node("SequenceInsert", ["list", "element"], ["longer"]),
        ],
        [
            info("on", [], "bool"),
            helper.make_tensor_sequence_value_info("longer", TensorProto.FLOAT, None),
        ],
        [
            info("turn", [], "int64"),
            info("going", [], "bool"),
            helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None),
        ],
    )
    return model(
        [
            node("Relu", ["x"], ["h"]),
            node("Neg", ["x"], ["n"]),
            node("SequenceConstruct", ["n"], ["first"]),
            node("Loop", ["turns", "", "first"], ["l"], body=body),
            node("ConcatFromSequence", ["l"], ["joined"], axis=0),
            node("Reshape", ["joined", "shape"], ["fixed"]),
            node("Tanh", ["fixed"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(turns=np.array(3), shape=np.array([4, 4])),
    )


def empty_sequence() -> onnx.ModelProto:
    """A sequence that starts empty, as exporters write a list that a loop fills."""
    return model(
        [
            node("SequenceEmpty", [], ["none"], dtype=TensorProto.FLOAT),
            node("Relu", ["x"], ["r"]),
            node("SequenceInsert", ["none", "r"], ["one"]),
            node("Neg", ["x"], ["n"]),
            node("SequenceInsert", ["one", "n"], ["two"]),
            node("ConcatFromSequence", ["two"], ["joined"], axis=0),
            node("Reshape", ["joined", "shape"], ["fixed"]),
            node("Tanh", ["fixed"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(shape=np.array([2, 4])),
    )


def constant_sequence(sizes: Sequence[int]) -> onnx.ModelProto:
    """A small weight split into a sequence, from which the input picks the first element."""
    return model(
        [
            node("SplitToSequence", ["w", "sizes"], ["parts"], axis=0),
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Cast", ["s"], ["integer"], to=TensorProto.INT64),
            node("Mul", ["integer", "zero"], ["index"]),
            node("SequenceAt", ["parts", "index"], ["part"]),
            node("ReduceSum", ["part"], ["sum"], keepdims=0),
            node("Add", ["x", "sum"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(w=np.arange(4.0), sizes=np.array(sizes), zero=np.array(0)),
    )


def optional_value() -> onnx.ModelProto:
    """A value wrapped into an Optional and taken out again."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("Optional", ["r"], ["maybe"]),
            node("OptionalHasElement", ["maybe"], ["has"]),
            node("OptionalGetElement", ["maybe"], ["got"]),
            node("Cast", ["has"], ["one"], to=TensorProto.FLOAT),
            node("Add", ["got", "one"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
    )


def empty_optional() -> onnx.ModelProto:
    """An Optional that holds nothing, made from no input."""
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 4])
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("Optional", [], ["none"], type=kind),
            node("OptionalHasElement", ["none"], ["has"]),
            node("Cast", ["has"], ["zero"], to=TensorProto.FLOAT),
            node("Add", ["r", "zero"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
    )


def strings() -> onnx.ModelProto:
    """Numbers that become words on the way; words are compared with a constant and looked up."""
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Floor", ["r"], ["whole"]),
            node("Cast", ["whole"], ["number"], to=TensorProto.INT64),
            node("Cast", ["number"], ["word"], to=TensorProto.STRING),
            node(
                "LabelEncoder",
                ["word"],
                ["looked_up"],
                domain="ai.onnx.ml",
                keys_strings=["0", "1"],
                values_floats=[0.5, 0.75],
                default_float=-1.0,
            ),
            node("Equal", ["word", "nought"], ["same"]),
            node("Cast", ["same"], ["flag"], to=TensorProto.FLOAT),
            node("Add", ["looked_up", "flag"], ["mixed"]),
            node("Add", ["mixed", "x"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        [numpy_helper.from_array(np.array(["0"], object), "nought")],
        opset=19,
    )
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return proto


def halves() -> onnx.ModelProto:
    """Weights, values and input in float16, with a scalar and an empty boundary tensor."""
    return model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("ReduceMax", ["m"], ["largest"], keepdims=0),
            node("Sub", ["m", "largest"], ["shifted"]),
            node("Slice", ["shifted", "none", "none"], ["empty"]),
            node("Concat", ["empty", "shifted"], ["c"], axis=0),
            node("Cast", ["c"], ["wide"], to=TensorProto.FLOAT),
            node("Tanh", ["wide"], ["y"]),
        ],
        [info("x", [2, 4], "float16")],
        [info("y", None)],
        weights(
            w=(np.arange(16) % 5 / 4 - 0.5).reshape(4, 4).astype(np.float16), none=np.array([0])
        ),
    )


def through(element: int) -> onnx.ModelProto:
    """A value of this element type in the middle of the graph, and a weight of it."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("DequantizeLinear", ["w", "scale"], ["wide"]),
            node("Add", ["r", "wide"], ["a"]),
            node("Cast", ["a"], ["narrow"], to=element),
            node("Cast", ["narrow"], ["back"], to=TensorProto.FLOAT),
            node("Add", ["back", "a"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        [helper.make_tensor("w", element, [4], [1, 0, 1, 1]), *weights(scale=np.float32(0.5))],
        opset=onnx.defs.onnx_opset_version(),
        ir=onnx.IR_VERSION,
    )


def brain_floats() -> onnx.ModelProto:
    """A weight and a stretch of values in bfloat16."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("Cast", ["r"], ["narrow"], to=TensorProto.BFLOAT16),
            node("Mul", ["narrow", "w"], ["product"]),
            node("Cast", ["product"], ["back"], to=TensorProto.FLOAT),
            node("Add", ["back", "r"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        [helper.make_tensor("w", TensorProto.BFLOAT16, [4], [1.0, 0.5, 2.0, 4.0])],
    )


# ---------------------------------------------------------------------------- depending on the data


def counted() -> onnx.ModelProto:
    """How many elements are positive: a shape that depends on the data, of a known rank."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node("NonZero", ["r"], ["where"]),
            node("Shape", ["where"], ["size"]),
            node("Cast", ["size"], ["f"], to=TensorProto.FLOAT),
            node("ReduceSum", ["f"], ["count"], keepdims=0),
            node("Tanh", ["r"], ["t"]),
            node("Add", ["t", "count"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
    )


def selected() -> onnx.ModelProto:
    """A Compress, whose size is the data's choice, padded to a fixed size by a ScatterND."""
    return model(
        [
            node("Tanh", ["x"], ["t"]),
            node("Greater", ["t", "zero"], ["positive"]),
            node("Compress", ["t", "positive"], ["kept"], axis=0),
            node("Shape", ["kept"], ["size"]),
            node("ConstantOfShape", ["size"], ["zeros"]),
            node("Add", ["kept", "zeros"], ["same"]),
            node("ReduceSum", ["same"], ["sum"], keepdims=0),
            node("Mul", ["t", "sum"], ["y"]),
        ],
        [info("x", [6])],
        [info("y", None)],
        weights(zero=ZERO),
    )


def drawing(*drawn: onnx.NodeProto) -> onnx.ModelProto:
    """A random `u` that is read at both ends of the graph."""
    return model(
        [
            *drawn,
            node("Add", ["x", "u"], ["a"]),
            node("Neg", ["a"], ["n"]),
            node("Mul", ["n", "u"], ["m"]),
            node("Add", ["m", "x"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(w=np.full((1, 4), 0.5), yes=np.array(True), half=np.float32(0.5)),
    )


def random_nodes() -> dict[str, onnx.ModelProto]:
    """Models that draw `u` at random without reading any input, by how they do it."""
    like = helper.make_function(
        "own",
        "Noise",
        ["v"],
        ["w"],
        [node("RandomNormalLike", ["v"], ["w"])],
        [helper.make_opsetid("", 17)],
    )
    branches = {
        f"{at}_branch": subgraph(
            at, [node("RandomNormal", [], [f"{at}_u"], shape=ROW)], [info(f"{at}_u", ROW)]
        )
        for at in ("then", "else")
    }
    return {
        "RandomNormal": drawing(node("RandomNormal", [], ["u"], shape=ROW)),
        "RandomUniform": drawing(node("RandomUniform", [], ["u"], shape=ROW)),
        "RandomNormalLike": drawing(node("RandomNormalLike", ["w"], ["u"])),
        "Bernoulli": drawing(node("Bernoulli", ["w"], ["u"])),
        "training Dropout": drawing(node("Dropout", ["w", "half", "yes"], ["u"])),
        "in a branch": drawing(node("If", ["yes"], ["u"], **branches)),  # type: ignore[arg-type]
        "in a function": with_domain(
            drawing(node("Noise", ["w"], ["u"], domain="own")), "own", [like]
        ),
    }


ALL: Final[dict[str, Case]] = {
    "looped sequence": Case(
        looped_sequence,
        illegal={"first": "'first' is no tensor", "l": "'l' is no tensor"},
        unknown={"joined": "'joined'"},
    ),
    "sequences": Case(
        sequences,
        illegal={
            "parts": "'parts' is no tensor",
            "one": "'parts' is no tensor",
            "more": "'more' is no tensor",
        },
        unknown={"joined": "'joined'", "c": "'c'"},
    ),
    "optional value": Case(
        optional_value,
        illegal={"maybe": "'maybe' is no tensor", "has": "'maybe' is no tensor"},
    ),
    "strings": Case(
        strings,
        illegal={
            "word": "'word' has elements of type",
            "looked_up": "'word' has elements of type",
        },
    ),
    "halves": Case(halves),
    "counted": Case(counted, illegal={"where": "dimension 1 of 'where' depends on the data"}),
    "selected": Case(
        selected,
        illegal={"kept": "'kept'", "size": "'kept'", "zeros": "'kept'", "same": "'same'"},
    ),
}
"""Models that must be exact at every legal cut."""
