"""Learned codecs in head and tail: what runs is the pair's, and what cannot be is refused."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import helper

from splitbed import codec
from splitbed.errors import (
    CodecError,
    CodecUnknown,
    CutUnknown,
    ModelError,
    ModelMismatch,
    ModelUnknown,
    SplitbedError,
    UsageError,
)
from splitbed.graph import (
    CanonicalModel,
    Coded,
    Parts,
    cut_points,
    extract,
    find_cut,
    halves,
    load_pair,
    quantising,
    with_pair,
)
from splitbed.pair import CodeRange, PairId, check_name, find_folder
from splitbed.runnable import carry
from splitbed.tensor import Array, TensorSpec
from tests.models import canonical, info, model, node, open_part, random_feed, weights
from tests.unit.edges import tiny_model
from tests.unit.pairs import Networks, described, negations, projections, write_description
from tests.unit.test_graph_random import graphs


def parts_at(cleaned: CanonicalModel, name: str) -> Parts:
    return extract(cleaned, find_cut(cleaned, cut_points(cleaned), name))


def coded(
    folder: Path,
    cleaned: CanonicalModel,
    parts: Parts,
    networks: Networks,
    boundary: Sequence[TensorSpec] | None = None,
    **changes: Any,
) -> Coded:
    """The parts with a pair in them that was written to a folder and read again."""
    boundary = parts.cut.boundary if boundary is None else boundary
    of = described(folder / "pair", cleaned.source.path, parts.cut.name, boundary, networks, None)
    write_description(folder / "pair", of | changes)
    return with_pair(parts, load_pair(folder / "pair", "pair"))


def one_by_one(
    parts: Parts, networks: Networks, feed: dict[str, Array], outputs: Sequence[str]
) -> tuple[list[Array], dict[str, Array]]:
    """Code and outputs of head, encoder, decoder and tail, one after the other."""
    encoder, decoder, code = networks
    assert parts.first is not None
    assert parts.second is not None
    names = [spec.name for spec in parts.cut.boundary]
    boundary = carry(open_part(parts.first.content), feed, names)
    made = carry(open_part(encoder.SerializeToString()), boundary, [spec.name for spec in code])
    again = boundary | carry(
        open_part(decoder.SerializeToString()), made, [v.name for v in decoder.graph.output]
    )
    return list(made.values()), carry(open_part(parts.second.content), again, outputs)


def spliced(found: Parts, feed: dict[str, Array], outputs: Sequence[str]) -> Any:
    """What crosses, and the outputs."""
    assert found.first is not None
    assert found.second is not None
    crossing = [spec.name for spec in found.cut.boundary]
    made = carry(open_part(found.first.content), feed, crossing)
    for spec in found.cut.boundary:
        assert spec.matches(made[spec.name])
    return list(made.values()), carry(open_part(found.second.content), made, outputs)


def outputs_of(cleaned: CanonicalModel) -> list[str]:
    return [value.name for value in cleaned.proto.graph.output]


def alike(made: Any, wanted: Any) -> None:
    for a, b in zip(made[0], wanted[0], strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name, value in wanted[1].items():
        np.testing.assert_allclose(made[1][name], value, rtol=1e-4, atol=1e-5)


# What runs.


@pytest.mark.parametrize("name", ["left", "right", "sum"])
def test_the_parts_do_what_all_four_do_one_after_the_other(name: str, tmp_path: Path) -> None:
    """At `left` the head's own input crosses; at both two tensors do."""
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, name)
    networks = projections(parts.cut.boundary, 2)
    found = coded(tmp_path, cleaned, parts, networks)
    assert found.parts.cut.boundary == networks[2]
    assert found.parts.cut.name == name
    feed = random_feed(cleaned, 3)
    wanted = one_by_one(parts, networks, feed, ["scores"])
    alike(spliced(found.parts, feed, ["scores"]), wanted)
    assert found.parts.first is not None
    plain: Any = carry(open_part(cleaned.file().content), feed, ["scores"])["scores"]
    assert np.abs(wanted[1]["scores"] - plain).max() > 0.1  # a random pair loses much


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(), st.integers(0, 2**32 - 1), st.data())
def test_a_pair_that_loses_nothing_changes_nothing(
    proto: onnx.ModelProto, seed: int, data: st.DataObject
) -> None:
    """At every cut of any graph, whatever names the pair has inside: also those of the model."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cleaned = canonical(proto, folder)
        own = sorted({value for item in proto.graph.node for value in item.output})
        feed, names = random_feed(cleaned, seed), outputs_of(cleaned)
        whole = carry(open_part(cleaned.file().content), feed, names)
        for point in cut_points(cleaned):
            if point.cut is None:
                continue
            parts = extract(cleaned, point)
            floats = [spec for spec in point.cut.boundary if spec.is_float]
            if parts.first is None or parts.second is None or not floats:
                continue
            chosen = data.draw(st.lists(st.sampled_from(floats), min_size=1, unique=True))
            inside = data.draw(st.lists(st.sampled_from(own), min_size=1, max_size=3, unique=True))
            free = [name for name in inside if name not in {s.name for s in chosen}]
            networks = negations(chosen, free or ["inside"])
            found = coded(folder, cleaned, parts, networks, chosen).parts
            assert {s.name for s in found.cut.boundary[len(chosen) :]} == {
                s.name for s in point.cut.boundary
            } - {s.name for s in chosen}
            _, made = spliced(found, feed, names)
            for name, value in whole.items():
                np.testing.assert_array_equal(made[name], value)
            event("compared")


def test_a_code_that_is_called_like_a_value_of_the_model_gets_another_name(tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    encoder, decoder, code = projections(parts.cut.boundary, 2)
    for network, ends in ((encoder, encoder.graph.output), (decoder, decoder.graph.input)):
        ends[0].name = "flat"
        for item in network.graph.node:
            for names in (item.input, item.output):
                names[:] = ["flat" if name == "code" else name for name in names]
    networks = encoder, decoder, (msgspec.structs.replace(code[0], name="flat"),)
    found = coded(tmp_path, cleaned, parts, networks)
    assert [spec.name for spec in found.parts.cut.boundary] == ["learned.flat"]
    feed = random_feed(cleaned)
    alike(spliced(found.parts, feed, ["scores"]), one_by_one(parts, networks, feed, ["scores"]))


def test_a_model_with_names_like_ours(tmp_path: Path) -> None:
    nodes = [
        node("Neg", ["x"], ["learned.encoder.inside0"]),
        node("Neg", ["learned.encoder.inside0"], ["y"]),
        node("Neg", ["y"], ["learned.decoder.w0"]),
    ]
    ends = info("x", [1, 3, 2, 2]), info("learned.decoder.w0", [1, 3, 2, 2])
    cleaned = canonical(model(nodes, ends[:1], ends[1:]), tmp_path)
    parts = parts_at(cleaned, "y")
    networks = projections(parts.cut.boundary, 2)
    found = coded(tmp_path, cleaned, parts, networks)
    feed = random_feed(cleaned)
    alike(
        spliced(found.parts, feed, outputs_of(cleaned)),
        one_by_one(parts, networks, feed, outputs_of(cleaned)),
    )


def test_a_code_of_whole_numbers(tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    (spec,) = parts.cut.boundary
    code = TensorSpec("code", "uint8", spec.shape)
    ends = [info(s.name, s.shape, s.dtype) for s in (spec, code)]
    half = weights(ten=np.array(10.0))
    encoder = model(
        [
            node("Mul", ["sum", "ten"], ["scaled"]),
            node("Cast", ["scaled"], ["code"], to=onnx.TensorProto.UINT8),
        ],
        *(ends[:1], ends[1:], half),
    )
    decoder = model(
        [
            node("Cast", ["code"], ["float"], to=onnx.TensorProto.FLOAT),
            node("Div", ["float", "ten"], ["sum"]),
        ],
        *(ends[1:], ends[:1], half),
    )
    found = coded(tmp_path, cleaned, parts, (encoder, decoder, (code,)))
    feed = random_feed(cleaned)
    alike(
        spliced(found.parts, feed, ["scores"]),
        one_by_one(parts, (encoder, decoder, (code,)), feed, ["scores"]),
    )
    (written,) = codec.plan("learned:pair+zstd:3", found.parts.cut.boundary, None)
    assert [stage.id for stage in written.stages] == ["raw", "zstd"]


def test_quantising_in_the_graph_on_top(tmp_path: Path) -> None:
    """The symbols of the code, of the same bytes as numpy's, and a tail that takes them."""
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "right")
    found = coded(tmp_path, cleaned, parts, projections(parts.cut.boundary, 2)).parts
    boundary = found.cut.boundary
    text = "learned:pair+quantize:bits=4,low=0,high=1,where=graph+zstd:3"
    codecs = codec.plan(text, boundary, None)
    inside = quantising(found, codec.quantisers(codecs, boundary))
    feed = random_feed(cleaned)
    answers: list[tuple[list[bytes], Any]] = []
    for these, written in ((inside, codecs), (found, codec.by_numpy(codecs))):
        assert these.first is not None
        assert these.second is not None
        working = [codec.build(w, s) for w, s in zip(written, boundary, strict=True)]
        taken = [name for one in working for name in one.taken]
        made = carry(open_part(these.first.content), feed, taken)
        payloads = [bytes(one.encode_from(made)) for one in working]
        decoded = {o.spec.name: o.decode(p) for o, p in zip(working, payloads, strict=True)}
        out = carry(open_part(these.second.content), decoded, ["scores"])["scores"]
        answers.append((payloads, out))
    assert answers[0][0] == answers[1][0]
    np.testing.assert_allclose(answers[0][1], answers[1][1], rtol=1e-5)
    for one in (inside.first, inside.second):
        assert one is not None
        assert one.partition.pair is not None
        assert len(one.partition.quantisers) == 2


