"""Files that are wrong, or that ONNX knows too little about: one sentence, and it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from splitbed.errors import ModelError
from splitbed.graph import INPUT_CUT, OUTPUT_CUT, canonicalise, cut_points, extract, load
from tests import control_flow, exports, hard_models, models, transformers
from tests.hard_models import ROW, any_feed, choice, decision, external, held, subgraph
from tests.models import canonical, info, model, node, refusal, run, saved, weights

# ------------------------------------------------------------------ operators that ONNX has not got


@pytest.mark.parametrize(
    ("proto", "shape", "cut"),
    [
        (transformers.contributed(reshaped=False), (1, 3, transformers.WIDTH), "/tanh_0/out"),
        (exports.ending_in_a_loop(2), (2, 4), "start"),
        (exports.ending_in_a_loop("N"), (2, 4), "start"),
    ],
    ids=["contributed operators", "Loop", "Loop over an open batch"],
)
def test_stated_output_shape_is_believed_where_inference_knows_nothing(
    proto: onnx.ModelProto, shape: tuple[int, ...], cut: str, tmp_path: Path
) -> None:
    cleaned = canonical(proto, tmp_path, {"x": shape})
    assert cleaned.outputs[0].shape == shape
    legal = models.assert_exact_at_every_cut(cleaned, [any_feed(cleaned)])
    assert {INPUT_CUT, cut, OUTPUT_CUT} <= {point.name for point in legal}


def with_operator(operator: str, domain: str, name: str = "culprit") -> onnx.ModelProto:
    """A node of this operator in front of the output, whose shape the file does not state."""
    return model(
        [node("Relu", ["x"], ["r"]), node(operator, ["r"], ["y"], name, domain=domain)],
        [info("x", ROW)],
        [info("y", None)],
    )


@pytest.mark.parametrize("domain", ["no.such", "com.microsoft"])
def test_operator_of_an_unknown_domain_is_named(domain: str, tmp_path: Path) -> None:
    proto = hard_models.with_domain(with_operator("NoSuchOperator", domain), domain)
    sentence = refusal(proto, tmp_path)
    assert "depends on the data" not in sentence
    assert "culprit" in sentence or domain in sentence


def test_why_not_does_not_blame_the_data_for_an_unknown_operator(tmp_path: Path) -> None:
    points = cut_points(canonical(transformers.contributed(reshaped=True), tmp_path))
    reasons = [point.why_not for point in points if point.cut is None]
    assert all(reasons)
    assert not [why for why in reasons if "depends on the data" in why]


def test_missing_opset_import_is_named(tmp_path: Path) -> None:
    sentence = refusal(with_operator("Gelu", "com.microsoft"), tmp_path)
    assert "culprit" in sentence
    assert "com.microsoft" in sentence


def test_missing_opset_import_is_named_where_the_node_is_not(tmp_path: Path) -> None:
    sentence = refusal(with_operator("Gelu", "com.microsoft", ""), tmp_path)
    assert "com.microsoft" in sentence
    assert "'y'" in sentence


def test_missing_import_of_the_standard_operators_is_named(tmp_path: Path) -> None:
    proto = hard_models.with_domain(models.chain(), "own")
    del proto.opset_import[0]
    proto.graph.node[0].name = "culprit"
    sentence = refusal(proto, tmp_path)
    assert "culprit" in sentence
    assert "opset" in sentence


def test_long_name_of_the_standard_domain(tmp_path: Path) -> None:
    proto = models.residual()
    proto.opset_import[0].domain = "ai.onnx"
    for item in proto.graph.node:
        item.domain = "ai.onnx"
    cleaned = canonical(proto, tmp_path)
    models.assert_exact_at_every_cut(cleaned, [any_feed(cleaned)])


# ------------------------------------------------------------------------------------ external data


def split_weights(folder: Path, files: tuple[str, str]) -> tuple[Path, onnx.ModelProto]:
    """A model with two weights in these files, and the same model with them inside."""
    inside = model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Add", ["m", "b"], ["a"]),
            node("Add", ["a", "again"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", ROW)],
        weights(w=np.linspace(-1, 1, 16).reshape(4, 4), b=np.arange(4.0), again=np.arange(4.0)),
    )
    outside = onnx.ModelProto()
    outside.CopyFrom(inside)
    tensors = held(outside)
    pieces = {name: bytearray() for name in files}
    for name, file in (("w", files[0]), ("b", files[1])):
        pieces[file] += bytes(-len(pieces[file]) % 64)
        pieces[file] += external(tensors[name], file, len(pieces[file]))
    # A third one is the same bytes as the second.
    tensors["again"].CopyFrom(tensors["b"])
    tensors["again"].name = "again"
    for file, content in pieces.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)
    return saved(outside, folder / "model.onnx"), inside


@pytest.mark.parametrize("files", [("w.bin", "w.bin"), ("w.bin", "b.bin"), ("data/w", "data/b")])
def test_external_data_of_several_tensors(files: tuple[str, str], tmp_path: Path) -> None:
    path, inside = split_weights(tmp_path, files)
    source = load(path)
    sizes = {file: (tmp_path / file).stat().st_size for file in files}
    assert source.file_bytes == path.stat().st_size + sum(sizes.values())
    assert {file.name for file in source.data_files} == {Path(file).name for file in files}
    cleaned = canonicalise(source)
    feed = any_feed(cleaned)
    wanted = run(inside.SerializeToString(), feed)["y"]
    for point in cut_points(cleaned):
        np.testing.assert_array_equal(models.recombined(cleaned, point, feed)["y"], wanted)
        parts = extract(cleaned, point)
        for part in filter(None, (parts.first, parts.second)):
            for tensor in onnx.load_from_string(part.content).graph.initializer:
                assert tensor.data_location != TensorProto.EXTERNAL, "the part is not complete"


@pytest.mark.parametrize("inside", ["the graph", "a branch"])
def test_external_data_of_a_constant_node(inside: str, tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.arange(4, dtype=np.float32), "held")
    (tmp_path / "held.bin").write_bytes(external(tensor, "held.bin"))
    constant = node("Constant", [], ["c"], value=tensor)
    then = [node("Add", ["h", "c"], ["t"])]
    proto = branched([constant, *then] if inside == "a branch" else then)
    if inside == "the graph":
        proto.graph.node.insert(0, constant)
    path = saved(proto, tmp_path / "model.onnx")
    assert load(path).file_bytes == path.stat().st_size + 16
    cleaned = canonicalise(load(path))
    models.assert_exact_at_every_cut(cleaned, [any_feed(cleaned, seed) for seed in range(3)])
    (tmp_path / "held.bin").unlink()
    with pytest.raises(ModelError, match=r"the external data held\.bin of"):
        load(path)


@pytest.mark.parametrize("gone", ["w.bin", "b.bin"])
def test_each_missing_file_of_external_data_is_named(gone: str, tmp_path: Path) -> None:
    path, _ = split_weights(tmp_path, ("w.bin", "b.bin"))
    (tmp_path / gone).unlink()
    with pytest.raises(ModelError, match=f"the external data {gone} of"):
        load(path)


@pytest.mark.parametrize("cut_off", ["w", "b"])
def test_file_of_external_data_that_ends_early_names_the_tensor(
    cut_off: str, tmp_path: Path
) -> None:
    path, _ = split_weights(tmp_path, ("w.bin", "w.bin"))
    data = tmp_path / "w.bin"
    data.write_bytes(data.read_bytes()[: 60 if cut_off == "w" else 70])
    with pytest.raises(ModelError, match=f"'{cut_off}'"):
        canonicalise(load(path))


def test_external_data_of_a_constant_in_a_function(tmp_path: Path) -> None:
    path = shifting(tmp_path, "held.bin")
    source = load(path)
    assert source.file_bytes == path.stat().st_size + 16
    feed = {"x": np.zeros((1, 4), np.float32)}
    cleaned = canonicalise(source)
    for point in cut_points(cleaned):
        got = models.recombined(cleaned, point, feed)["y"]
        np.testing.assert_array_equal(got, [[0, -1, -2, -3]])


def test_external_data_of_a_function_outside_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with pytest.raises(ModelError, match="outside its own folder"):
        load(shifting(folder, "../held.bin"))


def shifting(folder: Path, location: str) -> Path:
    """A model whose function holds a constant with its data in another file."""
    tensor = numpy_helper.from_array(np.arange(4, dtype=np.float32), "held")
    (folder / location).write_bytes(external(tensor, location))
    function = helper.make_function(
        "own",
        "Shift",
        ["v"],
        ["w"],
        [node("Constant", [], ["c"], value=tensor), node("Add", ["v", "c"], ["w"])],
        [helper.make_opsetid("", 17)],
    )
    proto = model(
        [node("Shift", ["x"], ["s"], domain="own"), node("Neg", ["s"], ["y"])],
        [info("x", ROW)],
        [info("y", ROW)],
    )
    hard_models.with_domain(proto, "own", [function])
    return saved(proto, folder / "model.onnx")


# ---------------------------------------------------------------------------------------- bad input


def branched(
    nodes: list[onnx.NodeProto], output: str = "t", inputs: list[onnx.ValueInfoProto] | None = None
) -> onnx.ModelProto:
    """An If named `choice` whose first branch is given, for better or worse; `h` is made before."""
    then = subgraph("then", nodes, [info(output, ROW)], inputs or [])
    otherwise = subgraph("else", [node("Abs", ["x"], ["e"])], [info("e", ROW)])
    return model(
        [
            node("Relu", ["x"], ["h"]),
            *decision(),
            choice(then, otherwise),
            node("Add", ["i", "h"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", ROW)],
        weights(zero=np.float32(0)),
    )


def test_cycle_in_a_branch_is_named(tmp_path: Path) -> None:
    nodes = [node("Add", ["x", "t"], ["p"]), node("Neg", ["p"], ["t"])]
    assert "node 'choice' reads 't', which" in refusal(branched(nodes), tmp_path)


def test_output_that_a_branch_does_not_make_is_named(tmp_path: Path) -> None:
    sentence = refusal(branched([node("Neg", ["x"], ["t"])], "absent"), tmp_path)
    assert "'choice'" in sentence
    assert "'absent'" in sentence


def test_value_made_twice_in_a_branch_is_named(tmp_path: Path) -> None:
    nodes = [
        node("Neg", ["x"], ["q"]),
        node("Tanh", ["q"], ["q"]),
        node("Neg", ["q"], ["t"]),
    ]
    assert "'q' is made twice" in refusal(branched(nodes), tmp_path)


def test_value_made_again_in_a_branch_is_named(tmp_path: Path) -> None:
    nodes = [node("Neg", ["x"], ["h"]), node("Tanh", ["h"], ["t"])]
    assert "'h' is made twice" in refusal(branched(nodes), tmp_path)


def in_the_middle(operator: str, reads: list[str], **attributes: Any) -> onnx.ModelProto:
    """A node named `culprit`; after it the type and the shape are known again."""
    return model(
        [
            node("Relu", ["x"], ["r"]),
            node(operator, reads, ["b"], "culprit", **attributes),
            node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
            node("Reshape", ["c", "shape"], ["y"]),
        ],
        [info("x", ROW)],
        [info("y", None)],
        weights(shape=np.array([1, 4]), w=np.ones((5, 4)), n=np.arange(4), three=np.array([3])),
    )


@pytest.mark.parametrize(
    "proto",
    [
        pytest.param(in_the_middle("Add", ["r"]), id="too few inputs"),
        pytest.param(in_the_middle("MatMul", ["r", "w"]), id="shapes"),
        pytest.param(in_the_middle("NoSuchOperator", ["r"]), id="operator"),
        pytest.param(in_the_middle("Add", ["r", "n"]), id="types"),
    ],
)
def test_contradiction_in_the_middle_is_named(proto: onnx.ModelProto, tmp_path: Path) -> None:
    assert "culprit" in refusal(proto, tmp_path)


def test_contradiction_of_a_node_without_a_name_is_named_by_what_it_makes(tmp_path: Path) -> None:
    proto = models.residual()
    proto.graph.initializer[0].CopyFrom(weights(w=np.ones((5, 4)))[0])
    assert "'m'" in refusal(proto, tmp_path)


def test_inputs_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    refusal(transformers.transformer(), tmp_path, {"ids": (2, 5), "mask": (2, 4)})


def test_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    calls = [node("F", ["v"], ["q"], domain="own"), node("Neg", ["q"], ["w"])]
    proto = with_operator("F", "own")
    hard_models.with_domain(
        proto, "own", [helper.make_function("own", "F", ["v"], ["w"], calls, imports)]
    )
    sentence = refusal(proto, tmp_path)
    assert "own" in sentence
    assert "F" in sentence


def test_function_that_reads_nothing_known_is_refused(tmp_path: Path) -> None:
    inner = [node("Neg", ["nowhere"], ["w"], name="inner")]
    proto = with_operator("F", "own")
    hard_models.with_domain(
        proto,
        "own",
        [helper.make_function("own", "F", ["v"], ["w"], inner, [helper.make_opsetid("", 17)])],
    )
    assert "node 'inner__1' reads 'nowhere'" in refusal(proto, tmp_path)


@pytest.mark.parametrize("spoil", ["no branch", "no condition", "no data", "another output"])
def test_broken_if_whose_condition_is_a_weight_is_refused(spoil: str, tmp_path: Path) -> None:
    inner = [node("Neg", ["x"], ["t"])]
    graph = subgraph("b", inner, [info("t", None)])
    item = node("If", ["yes"], ["i"], "choice", then_branch=graph, else_branch=graph)
    held = weights(yes=np.array(True))
    match spoil:
        case "no branch":
            del item.attribute[:]
        case "no condition":
            del item.input[:]
        case "no data":
            held[0].ClearField("raw_data")
        case "another output":
            item.output.append("second")
    proto = model([item, node("Relu", ["i"], ["y"])], [info("x", ROW)], [info("y", None)], held)
    assert "choice" in (said := refusal(proto, tmp_path)) or "'yes'" in said


@pytest.mark.parametrize("attribute", ["then_branch", "else_branch"])
def test_if_without_a_branch_is_refused(attribute: str, tmp_path: Path) -> None:
    proto = branched([node("Neg", ["x"], ["t"])])
    chosen = next(item for item in proto.graph.node if item.op_type == "If")
    kept = [a for a in chosen.attribute if a.name != attribute]
    del chosen.attribute[:]
    chosen.attribute.extend(kept)
    assert "choice" in refusal(proto, tmp_path)


@pytest.mark.parametrize("build", [control_flow.deep_captures, hard_models.nested_functions])
def test_file_with_subgraphs_truncated_anywhere_is_refused(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    content = build().SerializeToString()
    whole = onnx.load_from_string(content)
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        sentence = ""
        try:
            cleaned = canonicalise(load(path))
        except ModelError as error:
            sentence = str(error)
        # Only what comes after the graph may be missing.
        assert sentence or cleaned.source.proto.graph == whole.graph
        assert "\n" not in sentence
