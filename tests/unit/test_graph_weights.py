"""Weights that stay in their files: nothing is lost, and broken bytes are refused."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from splitbed.errors import ModelError
from splitbed.graph import (
    built,
    canonicalise,
    cut_points,
    extract,
    file,
    find_cut,
    list_cuts,
    load,
    source,
)
from splitbed.graph.detach import DETACHED_BYTES, detach, with_length
from splitbed.graph.weights import is_detached, stored_bytes, tensors
from tests import models
from tests.models import info, model, node, open_part, random_feed, recombined, run, saved, weights

LARGE = DETACHED_BYTES // 4 + 1


def heavy(folder: Path, *, typed: bool = False) -> Path:
    """Two large weights, one of them in a Constant node, and a small one; with open batch."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((96, 96)).astype(np.float32)
    second = rng.standard_normal((96, 96)).astype(np.float32)
    proto = model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Constant", [], ["c"], value=numpy_helper.from_array(second, "c")),
            node("Relu", ["m"], ["r"]),
            node("MatMul", ["r", "c"], ["p"]),
            node("Add", ["p", "b"], ["y"]),
        ],
        [info("x", ["N", 96])],
        [info("y", None)],
        weights(w=first, b=np.arange(96.0)),
    )
    if typed:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.float_data.extend(first.ravel())
    return saved(proto, folder / "heavy.onnx")


@pytest.mark.parametrize("typed", [False, True], ids=["raw_data", "float_data"])
def test_large_weights_are_left_where_they_are(typed: bool, tmp_path: Path) -> None:
    path = heavy(tmp_path, typed=typed)
    loaded = load(path)
    assert loaded.proto.ByteSize() < 2000 < path.stat().st_size
    held = {tensor.name: tensor for tensor in tensors(loaded.proto.graph)}
    assert [is_detached(held[name]) for name in ("w", "c", "b")] == [True, True, False]
    whole = onnx.load(path)
    for tensor in tensors(whole.graph):
        if is_detached(held[tensor.name]):
            array = numpy_helper.to_array(tensor)
            assert loaded.blob(held[tensor.name]).read() == array.tobytes()
            assert loaded.blob(held[tensor.name]).nbytes == stored_bytes(tensor) == array.nbytes


@pytest.mark.parametrize("typed", [False, True], ids=["raw_data", "float_data"])
def test_parts_hold_their_weights_again(typed: bool, tmp_path: Path) -> None:
    cleaned = canonicalise(load(heavy(tmp_path, typed=typed)))
    feed = random_feed(cleaned)
    wanted = run(onnx.load(tmp_path / "heavy.onnx").SerializeToString(), feed)["y"]
    for point in cut_points(cleaned):
        got = recombined(cleaned, point, feed)["y"]
        np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=1e-5)
        for part in (extract(cleaned, point).first, extract(cleaned, point).second):
            if part is not None:
                onnx.checker.check_model(onnx.load_from_string(part.content))
                assert part.file.nbytes == len(part.content) == part.partition.file_bytes
                assert part.partition.sha256 == hashlib.sha256(part.content).hexdigest()
                assert part.content == b"".join(part.file.pieces())
                (written,) = part.file.write(tmp_path / "part.onnx")
                assert written.read_bytes() == part.content


def test_nothing_but_the_written_file_is_left(tmp_path: Path) -> None:
    cleaned = canonicalise(load(heavy(tmp_path)))
    (tmp_path / "out").mkdir()
    cleaned.file().write(tmp_path / "out" / "model.onnx")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_file_that_changed_after_it_was_read_is_refused(tmp_path: Path) -> None:
    path = heavy(tmp_path)
    cleaned = canonicalise(load(path))
    content = path.read_bytes()
    path.write_bytes(content + b"\0")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"heavy\.onnx was changed after it had been read"):
        cleaned.file().write(tmp_path / "out" / "model.onnx")
    with pytest.raises(ModelError, match="was changed"):
        _ = cleaned.file().content
    assert not list((tmp_path / "out").iterdir())


def test_digests_made_later_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = heavy(tmp_path)
    at_once = load(path)
    monkeypatch.setattr(source, "HASHED_AT_ONCE_BYTES", 0)
    later = load(path)
    assert (later.sha256, later.md5) == (at_once.sha256, at_once.md5)
    again = load(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="was changed"):
        _ = again.sha256


