"""Loading, cleaning and binding: what a model file becomes, and what is refused with a sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from splitbed.errors import ModelError, ModelUnknown
from splitbed.graph import (
    INPUT_CUT,
    OUTPUT_CUT,
    CanonicalModel,
    canonicalise,
    cut_points,
    extract,
    load,
    verify,
)
from splitbed.graph.fold import FOLDED_ELEMENTS
from splitbed.graph.reading import captures, label, reads, rename, writes
from splitbed.graph.shapes import KEPT_ELEMENTS
from tests import models
from tests.models import (
    canonical,
    info,
    model,
    node,
    open_part,
    random_feed,
    refusal,
    run,
    saved,
    weights,
)


def refused_file(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        canonicalise(load(path))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    return sentence


def op_types(cleaned: CanonicalModel) -> list[str]:
    return [item.op_type for item in cleaned.proto.graph.node]


def assert_same_answers(cleaned: CanonicalModel) -> None:
    """The canonical model answers as the source file does."""
    feed = random_feed(cleaned)
    wanted = run(cleaned.source.proto.SerializeToString(), feed)
    got = run(cleaned.file().content, feed)
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)


# ------------------------------------------------------------------------------------------ loading


def test_load_tells_digests_and_size(tmp_path: Path) -> None:
    path = saved(models.residual(), tmp_path / "model.onnx")
    content = path.read_bytes()
    source = load(path)
    assert source.sha256 == hashlib.sha256(content).hexdigest()
    assert source.md5 == hashlib.md5(content).hexdigest()
    assert source.file_bytes == len(content)


def test_missing_file_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ModelUnknown, match=r"there is no model file .*absent\.onnx"):
        load(tmp_path / "absent.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just some text\n" * 3,
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"\x00" * 64,
        models.chain().SerializeToString()[:60],
        onnx.ModelProto(ir_version=8).SerializeToString(),
    ],
    ids=["empty", "text", "picture", "zeros", "truncated", "no graph"],
)
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "is not an ONNX model" in refused_file(path)


def test_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot read the model" in refused_file(tmp_path)


def test_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    content = models.residual().SerializeToString()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused_file(path)


# ------------------------------------------------------------------------------------ external data


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model with its weights in `weights.bin` beside it."""
    path = tmp_path / "model.onnx"
    onnx.save_model(
        models.residual(),
        str(path),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return path


def point_elsewhere(path: Path, **entries: str) -> None:
    """Change where the first weight of a saved model says that its data is."""
    proto = onnx.load(str(path), load_external_data=False)
    data = proto.graph.initializer[0].external_data
    kept = {entry.key: entry.value for entry in data} | entries
    del data[:]
    for key, value in kept.items():
        data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def test_external_data_is_loaded_and_counted(external: Path) -> None:
    source = load(external)
    assert source.md5 == hashlib.md5(external.read_bytes()).hexdigest()
    assert source.file_bytes == external.stat().st_size + (4 * 4 * 4)
    cleaned = canonicalise(source)
    inside = models.residual()
    feed = random_feed(cleaned)
    np.testing.assert_array_equal(
        run(cleaned.file().content, feed)["y"], run(inside.SerializeToString(), feed)["y"]
    )


def test_identity_covers_external_data(external: Path) -> None:
    before = load(external)
    assert load(external).sha256 == before.sha256
    data = external.with_name("weights.bin")
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    after = load(external)
    assert after.md5 == before.md5
    assert after.sha256 != before.sha256
    assert canonicalise(after).id.digest != canonicalise(before).id.digest


def test_missing_external_data_is_named(external: Path) -> None:
    external.with_name("weights.bin").unlink()
    assert "the external data weights.bin" in refused_file(external)


def test_short_external_data_is_refused(external: Path) -> None:
    external.with_name("weights.bin").write_bytes(bytes(10))
    assert "'w'" in refused_file(external)


@pytest.mark.parametrize("location", ["../secret.bin", "{root}/secret.bin", "link.bin", "", "."])
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = folder / "model.onnx"
    onnx.save_model(
        models.residual(), str(path), save_as_external_data=True, location="w", size_threshold=0
    )
    location = location.format(root=tmp_path)
    point_elsewhere(path, location=location)
    assert f"external data outside its own folder: {location}" in refused_file(path)


@pytest.mark.parametrize(
    "entry",
    [{"offset": "ten"}, {"offset": "-4"}, {"length": "-1"}, {"location": "a\0b"}],
    ids=lambda entry: "=".join(*entry.items()).replace("\0", "NUL"),
)
def test_malformed_external_data_is_refused(entry: dict[str, str], external: Path) -> None:
    point_elsewhere(external, **entry)
    refused_file(external)


def test_external_data_in_a_constant_of_a_subgraph_is_found(tmp_path: Path) -> None:
    proto = models.branching()
    branch = next(n for n in proto.graph.node if n.op_type == "If").attribute[0].g
    branch.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "inner"))
    branch.node[0].input[1] = "inner"
    path = tmp_path / "model.onnx"
    tensor = branch.initializer[0]
    (tmp_path / "inner.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="inner.bin")
    saved(proto, path)
    assert load(path).file_bytes == path.stat().st_size + 16
    (tmp_path / "inner.bin").unlink()
    assert "inner.bin" in refused_file(path)


# ------------------------------------------------------------------------------------ broken graphs


def test_cycle_is_refused(tmp_path: Path) -> None:
    proto = model(
        [node("Add", ["x", "b"], ["a"], name="adder"), node("Relu", ["a"], ["b"])],
        [info("x", [1])],
        [info("b", [1])],
    )
    sentence = refusal(proto, tmp_path)
    assert "node 'adder' reads 'b', which nothing before it makes" in sentence


def test_nodes_out_of_order_are_refused(tmp_path: Path) -> None:
    proto = models.chain()
    nodes = [proto.graph.node[i] for i in (1, 0, 2)]
    shuffled = model(nodes, proto.graph.input, proto.graph.output)
    assert "node 'n' reads 'r'" in refusal(shuffled, tmp_path)


def test_subgraph_that_captures_nothing_known_is_refused(tmp_path: Path) -> None:
    proto = models.branching()
    del proto.graph.initializer[0]  # w, which only a branch reads
    assert "node 'i' reads 'w', which nothing before it makes" in refusal(proto, tmp_path)


def test_output_that_nothing_makes_is_refused(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.output[0].name = "absent"
    assert "nothing makes its output 'absent'" in refusal(proto, tmp_path)


@pytest.mark.parametrize("taken", ["x", "w", "m"], ids=["an input", "a weight", "another node's"])
def test_value_made_twice_is_refused(taken: str, tmp_path: Path) -> None:
    proto = models.residual()
    proto.graph.node[1].output[0] = proto.graph.node[2].input[0] = taken
    assert f"'{taken}' is made twice" in refusal(proto, tmp_path)


def test_one_node_making_a_name_twice_is_refused(tmp_path: Path) -> None:
    proto = models.splitting()
    proto.graph.node[1].output[1] = "p"
    assert "'p' is made twice" in refusal(proto, tmp_path)


def repeat_input(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(proto.graph.input[0])


def repeat_output(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(proto.graph.output[0])


def repeat_weight(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(proto.graph.initializer[0])


@pytest.mark.parametrize(
    ("repeat", "name"), [(repeat_input, "x"), (repeat_output, "y"), (repeat_weight, "w")]
)
def test_name_listed_twice_is_refused(
    repeat: Callable[[onnx.ModelProto], None], name: str, tmp_path: Path
) -> None:
    proto = models.residual()
    repeat(proto)
    assert f"'{name}'" in refusal(proto, tmp_path)


def test_sparse_initialisers_are_refused(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.sparse_initializer.append(onnx.SparseTensorProto(dims=[4]))
    assert "sparse initialisers" in refusal(proto, tmp_path)


def test_graph_without_outputs_is_refused(tmp_path: Path) -> None:
    proto = models.chain()
    del proto.graph.output[:]
    assert "output" in refusal(proto, tmp_path)


@pytest.mark.parametrize("element", [TensorProto.STRING, TensorProto.BFLOAT16])
def test_input_of_an_unusable_type_is_named(element: int, tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.input.append(helper.make_tensor_value_info("words", element, [1]))
    assert "'words'" in refusal(proto, tmp_path)


@pytest.mark.parametrize("element", [TensorProto.BFLOAT16, TensorProto.STRING])
def test_output_of_an_unusable_type_is_named(element: int, tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.node.append(node("Cast", ["y"], ["words"], to=element))
    proto.graph.output.append(helper.make_tensor_value_info("words", element, [1, 4]))
    assert "'words' has elements of type" in refusal(proto, tmp_path)


def test_output_that_is_a_sequence_is_named(tmp_path: Path) -> None:
    proto = model(
        [node("SplitToSequence", ["x"], ["y"], axis=1)],
        [info("x", [1, 4])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    assert "'y' is no tensor" in refusal(proto, tmp_path)


def test_input_that_is_a_sequence_is_named(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.input.append(helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, None))
    assert "input 'q' is no tensor" in refusal(proto, tmp_path)


def test_output_with_a_shape_of_the_data_can_be_cut_before_and_not_after(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("NonZero", ["r"], ["y"]),
            node("Neg", ["r"], ["n"]),
            node("Tanh", ["n"], ["z"]),
        ],
        [info("x", [1, 4])],
        [info("y", None, "int64"), info("z", None)],
    )
    cleaned = canonical(proto, tmp_path)
    assert cleaned.open_outputs == {"y": "dimension 1 of 'y' depends on the data"}
    assert [spec.name for spec in cleaned.outputs] == ["z"]
    legal = {point.name: point.cut is not None for point in cut_points(cleaned)}
    assert legal == {INPUT_CUT: True, "r": True, "y": False, "n": False, OUTPUT_CUT: False}
    feed = random_feed(cleaned)
    for point in cut_points(cleaned):
        if point.cut is not None:
            assert verify(cleaned, extract(cleaned, point), [feed], open_part).same_top1 == 1
    with pytest.raises(ModelError, match="its output 'y' has no fixed shape"):
        cleaned.require_fixed_outputs()


@pytest.mark.parametrize("operator", ["MatMul", "NoSuchOperator"])
def test_contradiction_is_not_blamed_on_the_data(operator: str, tmp_path: Path) -> None:
    proto = model(
        [node(operator, ["x", "w"], ["y"], name="culprit")],
        [info("x", [1, 3])],
        [info("y", None)],
        weights(w=np.ones((4, 2))),
    )
    sentence = refusal(proto, tmp_path)
    assert "depends on the data" not in sentence
    assert "culprit" in sentence


@pytest.mark.parametrize("held_by", ["initialiser", "Constant"])
def test_weight_with_too_little_data_is_refused(held_by: str, tmp_path: Path) -> None:
    short = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], raw_data=bytes(8))
    nodes = [node("Neg", ["w"], ["v"]), node("Add", ["x", "v"], ["y"])]
    if held_by == "Constant":
        nodes.insert(0, node("Constant", [], ["w"], value=short))
    proto = model(
        nodes, [info("x", [1, 4])], [info("y", [1, 4])], [short] if len(nodes) == 2 else []
    )
    assert "'w'" in refusal(proto, tmp_path)


@pytest.mark.parametrize("operator", ["Shape", "Size", "Identity", "Relu"])
def test_node_without_its_input_is_refused(operator: str, tmp_path: Path) -> None:
    proto = model(
        [node(operator, [], ["i"]), node("Neg", ["i"], ["y"])],
        [info("x", [1, 4])],
        [info("y", None)],
    )
    refusal(proto, tmp_path)


# ------------------------------------------------------------------------------------------ binding


def open_model(*shape: int | str) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], [info("x", shape)], [info("y", None)])


def test_open_batch_becomes_one(tmp_path: Path) -> None:
    cleaned = canonical(open_model("N", 3), tmp_path)
    assert [spec.shape for spec in (*cleaned.inputs, *cleaned.outputs)] == [(1, 3), (1, 3)]
    assert cleaned.id.input_shapes == (("x", (1, 3)),)
    assert_same_answers(cleaned)


@pytest.mark.parametrize("name", ["x", ""])
def test_open_dimensions_are_bound_by_name(name: str, tmp_path: Path) -> None:
    cleaned = canonical(open_model("N", 3, "H"), tmp_path, {name: (2, 3, 5)})
    assert cleaned.inputs[0].shape == cleaned.outputs[0].shape == (2, 3, 5)
    assert cleaned.id.input_shapes == (("x", (2, 3, 5)),)


def test_empty_name_still_means_the_only_input_when_weights_are_listed_too(tmp_path: Path) -> None:
    proto = models.residual()
    proto.graph.input.append(info("w", [4, 4]))
    assert canonical(proto, tmp_path, {"": (1, 4)}).inputs[0].name == "x"


def test_open_dimension_without_a_size_is_refused(tmp_path: Path) -> None:
    sentence = refusal(open_model("N", 3, "H"), tmp_path)
    assert "input 'x' leaves dimensions open (Nx3xH)" in sentence
    assert "--shape x=" in sentence


@pytest.mark.parametrize("shape", [(1, 4), (1, 3, 5), (3,), ()])
def test_shape_that_does_not_bind_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    assert "does not bind to input 'x' of shape Nx3" in refusal(
        open_model("N", 3), tmp_path, {"x": shape}
    )


def test_shape_for_an_unknown_input_is_refused(tmp_path: Path) -> None:
    assert "has no input 'z' to bind; it has x" in refusal(
        open_model("N", 3), tmp_path, {"z": (1, 3)}
    )
    assert "to bind; it has a, b" in refusal(models.two_ended(), tmp_path, {"": (1, 4)})


def test_open_dimension_must_not_be_left_open_by_hand(tmp_path: Path) -> None:
    assert "'x'" in refusal(open_model("N", 3), tmp_path, {"x": (-1, 3)})


def test_input_without_a_shape_asks_for_one(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["y"])], [info("x", None)], [info("y", None)])
    assert "--shape x=" in refusal(proto, tmp_path)


def test_input_without_a_shape_takes_the_one_given(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["y"])], [info("x", None)], [info("y", None)])
    assert canonical(proto, tmp_path, {"x": (1, 3)}).outputs[0].shape == (1, 3)


def test_minus_one_is_an_open_dimension(tmp_path: Path) -> None:
    assert canonical(open_model(1, -1), tmp_path, {"x": (1, 3)}).inputs[0].shape == (1, 3)


def test_shapes_beyond_the_batch_follow_from_the_binding(tmp_path: Path) -> None:
    cleaned = canonical(models.shape_arithmetic(), tmp_path, {"x": (5, 2, 3)})
    assert cleaned.outputs[0].shape == (5, 6)
    assert op_types(cleaned) == ["Relu", "Reshape", "Neg"]
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


# ------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("ir", [3, 8])
def test_initialisers_listed_as_inputs_are_no_inputs(ir: int, tmp_path: Path) -> None:
    proto = models.residual()
    proto.graph.input.insert(0, info("w", [4, 4]))
    proto.ir_version = ir
    cleaned = canonical(proto, tmp_path)
    assert [spec.name for spec in cleaned.inputs] == ["x"]
    assert cleaned.id.input_shapes == (("x", (1, 4)),)
    assert cleaned.proto.ir_version == max(4, ir)
    # What is listed is the default of that input: the source runs without it, too.
    assert_same_answers(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


def test_weights_of_ir_3_that_only_a_branch_reads_stay(tmp_path: Path) -> None:
    proto = models.branching()
    proto.graph.input.append(info("w", [4]))
    proto.ir_version = 3
    cleaned = canonical(proto, tmp_path)
    assert [spec.name for spec in cleaned.inputs] == ["x", "late"]
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned, seed) for seed in range(3)])