def test_weights_of_any_size_go_into_the_part(tmp_path: Path) -> None:
    """Above DETACHED_BYTES a model's own weights stay in its file; a pair's are held."""
    nodes = [node("Neg", ["x"], ["y"]), node("Neg", ["y"], ["z"])]
    ends = info("x", [1, 200, 2, 2]), info("z", [1, 200, 2, 2])
    cleaned = canonical(model(nodes, ends[:1], ends[1:]), tmp_path)
    parts = parts_at(cleaned, "y")
    networks = projections(parts.cut.boundary, 100)
    found = coded(tmp_path, cleaned, parts, networks).parts
    for file in (tmp_path / "pair").iterdir():
        file.unlink()
    feed = random_feed(cleaned)
    alike(spliced(found, feed, ["z"]), one_by_one(parts, networks, feed, ["z"]))
    assert found.first is not None
    assert found.first.held_bytes > 80_000
    assert len(found.first.content) == found.first.partition.file_bytes > 80_000


@pytest.mark.parametrize("count", [1, 3])
def test_a_model_with_an_open_batch(count: int, tmp_path: Path) -> None:
    nodes = [node("Neg", ["x"], ["y"]), node("Neg", ["y"], ["z"])]
    ends = info("x", ["n", 3, 4, 4]), info("z", ["n", 3, 4, 4])
    cleaned = canonical(model(nodes, ends[:1], ends[1:]), tmp_path, {"x": (count, 3, 4, 4)})
    assert cleaned.batch_free
    parts = parts_at(cleaned, "y")
    networks = projections(parts.cut.boundary, 2)
    found = coded(tmp_path, cleaned, parts, networks)
    feed = random_feed(cleaned)
    alike(spliced(found.parts, feed, ["z"]), one_by_one(parts, networks, feed, ["z"]))