def test_weights_without_data_can_be_listed_and_not_run(tmp_path: Path) -> None:
    hollow = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[LARGE, 4])
    proto = model(
        [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])],
        [info("x", [1, LARGE])],
        [info("y", None)],
        [hollow],
    )
    cleaned = canonicalise(built("hollow", proto))
    parts = extract(cleaned, find_cut(cleaned, cut_points(cleaned), "m"))
    assert parts.first is not None
    assert parts.first.file.nbytes > LARGE * 16
    with pytest.raises(ModelError, match="hollow has no data for its weight 'w'"):
        _ = parts.first.content


# ------------------------------------------------------------------------------ above 2 gigabytes


def test_what_no_message_can_hold_has_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = canonicalise(load(heavy(tmp_path)))
    parts = extract(cleaned, find_cut(cleaned, cut_points(cleaned), "r"))
    assert parts.second is not None
    feed = {"r": np.random.default_rng(1).standard_normal((1, 96)).astype(np.float32)}
    wanted = run(parts.second.content, feed)["y"]
    monkeypatch.setattr(file, "MOST_BYTES", 20_000)
    large = extract(cleaned, find_cut(cleaned, cut_points(cleaned), "r")).second
    assert large is not None
    with pytest.raises(ModelError, match="larger than 2 GB"):
        _ = large.content
    (tmp_path / "out").mkdir()
    written = large.file.write(tmp_path / "out" / "tail.onnx")
    assert [path.name for path in written] == ["tail.onnx", "part2.data"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)
    assert large.partition.file_bytes == sum(path.stat().st_size for path in written)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in written)).hexdigest()
    assert large.partition.sha256 == digest
    listed = {cut.point.name: cut.cost for cut in list_cuts(cleaned).legal}["r"]
    assert listed is not None
    assert listed.tail_file_bytes == large.partition.file_bytes
    engine = open_part(written[0])
    np.testing.assert_array_equal(engine.run(feed)[0], wanted)
    offsets = [
        int(entry.value)
        for tensor in onnx.load(written[0], load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert offsets
    assert all(offset % 4096 == 0 for offset in offsets)
    assert extract(cleaned, find_cut(cleaned, cut_points(cleaned), "r")).second == large
    assert digest != parts.second.partition.sha256


# -------------------------------------------------------------------------------- the wire format


@st.composite
def tensors_of_any_kind(draw: st.DrawFn) -> onnx.TensorProto:
    count = draw(st.sampled_from([0, 3, LARGE - 1, LARGE, LARGE + 7]))
    kind = draw(st.sampled_from(["raw", "float_data", "double_data", "int64_data", "int8"]))
    numbers = np.arange(count) % 251
    match kind:
        case "float_data":
            return helper.make_tensor("t", TensorProto.FLOAT, [count], numbers.astype(np.float32))
        case "double_data":
            return helper.make_tensor("t", TensorProto.DOUBLE, [count], numbers.astype(np.float64))
        case "int64_data":
            return helper.make_tensor("t", TensorProto.INT64, [count], numbers)
        case "int8":
            return numpy_helper.from_array(numbers.astype(np.uint8).repeat(4), "t")
        case _:
            return numpy_helper.from_array(numbers.astype(np.float32), "t")


@settings(max_examples=60, deadline=None)
@given(
    tensor=tensors_of_any_kind(),
    place=st.sampled_from(["initialiser", "constant", "branch", "function", "list"]),
)
def test_detaching_changes_nothing_but_the_place_of_data(
    tensor: onnx.TensorProto, place: str
) -> None:
    proto = models.chain()
    proto.doc_string = "kept as it is" * 10
    held = [tensor]
    constant = node("Constant", [], ["c"], value=tensor)
    match place:
        case "initialiser":
            proto.graph.initializer.append(tensor)
        case "constant":
            proto.graph.node.append(constant)
        case "branch":
            inner = helper.make_graph([constant], "inner", [], [info("c", None)], [tensor])
            proto.graph.node.append(node("If", ["k"], ["z"], then_branch=inner, else_branch=inner))
            held = 4 * [tensor]
        case "function":
            proto.functions.append(helper.make_function("d", "f", [], ["c"], [constant], []))
        case "list":
            many = node("Own", [], ["c"], domain="d")
            many.attribute.append(helper.make_attribute("all", [tensor, tensor]))
            proto.graph.node.append(many)
            held = 2 * [tensor]
    content = proto.SerializeToString()
    light = onnx.ModelProto.FromString(detach(memoryview(content), "here.onnx"))
    graphs: list[onnx.GraphProto | onnx.FunctionProto] = [light.graph, *light.functions]
    found = [t for graph in graphs for t in tensors(graph) if t.name == "t"]
    assert len(found) == len(held)
    for one in found:
        if is_detached(one):
            entries = {entry.key: entry.value for entry in one.external_data}
            start, length = int(entries["offset"]), int(entries["length"])
            assert length > DETACHED_BYTES
            assert entries["location"] == "here.onnx"
            one.raw_data = content[start : start + length]
            del one.external_data[:]
            one.ClearField("data_location")
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(tensor))
    # With the data back in one form, the two models are the same.
    plain = onnx.ModelProto.FromString(content)
    graphs = [plain.graph, *plain.functions, light.graph, *light.functions]
    for graph in graphs:
        for one in tensors(graph):
            if one.name == "t":
                one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one), "t"))
    assert light == plain


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_broken_bytes_are_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    content = bytearray(_SEED)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(content), len(content) // 2, 100]))
    try:
        light = detach(memoryview(content)[:cut], "x")
    except ValueError:
        return
    assert len(light) <= cut + 4096