def test_large_weights_are_not_carried_through_shape_inference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []
    real = onnx.shape_inference.infer_shapes

    def watched(proto: onnx.ModelProto, *args: Any, **options: Any) -> onnx.ModelProto:
        seen.extend(int(np.prod(tensor.dims)) for tensor in proto.graph.initializer)
        return real(proto, *args, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", watched)
    cleaned = canonical(models.shared_constants(), tmp_path)
    assert max(seen, default=0) <= KEPT_ELEMENTS
    assert "big" in {tensor.name for tensor in cleaned.proto.graph.initializer}
    assert "big" not in cleaned.specs
    assert cleaned.specs["negated"].shape == (64, 128)


# --------------------------------------------------------------------------------------- identities


def test_identities_go_and_their_readers_read_on(tmp_path: Path) -> None:
    proto = model(
        [
            node("Identity", ["x"], ["i"]),
            node("Relu", ["i"], ["r"]),
            node("Identity", ["r"], ["j"]),
            node("Identity", ["j"], ["k"]),
            node("Add", ["j", "k"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )
    cleaned = canonical(proto, tmp_path)
    assert op_types(cleaned) == ["Relu", "Add"]
    assert_same_answers(cleaned)


def test_identity_before_an_output_leaves_the_output_its_name(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Neg", ["r"], ["n"]),
            node("Identity", ["r"], ["out"]),
            node("Tanh", ["r"], ["t"]),
        ],
        [info("x", [1, 4])],
        [info("out", [1, 4]), info("t", [1, 4]), info("n", [1, 4])],
    )
    cleaned = canonical(proto, tmp_path)
    assert op_types(cleaned) == ["Relu", "Neg", "Tanh"]
    assert_same_answers(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


def test_identities_that_are_needed_stay(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Identity", ["x"], ["same"]),  # of an input
            node("Identity", ["w"], ["given"]),  # of a weight
            node("Identity", ["r"], ["one"]),
            node("Identity", ["r"], ["other"]),  # of a value that is an output already
        ],
        [info("x", [1, 4])],
        [info(name, [1, 4]) for name in ("same", "given", "one", "other")],
        weights(w=np.ones((1, 4))),
    )
    cleaned = canonical(proto, tmp_path)
    assert [spec.name for spec in cleaned.outputs] == ["same", "given", "one", "other"]
    assert op_types(cleaned) == ["Relu", "Identity", "Identity", "Identity"]
    assert_same_answers(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


def test_two_identities_of_one_value_of_which_one_is_an_output(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Identity", ["r"], ["alias"]),
            node("Identity", ["r"], ["out"]),
            node("Neg", ["alias"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("out", [1, 4]), info("y", [1, 4])],
    )
    cleaned = canonical(proto, tmp_path)
    assert_same_answers(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


def test_branches_follow_a_renamed_capture(tmp_path: Path) -> None:
    proto = models.branching()
    # neg -> hidden -> identity -> captured, which only the branches read
    proto.graph.node[0].output[0] = "hidden"
    proto.graph.node.insert(1, node("Identity", ["hidden"], ["captured"]))
    cleaned = canonical(proto, tmp_path)
    assert "Identity" not in op_types(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned, seed) for seed in range(3)])


def test_branches_follow_a_capture_that_became_an_output(tmp_path: Path) -> None:
    proto = models.branching()
    proto.graph.node.append(node("Identity", ["captured"], ["out"]))
    proto.graph.output.append(info("out", [1, 4]))
    cleaned = canonical(proto, tmp_path)
    assert "Identity" not in op_types(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned, seed) for seed in range(3)])


def test_output_may_be_an_input(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.output.append(info("x", [1, 4]))
    cleaned = canonical(proto, tmp_path)
    assert {point.name: point.tensors for point in cut_points(cleaned)}["n"] == ("x", "n")
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


def test_output_may_be_a_weight(tmp_path: Path) -> None:
    proto = models.residual()
    proto.graph.output.append(info("w", [4, 4]))
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


# ------------------------------------------------------------------------------------------ folding


@pytest.mark.parametrize(
    "attribute",
    [
        {"value": numpy_helper.from_array(np.ones(4, np.float32))},
        {"value_floats": [1.0, 1.0, 1.0, 1.0]},
        {"value_float": 1.0},
        {"sparse_value": None},
    ],
    ids=lambda attribute: next(iter(attribute)),
)
def test_constants_become_weights(attribute: dict[str, Any], tmp_path: Path) -> None:
    if "sparse_value" in attribute:
        attribute = {
            "sparse_value": helper.make_sparse_tensor(
                helper.make_tensor("", TensorProto.FLOAT, [4], [1.0] * 4),
                helper.make_tensor("", TensorProto.INT64, [4], [0, 1, 2, 3]),
                [4],
            )
        }
    proto = model(
        [node("Constant", [], ["c"], **attribute), node("Add", ["x", "c"], ["y"])],
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )
    cleaned = canonical(proto, tmp_path)
    if "sparse_value" not in attribute:  # a Constant that cannot be folded may stay
        assert op_types(cleaned) == ["Add"]
    assert_same_answers(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


@pytest.mark.parametrize(
    ("operator", "attributes", "value"),
    [
        ("Shape", {}, [1, 2, 3, 5]),
        ("Shape", {"start": 1}, [2, 3, 5]),
        ("Shape", {"end": -1}, [1, 2, 3]),
        ("Shape", {"start": -2, "end": 4}, [3, 5]),
        ("Shape", {"start": 1, "end": 99}, [2, 3, 5]),
        ("Size", {}, 30),
    ],
)
def test_shapes_fold(
    operator: str, attributes: dict[str, int], value: list[int] | int, tmp_path: Path
) -> None:
    shape_of = node(operator, ["x"], ["s"])
    shape_of.attribute.extend(helper.make_attribute(key, at) for key, at in attributes.items())
    proto = model(
        [
            shape_of,
            node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
            node("ReduceSum", ["x"], ["sum"], keepdims=0),
            node("Add", ["f", "sum"], ["y"]),
        ],
        [info("x", [1, 2, 3, 5])],
        [info("y", None)],
    )
    cleaned = canonical(proto, tmp_path)
    assert op_types(cleaned) == ["ReduceSum", "Add"]
    held = {t.name: numpy_helper.to_array(t) for t in cleaned.proto.graph.initializer}
    np.testing.assert_array_equal(held["f"], value)
    assert_same_answers(cleaned)


def test_shape_of_a_weight_does_not_hide_what_follows(tmp_path: Path) -> None:
    proto = model(
        [
            node("Shape", ["w"], ["s"]),
            node("Expand", ["x", "s"], ["e"]),
            node("Add", ["e", "w"], ["y"]),
        ],
        [info("x", [1, 1])],
        [info("y", None)],
        weights(w=np.ones((80, 90))),
    )
    cleaned = canonical(proto, tmp_path)
    assert cleaned.specs["e"].shape == cleaned.outputs[0].shape == (80, 90)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


def test_shape_that_is_known_after_folding_is_folded_in_turn(tmp_path: Path) -> None:
    # Inference alone does not follow Max, so `flat` has a shape only once `target` is folded.
    proto = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Max", ["s", "least"], ["target"]),
            node("Reshape", ["x", "target"], ["flat"]),
            node("Shape", ["flat"], ["again"]),
            node("ReduceProd", ["again"], ["count"], keepdims=0),
            node("Cast", ["count"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["flat", "f"], ["y"]),
        ],
        [info("x", [2, 6])],
        [info("y", None)],
        weights(least=np.array([2, 3])),
    )
    cleaned = canonical(proto, tmp_path)
    assert op_types(cleaned) == ["Reshape", "Mul"]
    assert_same_answers(cleaned)


def test_large_constants_are_not_computed_with(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.ones(FOLDED_ELEMENTS + 1, np.float32))
    proto = model(
        [
            node("Constant", [], ["c"], value=value),
            node("ReduceSum", ["c"], ["sum"], keepdims=0),
            node("Add", ["x", "sum"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", None)],
    )
    cleaned = canonical(proto, tmp_path)
    assert op_types(cleaned) == ["ReduceSum", "Add"]
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


@pytest.mark.parametrize(("elements", "left"), [(FOLDED_ELEMENTS, 1), (FOLDED_ELEMENTS + 1, 2)])
def test_folding_never_makes_a_large_weight(elements: int, left: int, tmp_path: Path) -> None:
    proto = model(
        [node("ConstantOfShape", ["n"], ["c"]), node("Add", ["x", "c"], ["y"])],
        [info("x", [elements])],
        [info("y", None)],
        weights(n=np.array([elements])),
    )
    assert len(op_types(canonical(proto, tmp_path, {"x": (elements,)}))) == left


def test_quantised_weights_are_not_blown_up(tmp_path: Path) -> None:
    proto = model(
        [node("DequantizeLinear", ["q", "scale"], ["w"]), node("Mul", ["x", "w"], ["y"])],
        [info("x", [1, 4])],
        [info("y", None)],
        weights(q=np.array([1, 2, 3, 4], np.int8), scale=np.float32(0.5)),
    )
    cleaned = canonical(proto, tmp_path)
    assert op_types(cleaned) == ["DequantizeLinear", "Mul"]
    assert [point.name for point in cut_points(cleaned)] == [INPUT_CUT, OUTPUT_CUT]
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


def test_random_values_are_not_frozen(tmp_path: Path) -> None:
    proto = model(
        [node("RandomUniform", [], ["u"], shape=[1, 4]), node("Add", ["x", "u"], ["y"])],
        [info("x", [1, 4])],
        [info("y", None)],
    )
    assert op_types(canonical(proto, tmp_path)) == ["RandomUniform", "Add"]


def test_constant_output_stays_an_output(tmp_path: Path) -> None:
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Neg", ["w"], ["fixed"]),
            node("Add", ["r", "fixed"], ["y"]),
        ],
        [info("x", [1, 4])],
        [info("y", None), info("fixed", None)],
        weights(w=np.ones(4)),
    )
    cleaned = canonical(proto, tmp_path)
    assert [spec.name for spec in cleaned.outputs] == ["y", "fixed"]
    assert_same_answers(cleaned)
    models.assert_exact_at_every_cut(cleaned, [random_feed(cleaned)])


# ------------------------------------------------------------------------------------ what is left


def test_dead_nodes_and_weights_go(tmp_path: Path) -> None:
    proto = models.residual()
    proto.graph.node.append(node("Neg", ["r"], ["unread"]))
    proto.graph.initializer.extend(weights(unused=np.ones(9)))
    cleaned = canonical(proto, tmp_path)
    assert op_types(cleaned) == ["MatMul", "Relu", "Add", "Tanh"]
    assert [tensor.name for tensor in cleaned.proto.graph.initializer] == ["w"]


def test_what_only_a_branch_reads_is_not_dead(tmp_path: Path) -> None:
    cleaned = canonical(models.branching(), tmp_path)
    assert "Neg" in op_types(cleaned)
    assert "w" in {tensor.name for tensor in cleaned.proto.graph.initializer}


def test_source_is_left_as_it_was(tmp_path: Path) -> None:
    source = load(saved(models.shape_arithmetic(), tmp_path / "model.onnx"))
    before = source.proto.SerializeToString()
    canonicalise(source, {"x": (3, 2, 3)})
    canonicalise(source)
    assert source.proto.SerializeToString() == before


def test_canonical_form_of_the_canonical_form_is_itself(tmp_path: Path) -> None:
    for name, build in models.ALL.items():
        cleaned = canonical(build(), tmp_path)
        again = canonical(onnx.load_from_string(cleaned.file().content), tmp_path)
        assert again.file().content == cleaned.file().content, name


def test_wrong_shapes_stated_in_the_file_are_not_believed(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.value_info.append(info("r", [9, 9]))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    cleaned = canonical(proto, tmp_path)
    assert cleaned.specs["r"].shape == cleaned.outputs[0].shape == (1, 4)
    assert not cleaned.proto.graph.value_info


# ----------------------------------------------------------------------------------------- identity


def test_equal_files_have_one_identity_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    one = canonicalise(load(saved(models.chain(), tmp_path / "one.onnx")))
    other = canonicalise(load(saved(models.chain(), tmp_path / "b" / "other.onnx")))
    assert one.id == other.id
    assert one.id.digest == other.id.digest
    assert len(one.id.digest) == 64


def test_identity_changes_with_weights_and_with_shapes(tmp_path: Path) -> None:
    changed = models.residual()
    changed.graph.initializer[0].CopyFrom(weights(w=np.eye(4))[0])
    ids = [
        canonical(models.residual(), tmp_path).id,
        canonical(changed, tmp_path).id,
        canonical(open_model("N", 3), tmp_path, {"x": (1, 3)}).id,
        canonical(open_model("N", 3), tmp_path, {"x": (2, 3)}).id,
    ]
    assert len({model_id.digest for model_id in ids}) == len(ids)


def test_default_batch_and_batch_of_one_are_the_same_model(tmp_path: Path) -> None:
    bound = canonical(open_model("N", 3), tmp_path, {"x": (1, 3)})
    assert bound.id == canonical(open_model("N", 3), tmp_path).id


# ------------------------------------------------------------------------------------ reading nodes


def test_captures_leave_out_what_the_subgraph_has_itself() -> None:
    inner = helper.make_graph(
        [
            node("Add", ["given", "held"], ["made"]),
            node("Mul", ["made", "outer"], ["last"]),
        ],
        "inner",
        [info("given", [1])],
        [info("last", [1]), info("handed", [1])],
        initializer=weights(held=[1.0]),
    )
    assert captures(inner) == ["outer", "handed"]
    outside = node("Loop", ["n", "", "n"], ["l", ""], body=inner)
    assert reads(outside) == ["n", "outer", "handed"]
    assert writes(outside) == ["l"]


def test_rename_reaches_subgraphs_and_values_handed_out() -> None:
    branch = helper.make_graph(
        [node("Neg", ["a"], ["made"])], "branch", [], [info("made", [1]), info("a", [1])]
    )
    item = node("If", ["a"], ["out", "same"], then_branch=branch, else_branch=branch)
    rename(item, {"a": "b", "made": "wrong"})
    assert reads(item) == ["b"]
    assert [value.name for value in item.attribute[0].g.output] == ["made", "b"]


def test_label_is_the_name_else_what_is_made() -> None:
    assert label(node("Relu", ["x"], ["y"], name="named")) == "named"
    assert label(node("Relu", ["x"], ["y"])) == "y"
    assert label(node("Relu", ["x"], [])) == "Relu"