# Operators of another version.


@pytest.mark.parametrize("opset", [7, 11, 13, 16, 18, 21])
def test_operators_that_are_the_same_in_both_versions(opset: int, tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "right")
    networks = projections(parts.cut.boundary, 2, opset=opset)
    found = coded(tmp_path, cleaned, parts, networks)
    assert found.parts.first is not None
    made = onnx.load_from_string(found.parts.first.content)
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", 17)]
    feed = random_feed(cleaned)
    alike(spliced(found.parts, feed, ["scores"]), one_by_one(parts, networks, feed, ["scores"]))


def squeezing(spec: TensorSpec, opset: int) -> Networks:
    """Unsqueeze and Squeeze, whose axes are an attribute before version 13 and an input after."""
    code = TensorSpec("code", spec.dtype, (1, *spec.shape))
    ends = [info(s.name, s.shape, s.dtype) for s in (spec, code)]
    held = weights(axes=np.array([0])) if opset >= 13 else []
    halves = []
    for operator, at in (("Unsqueeze", 0), ("Squeeze", 1)):
        reads, makes = ends[at], ends[1 - at]
        if opset >= 13:
            made = node(operator, [reads.name, "axes"], [makes.name])
        else:
            made = node(operator, [reads.name], [makes.name], axes=[0])
        halves.append(model([made], [reads], [makes], held, opset=opset))
    return halves[0], halves[1], (code,)