_SEED = model(
    [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])],
    [info("x", [1, LARGE])],
    [info("y", None)],
    [
        *weights(a=np.ones(700)),
        numpy_helper.from_array(np.ones((LARGE, 4), np.float32), "w"),
    ],
).SerializeToString()


@settings(max_examples=100, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6))
def test_a_damaged_file_gives_one_sentence_or_a_model(places: list[tuple[int, int]]) -> None:
    content = bytearray(_SEED)
    for place, value in places:
        content[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(bytes(content))
        try:
            cleaned = canonicalise(load(path))
            for point in cut_points(cleaned):
                if point.cut is not None:
                    parts = extract(cleaned, point)
                    _ = parts.first and parts.first.content
        except ModelError as error:
            sentence = str(error)
        else:
            sentence = ""
    assert "\n" not in sentence


# ------------------------------------------------------------------------- what else files may hold


def test_large_constant_of_a_function_that_stays_a_node(tmp_path: Path) -> None:
    held = numpy_helper.from_array(np.eye(128, dtype=np.float32), "c")
    proto = model(
        [node("Own", ["x"], ["m"], domain="own"), node("Relu", ["m"], ["y"])],
        [info("x", [1, 128])],
        [info("y", [1, 128])],
    )
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.functions.append(
        helper.make_function(
            "own",
            "Own",
            ["v"],
            ["r"],
            [node("Constant", [], ["c"], value=held), node("MatMul", ["v", "c"], ["r"])],
            [helper.make_opsetid("", 13)],
        )
    )
    cleaned = canonicalise(load(saved(proto, tmp_path / "model.onnx")))
    assert len(cleaned.proto.functions) == 1
    feed = random_feed(cleaned)
    wanted = np.maximum(feed["x"], 0)
    for point in cut_points(cleaned):
        np.testing.assert_allclose(recombined(cleaned, point, feed)["y"], wanted, rtol=1e-6)  # type: ignore[arg-type]


def test_file_that_was_replaced_by_one_of_the_same_size_and_time(tmp_path: Path) -> None:
    path = heavy(tmp_path)
    loaded = load(path)
    stat = path.stat()
    other = tmp_path / "other.onnx"
    other.write_bytes(path.read_bytes()[:-64] + bytes(64))
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    with pytest.raises(ModelError, match="was changed"):
        loaded.check_unchanged()


def test_file_whose_time_alone_changed_is_refused(tmp_path: Path) -> None:
    path = heavy(tmp_path)
    loaded = load(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ModelError, match="was changed"):
        loaded.check_unchanged()


@pytest.mark.parametrize("offset", [-4, 10**9])
def test_data_outside_their_file_are_refused(offset: int, tmp_path: Path) -> None:
    proto = model([node("Add", ["x", "w"], ["y"])], [info("x", [LARGE])], [info("y", None)])
    tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[LARGE])
    tensor.data_location = TensorProto.EXTERNAL
    (tmp_path / "w.bin").write_bytes(bytes(4 * LARGE))
    for key, value in (("location", "w.bin"), ("offset", offset), ("length", 4 * LARGE)):
        tensor.external_data.add(key=key, value=str(value))
    with pytest.raises(ModelError, match=r"'w'|broken way"):
        load(saved(proto, tmp_path / "model.onnx"))


def test_numbers_of_another_type_are_not_taken_for_raw_data() -> None:
    """Half precision in int32_data is no raw data, and float_data of a complex tensor neither."""
    tensor = TensorProto(name="t", data_type=TensorProto.COMPLEX64, dims=[LARGE])
    tensor.float_data.extend(range(2 * LARGE))
    proto = models.chain()
    proto.graph.initializer.append(tensor)
    content = proto.SerializeToString()
    assert detach(memoryview(content), "here") == content


def test_weights_beside_a_linked_model_are_found(tmp_path: Path) -> None:
    """As caches keep them: links to files in one folder of contents."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    onnx.save_model(
        models.residual(),
        str(blobs / "aaaa"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (blobs / "weights.bin").rename(blobs / "bbbb")
    (snapshot / "model.onnx").symlink_to("../blobs/aaaa")
    (snapshot / "weights.bin").symlink_to("../blobs/bbbb")
    assert load(snapshot / "model.onnx").file_bytes > 64


def test_data_in_a_pipe_are_refused(tmp_path: Path) -> None:
    onnx.save_model(
        models.residual(),
        str(tmp_path / "model.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="are no file"):
        load(tmp_path / "model.onnx")


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    """Subgraphs within subgraphs, each long enough to be looked into."""
    padding = b"p" * (DETACHED_BYTES + 1)
    inner = with_length(10, len(padding)) + padding
    for _ in range(130):
        for field in (6, 5, 1):  # graph of an attribute of a node of a graph
            inner = with_length(field, len(inner)) + inner
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08" + with_length(7, len(inner)) + inner)
    with pytest.raises(ModelError, match="nested more than 100 levels deep"):
        load(path)


@pytest.mark.parametrize("start", [0, 5, 200, 1000, 36_000, 40_000, 74_000])
def test_file_is_told_from_any_byte_on(start: int, tmp_path: Path) -> None:
    whole = canonicalise(load(heavy(tmp_path))).file()
    content = whole.content
    assert len(content) > 74_000
    assert b"".join(whole.pieces(start)) == content[start:]


def test_every_weight_beside_begins_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = canonicalise(load(heavy(tmp_path)))
    monkeypatch.setattr(file, "MOST_BYTES", 20_000)
    (tmp_path / "out").mkdir()
    written = cleaned.file().write(tmp_path / "out" / "model.onnx")
    light = onnx.load(written[0], load_external_data=False)
    places = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in light.graph.initializer
        if tensor.external_data
    ]
    assert [int(place["offset"]) for place in places] == [0, 36_864]
    feed = random_feed(cleaned)
    np.testing.assert_array_equal(
        open_part(written[0]).run(feed)[0], run(load_whole(tmp_path), feed)["y"]
    )


def load_whole(folder: Path) -> bytes:
    return onnx.load(folder / "heavy.onnx").SerializeToString()


def test_disk_that_is_full_leaves_nothing_new_and_everything_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = canonicalise(load(heavy(tmp_path)))
    monkeypatch.setattr(file, "MOST_BYTES", 20_000)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_text("old")
    (out / "model.data").write_text("old too")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "write_all", full)
    with pytest.raises(OSError, match="No space"):
        cleaned.file().write(out / "model.onnx")
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "model.onnx": "old",
        "model.data": "old too",
    }


def test_model_is_never_overwritten_by_its_own_parts(tmp_path: Path) -> None:
    path = heavy(tmp_path)
    cleaned = canonicalise(load(path))
    with pytest.raises(ModelError, match="is the model that is cut"):
        cleaned.file().write(path)
    assert load(path).sha256 == cleaned.source.sha256