def test_operators_of_an_older_version_are_converted(tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    networks = squeezing(parts.cut.boundary[0], 11)
    found = coded(tmp_path, cleaned, parts, networks)
    feed = random_feed(cleaned)
    alike(spliced(found.parts, feed, ["scores"]), one_by_one(parts, networks, feed, ["scores"]))


def test_operators_that_cannot_be_converted(tmp_path: Path) -> None:
    """LayerNormalization is there from 17 on."""
    nodes = [node("Neg", ["x"], ["y"]), node("Neg", ["y"], ["z"])]
    ends = info("x", [1, 4]), info("z", [1, 4])
    cleaned = canonical(model(nodes, ends[:1], ends[1:], opset=13), tmp_path)
    parts = parts_at(cleaned, "y")
    (spec,) = parts.cut.boundary
    encoder, decoder, code = negations([spec])
    norm = model(
        [node("LayerNormalization", ["y", "scale"], [code[0].name])],
        [info("y", [1, 4])],
        [info(code[0].name, [1, 4])],
        weights(scale=np.ones(4)),
    )
    sentence = refusal(ModelError, lambda: coded(tmp_path, cleaned, parts, (norm, decoder, code)))
    assert "the encoder" in sentence
    assert "has operators of set 17, model.onnx of set 13" in sentence
    assert "export it with opset 13" in sentence
    del encoder


def test_operators_newer_than_any_known(tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    networks = projections(parts.cut.boundary, 2)
    networks[0].opset_import[0].version = 99
    sentence = refusal(ModelError, lambda: coded(tmp_path, cleaned, parts, networks))
    assert "has operators of set 99, and " in sentence
    assert "export it with opset" in sentence


def test_operators_of_the_runtime_s_own(tmp_path: Path) -> None:
    """A domain that the model does not import is imported for the part."""
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    encoder, decoder, code = negations(parts.cut.boundary)
    encoder.graph.node.insert(
        0, helper.make_node("Gelu", ["sum"], ["gelu"], domain="com.microsoft")
    )
    encoder.graph.node[1].input[0] = "gelu"
    encoder.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    of = described(
        tmp_path / "pair", cleaned.source.path, "sum", parts.cut.boundary, (encoder, decoder, code)
    )
    write_description(tmp_path / "pair", of)
    from splitbed.engine import observed

    found = with_pair(parts, load_pair(tmp_path / "pair", "pair", observed))
    feed = random_feed(cleaned)
    wanted = one_by_one(parts, (encoder, decoder, code), feed, ["scores"])
    alike(spliced(found.parts, feed, ["scores"]), wanted)


def test_subgraphs_keep_their_sense(tmp_path: Path) -> None:
    """An If in the encoder whose branches capture what is around them, names like the model's."""
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    (spec,) = parts.cut.boundary
    _, decoder, code = negations([spec])
    branches = [
        helper.make_graph([node(op, ["left"], [out])], out, [], [info(out, spec.shape)])
        for op, out in (("Neg", "right"), ("Abs", "flat"))
    ]
    encoder = model(
        [
            node("Relu", ["sum"], ["left"]),
            node("ReduceSum", ["left"], ["scores"], keepdims=0),
            node("Greater", ["scores", "weights"], ["is large"]),
            node(
                "If", ["is large"], [code[0].name], then_branch=branches[0], else_branch=branches[1]
            ),
        ],
        [info("sum", spec.shape)],
        [info(code[0].name, spec.shape)],
        weights(weights=np.array(70.0)),
    )
    networks = encoder, decoder, code
    found = coded(tmp_path, cleaned, parts, networks)
    for seed in range(8):
        feed = {"x": random_feed(cleaned, seed)["x"] * (1 + seed % 2)}
        wanted = one_by_one(parts, networks, feed, ["scores"])
        alike(spliced(found.parts, feed, ["scores"]), wanted)


# Identity.


def test_both_halves_are_part_of_the_identity(tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    one, other = (projections(parts.cut.boundary, 2, seed) for seed in (0, 1))
    found = [
        coded(tmp_path, cleaned, parts, networks).parts
        for networks in (one, (one[0], other[1], one[2]), (other[0], one[1], one[2]), one)
    ]
    for part in ("first", "second"):
        made = [getattr(p, part).partition for p in (parts, *found)]
        # Another decoder makes another head too: neither is of any use with the other's.
        assert len({p.sha256 for p in made}) == 4
        assert made[1] == made[4]
        assert made[0].pair is None
        assert len({p.pair for p in made[1:]}) == 3
        assert {p.cut for p in made} == {parts.cut}
    pair = PairId("a", "1" * 64, "2" * 64)
    assert pair.digest == msgspec.structs.replace(pair, name="b").digest
    assert pair.digest != PairId("a", "2" * 64, "1" * 64).digest


# Mistakes.


def refusal(kind: type[SplitbedError], make: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        make()
    assert type(caught.value) is kind
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def changed(of: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The description with another value; None takes it away."""
    found = copy.deepcopy(of)
    *way, last = path.split(".")
    at: Any = found
    for step in way:
        at = at[int(step) if step.isdecimal() else step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "kind", "said"),
    [
        ("model.sha256", "0" * 64, ModelMismatch, "was made for another model"),
        ("model.sha256", "0" * 63, ModelError, "$.model.sha256"),
        ("model.cut", "left", CutUnknown, "stands at the cut 'left', not at 'sum'"),
        ("model", None, ModelError, "missing required field `model`"),
        ("encoder", None, ModelError, "missing required field `encoder`"),
        ("encoder.file", "other.onnx", ModelUnknown, "names other.onnx, which is not beside it"),
        ("encoder.file", "../encoder.onnx", ModelError, "$.encoder.file"),
        ("encoder.file", "/etc/passwd", ModelError, "$.encoder.file"),
        ("encoder.file", "decoder.onnx", ModelError, "one file for encoder and decoder"),
        ("decoder.sha256", "0" * 64, ModelError, "decoder.onnx is not the file that"),
        ("decoder.author", "me", ModelError, "unknown field `author`"),
        ("trainings", {"a": 1}, ModelError, "unknown field `trainings`"),
        ("boundary.0.dtype", "bfloat16", ModelError, "bfloat16"),
        ("boundary.0.dtype", "float16", ModelError, "says sum float16[1x3x8x8]"),
        ("boundary.0.shape", [1, 3, 8, 9], ModelError, "does not bind to input 'sum'"),
        ("boundary.0.shape", [1, 3, -8, 8], ModelError, "$.boundary[0].shape[2]"),
        ("boundary.0.name", "flat", ModelError, "reads 'sum', and bottleneck.toml says 'flat'"),
        ("boundary.0.name", "code", ModelError, "a boundary tensor and a code tensor 'code'"),
        ("boundary", [], ModelError, "names no boundary or no code tensor"),
        ("code.0.name", "kode", ModelError, "makes 'code', and bottleneck.toml says 'kode'"),
        ("code.0.shape", [1, 2, 8, 7], ModelError, "says code float32[1x2x8x7]"),
        ("code.0.low", 1.0, ModelError, "needs low < high"),
        ("code.0.low", None, ModelError, "gives 'code' one end of a range"),
        ("code.0.dtype", "uint8", ModelError, "which is uint8: leave it out"),
        ("code.0.high", "one", ModelError, "$.code[0].high"),
    ],
)
def test_mistakes_in_the_description(
    path: str, value: object, kind: type[SplitbedError], said: str, tmp_path: Path
) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    folder = tmp_path / "pair"
    networks = projections(parts.cut.boundary, 2)
    of = described(folder, cleaned.source.path, "sum", parts.cut.boundary, networks)
    write_description(folder, of)
    assert with_pair(parts, load_pair(folder, "pair")).ranges == (CodeRange("code", 0.0, 1.0),)
    write_description(folder, changed(of, path, value))
    sentence = refusal(kind, lambda: with_pair(parts, load_pair(folder, "pair")))
    assert said in sentence, sentence


def test_a_pair_that_fits_itself_and_not_the_cut(tmp_path: Path) -> None:
    """Description and networks agree with each other, and not with what crosses."""
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    (spec,) = parts.cut.boundary
    for change, said in (
        ({"shape": (1, 3, 8, 4)}, "codes sum float32[1x3x8x4], and at 'sum' crosses sum float32"),
        ({"name": "left"}, "codes 'left', which does not cross at 'sum': there crosses sum"),
    ):
        other = [msgspec.structs.replace(spec, **change)]
        networks = projections(other, 2)
        sentence = refusal(
            ModelError,
            lambda: coded(tmp_path, cleaned, parts, networks, other),  # noqa: B023
        )
        assert said in sentence, sentence


def test_networks_with_other_ends(tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    encoder, decoder, code = projections(parts.cut.boundary, 2)
    encoder.graph.input.append(info("noise", [1]))
    sentence = refusal(
        ModelError, lambda: coded(tmp_path, cleaned, parts, (encoder, decoder, code))
    )
    assert "reads 'sum', 'noise', and bottleneck.toml says 'sum'" in sentence


def test_weights_in_other_files_and_files_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    folder = tmp_path / "pair"
    networks = projections(parts.cut.boundary, 2)
    of = described(folder, cleaned.source.path, "sum", parts.cut.boundary, networks)
    onnx.save_model(
        networks[0],
        str(folder / "encoder.onnx"),
        save_as_external_data=True,
        location="weights",
        size_threshold=0,
    )
    content = (folder / "encoder.onnx").read_bytes()
    of["encoder"]["sha256"] = hashlib.sha256(content).hexdigest()
    write_description(folder, of)
    sentence = refusal(ModelError, lambda: load_pair(folder, "pair"))
    assert "has weights in other files: save it in one file" in sentence
    monkeypatch.setattr(halves, "MOST_HALF_BYTES", len(content) - 1)
    sentence = refusal(ModelError, lambda: load_pair(folder, "pair"))
    assert "it should be small beside the model" in sentence


def test_a_version_that_nothing_uses_is_not_imported(tmp_path: Path) -> None:
    """Exporters import domains by habit; a version of one may be newer than the runtime."""
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    networks = projections(parts.cut.boundary, 2)
    networks[0].opset_import.append(helper.make_opsetid("ai.onnx.ml", 90))
    found = coded(tmp_path, cleaned, parts, networks).parts
    feed = random_feed(cleaned)
    assert spliced(found, feed, ["scores"])


@pytest.mark.parametrize("broken", [b"", b"\x00\x01nonsense", b"<html>"])
def test_files_that_are_no_networks(broken: bytes, tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    folder = tmp_path / "pair"
    networks = projections(parts.cut.boundary, 2)
    of = described(folder, cleaned.source.path, "sum", parts.cut.boundary, networks)
    (folder / "encoder.onnx").write_bytes(broken)
    of["encoder"]["sha256"] = hashlib.sha256(broken).hexdigest()
    write_description(folder, of)
    assert "encoder.onnx is not an ONNX model" in refusal(
        ModelError, lambda: load_pair(folder, "pair")
    )


@pytest.mark.parametrize("content", [b"\xff\xfe", b"model = ", b"model = 3", b"#" * (1 << 21)])
def test_files_that_are_no_descriptions(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bottleneck.toml").write_bytes(content)
    assert "bottleneck.toml" in refusal(ModelError, lambda: load_pair(tmp_path, "pair"))


def test_a_network_that_leads_out_of_its_folder(tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    folder = tmp_path / "pair"
    networks = projections(parts.cut.boundary, 2)
    of = described(folder, cleaned.source.path, "sum", parts.cut.boundary, networks)
    write_description(folder, of)
    (folder / "encoder.onnx").rename(tmp_path / "encoder.onnx")
    (folder / "encoder.onnx").symlink_to(tmp_path / "encoder.onnx")
    assert "leads out of the folder" in refusal(ModelError, lambda: load_pair(folder, "pair"))


@pytest.mark.parametrize(("cut", "missing"), [("@input", "head"), ("@output", "tail")])
def test_a_part_that_is_not_there(cut: str, missing: str, tmp_path: Path) -> None:
    cleaned = canonical(tiny_model(), tmp_path)
    parts = parts_at(cleaned, "sum")
    networks = projections(parts.cut.boundary, 2)
    coded(tmp_path, cleaned, parts, networks)
    pair = load_pair(tmp_path / "pair", "pair")
    sentence = refusal(UsageError, lambda: with_pair(parts_at(cleaned, cut), pair))
    assert f"there is no {missing} that learned:pair could stand in" in sentence


# As it is written, and found.


def test_how_it_is_written() -> None:
    assert codec.learned("learned:a/b-1.x+quantize:4+zstd:3") == "a/b-1.x"
    assert codec.learned("quantize:4+zstd:3") == ""
    assert codec.parse("learned:a+quantize:4+zstd:3") == codec.parse("quantize:4+zstd:3")
    assert [stage.id for stage in codec.parse("learned:a")] == ["raw"]
    assert [stage.id for stage in codec.parse("learned:a+zstd")] == ["raw", "zstd"]
    assert not codec.is_lossless("learned:a+raw")
    assert codec.needs_calibration("learned:a+quantize:4")
    assert not codec.needs_calibration("learned:a+quantize:4", known=True)
    assert codec.needs_calibration("learned:a+quantize:4,clip=p99", known=True)
    assert codec.needs_calibration("learned:a+quantize:4+ans", known=True)
    assert codec.needs_calibration("learned:a+uniform:1", known=True)
    for text in ("raw+learned:a", "learned:a+learned:b", "learned:a+learned"):
        with pytest.raises(CodecUnknown, match="can only come first"):
            codec.parse(text)
    for name in HOSTILE:
        with pytest.raises(CodecUnknown):
            codec.parse(f"learned:{name}+raw")


HOSTILE = [
    *("", ".", "..", "../x", "a/../b", "/etc", "a//b", "a/", "-a", ".a", "a\x00b", "a\nb"),
    *("a b", "ä", "a\\b", "x" * 201, "~", "$HOME", "a/./b", "a:b"),
]


def test_a_known_range_stands_for_a_calibration() -> None:
    spec = TensorSpec("code", "float32", (1, 2))
    known = [CodeRange("code", -1.0, 3.0)]
    (found,) = codec.plan("learned:a+quantize:4+zstd:3", [spec], None, known)
    config = found.stages[0].config
    assert (config["low"], config["high"]) == (-1.0, 3.0)
    (found,) = codec.plan("learned:a+quantize:bits=4,low=0,high=1", [spec], None, known)
    assert (found.stages[0].config["low"], found.stages[0].config["high"]) == (0.0, 1.0)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_no_pair_has(name: str, tmp_path: Path) -> None:
    (tmp_path / "bottleneck.toml").write_text("", encoding="utf-8")
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(UsageError, match="cannot be the name of a learned codec"):
        check_name(name)
    with pytest.raises(UsageError, match="cannot be the name of a learned codec"):
        find_folder(name, [inside])


def test_no_link_leads_out(tmp_path: Path) -> None:
    outside, models = tmp_path / "outside", tmp_path / "models"
    for folder in (outside, models, models / "pair"):
        folder.mkdir()
    for folder in (outside, models / "pair"):
        (folder / "bottleneck.toml").write_text("", encoding="utf-8")
    (models / "link").symlink_to(outside)
    (models / "round").symlink_to(models / "round")
    assert find_folder("pair", [models]) == (models / "pair").resolve()
    assert find_folder("link", [models]) is None
    assert find_folder("round", [models]) is None
    assert find_folder("nothing", [models]) is None


@pytest.mark.parametrize("rule", ["clip=mse", "per=channel", "symmetric=yes"])
def test_a_known_range_is_taken_where_no_rule_is_written(rule: str) -> None:
    """A written rule is followed, and so needs to have seen something."""
    assert codec.needs_calibration(f"learned:a+quantize:4,{rule}", known=True)
    spec = TensorSpec("code", "float32", (1, 4, 2, 2))
    with pytest.raises(CodecError, match="needs a calibration"):
        codec.plan(f"learned:a+quantize:4,{rule}", [spec], None, [CodeRange("code", 0, 1)])
