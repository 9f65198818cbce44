"""What an edge keeps and finds: models, parts, warm engines, sessions, audit rows."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from edge_node.partitions import Partitions, WarmEngine
from edge_node.store import ModelStore
from splitbed.errors import (
    CutUnknown,
    ModelError,
    ModelUnknown,
    Overloaded,
    ProtocolViolation,
    SplitbedError,
    TaskError,
    UsageError,
)
from splitbed.record import EdgeFrameRecord, ResourceSample
from splitbed.resources import meters
from splitbed.run_folder import RunFolder, read_rows
from splitbed.session import LOCAL, CutQuestion, Frame, ProviderChoice, Reply, SessionSpec
from splitbed.wire.framing import encode_reply
from tests.unit.edges import (
    TASK,
    Edge,
    boundary_of,
    edge_over,
    eventually,
    model_folder,
    payloads,
    picture,
    spec_for,
    tensor_of,
    tiny_model,
    uncut,
)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "models")


@pytest.fixture
def edge(models: Path) -> Iterator[Edge]:
    with edge_over(models) as made:
        yield made


def submit(edge: Edge, session_id: int, spec: SessionSpec, frame_id: int = 1) -> Reply:
    sent = payloads(spec, boundary_of(spec.cut.name, picture(frame_id)))
    return answered(edge, Frame(session_id, frame_id, sent), sum(map(len, sent)))


def answered(edge: Edge, frame: Frame, request_bytes: int) -> Reply:
    """A frame's reply, kept account of as a transport does."""
    reply = edge.service.process(frame, 0)
    edge.service.answered(reply, request_bytes, len(encode_reply(reply)))
    return reply


# --- the model store --------------------------------------------------------------------------


def test_names_are_paths_below_the_folder(models: Path) -> None:
    model_folder(models / "more" / "b")
    (models / "notes.txt").write_text("no model")
    store = ModelStore(models)
    assert store.names() == ["more/b/tiny", "tiny"]
    assert store.get("tiny", ()).canonical.source.path == models / "tiny.onnx"
    assert store.get("more/b/tiny", ()).task is not None


def test_one_file_is_the_only_model(models: Path) -> None:
    onnx.save(tiny_model(7), str(models / "other.onnx"))
    store = ModelStore(models / "tiny.onnx")
    assert store.names() == ["tiny"]
    assert store.get("tiny", ()).canonical.outputs[0].shape == (1, 5)
    with pytest.raises(ModelUnknown, match="no model 'other': it has tiny"):
        store.get("other", ())


@pytest.mark.parametrize("name", ["links/mine.onnx", "mine.bin", "mine", "links/mine.v2.onnx"])
def test_one_file_is_exactly_that_file(tmp_path: Path, models: Path, name: str) -> None:
    place = tmp_path / name
    if name.startswith("links/"):
        place.parent.mkdir()
        place.symlink_to(models / "tiny.onnx")
    else:
        onnx.save(tiny_model(), str(place), format="protobuf")
    place.with_suffix(".toml").write_text(TASK)
    store = ModelStore(place)
    assert store.names() == [place.stem]
    stored = store.get(place.stem, ())
    assert stored.canonical.source.path == place
    assert stored.task is not None


def test_one_file_that_went_away(models: Path) -> None:
    store = ModelStore(models / "tiny.onnx")
    (models / "tiny.onnx").unlink()
    with pytest.raises(ModelUnknown, match=r"there is no model file .*tiny\.onnx"):
        store.get("tiny", ())


def test_only_names_that_can_be_had_are_listed(tmp_path: Path, models: Path) -> None:
    onnx.save(tiny_model(), str(tmp_path / "secret.onnx"))
    (models / "link.onnx").symlink_to(tmp_path / "secret.onnx")
    (models / "nowhere.onnx").symlink_to("gone.onnx")
    (models / "alias.onnx").symlink_to("tiny.onnx")
    (models / "folder.onnx").mkdir()
    store = ModelStore(models)
    assert store.names() == ["alias", "tiny"]
    with pytest.raises(ModelUnknown, match="no model 'link': it has alias, tiny;"):
        store.get("link", ())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none is not there: give a model folder or file"):
        ModelStore(tmp_path / "none")


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnknown, match="it has none at all; put the file into its model"):
        ModelStore(tmp_path).get("tiny", ())


OUTSIDE = (
    "../secret",
    "sub/../tiny",
    "./tiny",
    "sub//../tiny",
    "sub/../../secret",
    "..",
    "",
    ".",
    "/",
    "~/secret",
    "sub/link",
    "link",
)


@pytest.mark.parametrize("name", [*OUTSIDE, "{absolute}", "//{absolute}", "{models}/tiny"])
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, models: Path, name: str) -> None:
    onnx.save(tiny_model(), str(tmp_path / "secret.onnx"))
    (models / "sub").mkdir()
    (models / "link.onnx").symlink_to(tmp_path / "secret.onnx")
    (models / "sub" / "link.onnx").symlink_to("../../secret.onnx")
    name = name.format(absolute=tmp_path / "secret", models=models)
    with pytest.raises(ModelUnknown, match="this edge has no model"):
        ModelStore(models).get(name, ())


def test_a_link_within_the_folder_is_followed(models: Path) -> None:
    (models / "alias.onnx").symlink_to("tiny.onnx")
    store = ModelStore(models)
    assert store.get("alias", ()).canonical.id == store.get("tiny", ()).canonical.id


@pytest.mark.parametrize("name", ["tiny\0", "ti\0ny", "\0tiny"])
def test_a_name_with_nul_is_no_name(models: Path, name: str) -> None:
    with pytest.raises(ModelUnknown):
        ModelStore(models).get(name, ())


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000])
def test_a_name_too_long_is_no_name(models: Path, name: str) -> None:
    with pytest.raises(ModelUnknown):
        ModelStore(models).get(name, ())


def test_a_folder_named_like_a_model_is_none(models: Path) -> None:
    (models / "folder.onnx").mkdir()
    with pytest.raises(ModelUnknown):
        ModelStore(models).get("folder", ())


def test_a_file_that_is_no_model(models: Path) -> None:
    (models / "broken.onnx").write_bytes(b"not a model")
    store = ModelStore(models)
    with pytest.raises(ModelError, match=r"broken\.onnx is not an ONNX model"):
        store.get("broken", ())
    onnx.save(tiny_model(), str(models / "broken.onnx"))
    assert store.get("broken", ()).points


def test_a_model_is_read_once_and_again_when_it_is_replaced(models: Path) -> None:
    store = ModelStore(models)
    first = store.get("tiny", ())
    assert store.get("tiny", ()) is first
    replace(models / "tiny.onnx", tiny_model(classes=9))
    second = store.get("tiny", ())
    assert second.canonical.outputs[0].shape == (1, 9)
    assert second.canonical.id != first.canonical.id


def replace(path: Path, model: onnx.ModelProto) -> None:
    """Another file of this name, certainly with another time of change."""
    changed = path.stat().st_mtime_ns
    onnx.save(model, str(path))
    os.utime(path, ns=(changed + 1, changed + 1))


@pytest.mark.parametrize("what", ["external data", "task"])
def test_a_model_is_read_again_when_what_belongs_to_it_is_replaced(models: Path, what: str) -> None:
    path = models / "tiny.onnx"
    onnx.save(
        tiny_model(), str(path), save_as_external_data=True, location="data", size_threshold=0
    )
    store = ModelStore(models)
    first = store.get("tiny", ())
    if what == "task":
        (models / "tiny.toml").write_text(TASK.replace("top = 3", "top = 2"))
    else:
        data = bytearray((models / "data").read_bytes())
        data[0] ^= 1
        (models / "data").write_bytes(data)
    second = store.get("tiny", ())
    assert (second.task, second.canonical.id) != (first.task, first.canonical.id)


def test_a_bounded_number_of_models_is_kept(models: Path) -> None:
    for number in range(10):
        onnx.save(tiny_model(seed=number), str(models / f"m{number}.onnx"))
    store = ModelStore(models)
    first = store.get("m0", ())
    for number in range(10):
        store.get(f"m{number}", ())
    assert len(store._kept) == 8
    again = store.get("m0", ())
    assert again is not first
    assert again.canonical.id == first.canonical.id


def test_a_model_without_a_task(models: Path) -> None:
    (models / "tiny.toml").unlink()
    with edge_over(models) as edge:
        assert edge.answer("sum").task_json == ""
        with pytest.raises(TaskError, match=r"write tiny\.toml beside it"):
            edge.answer("@picture")
        with pytest.raises(TaskError, match=r"write tiny\.toml beside it"):
            edge.answer("@result")


def test_a_task_that_does_not_fit(models: Path) -> None:
    (models / "tiny.toml").write_text("[task]\nsize = [9, 9]\n")
    with pytest.raises(SplitbedError, match="9"):
        ModelStore(models).get("tiny", ())


def test_a_task_of_the_device_that_makes_another_result(edge: Edge) -> None:
    """Read with the wrong rule, its tensors would be no answer at all."""
    answer = edge.answer("@result")
    boxes = '{"output":"boxes","boxes":{"scores":["scores"],"distances":["scores"],"strides":[8]}}'
    for task_json in ('{"top":2}', boxes, '{"output":"raw"}'):
        spec = spec_for(answer, placement=LOCAL, reply="result", task_json=task_json)
        with pytest.raises(TaskError, match="makes another @result"):
            edge.service.open_session(spec)
    good = spec_for(answer, placement=LOCAL, reply="result")
    assert edge.service.open_session(good).session_id


# --- parts and engines ------------------------------------------------------------------------


def test_a_cut_is_made_once(edge: Edge) -> None:
    first = edge.answer("sum")
    assert edge.answer("sum") is first
    assert edge.answer("right") is not first
    with pytest.raises(CutUnknown):
        edge.answer("nothing")


def test_an_answer_follows_a_replaced_model(edge: Edge) -> None:
    before = edge.answer("sum")
    replace(edge.models / "tiny.onnx", tiny_model(classes=9))
    after = edge.answer("sum")
    assert after.model_digest != before.model_digest
    assert after.outputs[0].shape == (1, 9)


def test_parts_are_bounded_and_cut_again_when_asked_for(models: Path) -> None:
    with edge_over(models, parts=2) as edge:
        first = edge.answer("right").first
        assert first is not None
        content = b"".join(edge.partitions.chunks(first.sha256, 0))
        for cut in ("sum", "flat", "left"):
            edge.answer(cut)
        kept = edge.partitions._parts
        assert len(kept) == 2
        assert first.sha256 not in kept
        assert b"".join(edge.partitions.chunks(first.sha256, 0)) == content
        assert edge.partitions.sizes()[1] == 2


def test_questions_without_an_answer_leave_nothing_behind(models: Path) -> None:
    with edge_over(models) as edge:
        for number in range(20):
            with pytest.raises(CutUnknown):
                edge.answer(f"no such cut {number}")
        assert not edge.partitions._plain.turns
        edge.answer("sum")
        assert len(edge.partitions._plain.turns) == 1


@pytest.mark.parametrize("offset", [0, 1, 57, 300])
def test_a_part_is_sent_from_any_byte_on(offset: int, models: Path) -> None:
    with edge_over(models) as edge:
        first = edge.answer("right").first
        assert first is not None
        content = b"".join(edge.partitions.chunks(first.sha256, 0))
        assert len(content) == first.file_bytes
        assert b"".join(edge.partitions.chunks(first.sha256, offset)) == content[offset:]
        assert not list(edge.partitions.chunks(first.sha256, len(content)))


def test_the_part_used_longest_ago_goes_first(models: Path) -> None:
    with edge_over(models, parts=4) as edge:
        left = edge.answer("left")
        edge.answer("right")
        assert left.first is not None
        assert left.second is not None
        list(edge.partitions.chunks(left.first.sha256, 0))
        edge.answer("sum")
        assert left.first.sha256 in edge.partitions._parts
        assert left.second.sha256 not in edge.partitions._parts


def test_a_part_of_a_replaced_model_is_gone(models: Path) -> None:
    with edge_over(models, parts=2) as edge:
        # The tail holds the weights: it becomes another file.
        second = edge.answer("right").second
        assert second is not None
        for cut in ("sum", "flat"):
            edge.answer(cut)
        replace(models / "tiny.onnx", tiny_model(seed=1))
        with pytest.raises(ModelUnknown, match="the model may have been replaced"):
            list(edge.partitions.chunks(second.sha256, 0))


@pytest.mark.parametrize("offset", [-5, 0])
def test_chunks_begin_at_the_beginning_at_the_earliest(edge: Edge, offset: int) -> None:
    part = edge.answer("sum").second
    assert part is not None
    assert len(b"".join(edge.partitions.chunks(part.sha256, offset))) == part.file_bytes


def test_chunks_of_a_large_part_are_small(models: Path) -> None:
    onnx.save(tiny_model(classes=2000), str(models / "wide.onnx"))
    with edge_over(models) as edge:
        part = edge.answer("sum", "wide").second
        assert part is not None
        chunks = list(edge.partitions.chunks(part.sha256, 0))
        assert sum(map(len, chunks)) == part.file_bytes > 1_500_000
        assert max(map(len, chunks)) == 512 * 1024


def test_engines_are_bounded_and_kept_warm(models: Path) -> None:
    with edge_over(models, engines=2) as edge:
        parts = [edge.answer(cut).second for cut in ("left", "right", "sum")]
        digests = [part.sha256 for part in parts if part is not None]

        def warm(number: int) -> WarmEngine:
            return edge.partitions.engine(digests[number], "cpu", "a tail")

        first = warm(0)
        assert first.init_ns > 0
        assert first.first_inference_ns > 0
        again = warm(0)
        assert again.engine is first.engine
        assert (again.init_ns, again.first_inference_ns) == (0, 0)
        warm(1)
        warm(0)
        warm(2)  # the engine used least recently goes: the second
        assert edge.partitions.sizes()[0] == 2
        assert warm(0).init_ns == 0
        assert warm(1).init_ns > 0


def test_auto_and_the_edges_own_provider_share_an_engine(edge: Edge) -> None:
    part = edge.answer("sum").second
    assert part is not None
    auto = edge.partitions.engine(part.sha256, "auto", "a tail")
    assert edge.partitions.engine(part.sha256, "cpu", "a tail").engine is auto.engine


def test_a_session_keeps_its_engine_when_the_cache_lets_it_go(models: Path) -> None:
    with edge_over(models, engines=1) as edge:
        right, last = spec_for(edge.answer("right")), spec_for(edge.answer("sum"))
        first = edge.service.open_session(right)
        second = edge.service.open_session(last)
        assert edge.partitions.sizes()[0] == 1
        wanted = uncut(models / "tiny.onnx", picture(1))
        for session, spec in ((first, right), (second, last), (first, right)):
            reply = submit(edge, session.session_id, spec)
            found = tensor_of(reply.payloads[0], session.outputs[0])
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


# --- sessions ---------------------------------------------------------------------------------


def test_a_session_is_prepared_once_and_then_warm(edge: Edge) -> None:
    spec = spec_for(edge.answer("sum"))
    cold, warm = edge.service.open_session(spec), edge.service.open_session(spec)
    assert cold.init_ns > 0
    assert cold.first_inference_ns > 0
    assert (warm.init_ns, warm.first_inference_ns) == (0, 0)
    assert cold.session_id != warm.session_id
    assert min(cold.session_id, warm.session_id) > 0
    assert edge.service.sessions() == [spec, spec]


def test_closing_a_session_twice_or_never_opened_is_fine(edge: Edge) -> None:
    spec = spec_for(edge.answer("sum"))
    session = edge.service.open_session(spec)
    for _ in range(2):
        edge.service.close_session(session.session_id)
    edge.service.close_session(12345)
    with pytest.raises(ProtocolViolation, match="not open here"):
        submit(edge, session.session_id, spec)


class _Together(Partitions):
    """Two sessions that are opened at once are both prepared before either is counted."""

    both = threading.Barrier(2)

    def engine(self, sha256: str, provider: ProviderChoice, what: str) -> WarmEngine:
        warm = super().engine(sha256, provider, what)
        with contextlib.suppress(threading.BrokenBarrierError):
            self.both.wait(0.5)
        return warm


def test_devices_that_come_at_once_are_counted_too(models: Path) -> None:
    with edge_over(models, sessions=1, partitions_class=_Together) as edge:
        spec = spec_for(edge.answer("sum"))

        def opened(_: int) -> bool:
            try:
                edge.service.open_session(spec)
            except Overloaded:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(opened, range(2))) == [False, True]


def test_a_session_that_was_forgotten_makes_room(models: Path) -> None:
    with edge_over(models, sessions=3, unused_s=0.2) as edge:
        spec = spec_for(edge.answer("sum"))
        forgotten, used, slow = (edge.service.open_session(spec).session_id for _ in range(3))
        submit(edge, used, spec)
        edge.service.attach(slow)
        with pytest.raises(Overloaded):
            edge.service.open_session(spec)
        assert eventually(lambda: len(edge.service.sessions()) == 2, 2)
        time.sleep(0.3)
        edge.service.open_session(spec)
        # A device with a stream may take as long as it likes, before its first frame too.
        assert submit(edge, used, spec).error is None
        assert submit(edge, slow, spec).error is None
        with pytest.raises(ProtocolViolation, match="not open here"):
            submit(edge, forgotten, spec)


def test_a_session_that_was_forgotten_is_no_longer_sampled(models: Path, tmp_path: Path) -> None:
    with edge_over(models, records=tmp_path, unused_s=0.1) as edge:
        edge.service.open_session(spec_for(edge.answer("sum")))
        assert eventually(lambda: edge.service.sessions() == [], 2)
        path = RunFolder(tmp_path / "run-1").resources("edge")
        assert eventually(path.read_bytes, 2)

        def rests() -> bool:
            size = path.stat().st_size
            time.sleep(0.3)
            return path.stat().st_size == size

        # The session is gone from the list a moment before its last sample is written.
        assert eventually(rests, 4)


def test_the_watch_over_sessions_ends_with_the_service(models: Path) -> None:
    def reapers() -> int:
        return sum(thread.name == "reaper" for thread in threading.enumerate())

    before = reapers()
    with edge_over(models):
        assert reapers() == before + 1
    assert reapers() == before


def test_what_happened_is_counted(edge: Edge) -> None:
    spec = spec_for(edge.answer("sum"))
    session = edge.service.open_session(spec)
    replies = (
        submit(edge, session.session_id, spec),
        answered(edge, Frame(session.session_id, 2, ()), 10),
    )
    down = sum(len(encode_reply(reply)) for reply in replies)
    with pytest.raises(UsageError):
        edge.service.open_session(msgspec.structs.replace(spec, codecs=()))
    text = edge.metrics.text().decode()
    for line in (
        'splitbed_frames_total{model="tiny",status="ok"} 1.0',
        'splitbed_frames_total{model="tiny",status="protocol"} 1.0',
        'splitbed_bytes_total{direction="up",model="tiny"} 778.0',
        f'splitbed_bytes_total{{direction="down",model="tiny"}} {down:.1f}',
        'splitbed_stage_seconds_count{model="tiny",stage="tail"} 2.0',
        "splitbed_sessions_open 1.0",
        'splitbed_sessions_refused_total{kind="usage"} 1.0',
        "splitbed_audit_rows_lost_total 0.0",
    ):
        assert line in text
    assert edge.metrics.frames == 2
    edge.service.close()
    assert "splitbed_sessions_open 0.0" in edge.metrics.text().decode()


# --- audit rows -------------------------------------------------------------------------------


def test_audit_rows_lie_in_one_folder_for_each_run(models: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    sizes = {}
    with edge_over(models, records=records) as edge:
        for run_id in ("run-a", "run-b"):
            spec = spec_for(edge.answer("right"), run_id=run_id)
            session = edge.service.open_session(spec)
            replies = [submit(edge, session.session_id, spec, number) for number in range(3)]
            replies.append(answered(edge, Frame(session.session_id, 3, ()), 0))
            sizes[run_id] = [len(encode_reply(reply)) for reply in replies]
            edge.service.close_session(session.session_id)
    assert sorted(path.name for path in records.iterdir()) == ["run-a", "run-b"]
    for run_id in ("run-a", "run-b"):
        folder = RunFolder(records / run_id)
        rows = list(read_rows(folder.frames("edge"), EdgeFrameRecord))
        assert [row.frame_id for row in rows] == [0, 1, 2, 3]
        assert [row.status for row in rows] == ["ok", "ok", "ok", "failed:protocol"]
        assert {row.run_id for row in rows} == {run_id}
        assert rows[0].request_bytes == 2 * 768
        assert [row.reply_bytes for row in rows] == sizes[run_id]
        assert "0 payloads came" in rows[3].error
        assert rows[3].tail_ns == 0
        for row in rows:
            parts = row.queue_ns + row.decode_ns + row.tail_ns + row.encode_ns
            assert parts == row.edge_ns > 0
        samples = list(read_rows(folder.resources("edge"), ResourceSample))
        assert samples
        assert {sample.node for sample in samples} == {"edge"}


def test_two_sessions_of_one_run_share_its_files(models: Path, tmp_path: Path) -> None:
    with edge_over(models, records=tmp_path / "records") as edge:
        spec = spec_for(edge.answer("sum"))
        sessions = [edge.service.open_session(spec).session_id for _ in range(2)]
        for number, session_id in enumerate(sessions * 3):
            submit(edge, session_id, spec, number)
    path = RunFolder(tmp_path / "records" / "run-1").frames("edge")
    rows = list(read_rows(path, EdgeFrameRecord))
    assert [row.session_id for row in rows] == sessions * 3


def test_rows_that_cannot_be_written_cost_no_reply(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    folder = RunFolder(tmp_path / "records" / "run-1")
    folder.folder.mkdir(parents=True)
    for path in (folder.frames("edge"), folder.resources("edge")):
        path.symlink_to("/dev/full")
    with edge_over(models, records=tmp_path / "records") as edge:
        spec = spec_for(edge.answer("sum"))
        session = edge.service.open_session(spec)
        for number in range(3):
            assert submit(edge, session.session_id, spec, number).error is None
        assert "splitbed_audit_rows_lost_total 3.0" in edge.metrics.text().decode()
    words = capfd.readouterr().err
    assert words.count("frames go on without audit rows") == 1
    assert "no space left" in words


def test_samples_that_cannot_be_written_are_said_once(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    for run_id in ("run-a", "run-b"):
        folder = RunFolder(tmp_path / run_id)
        folder.folder.mkdir()
        folder.resources("edge").symlink_to("/dev/full")
    with edge_over(models, records=tmp_path) as edge:
        for run_id in ("run-a", "run-b"):
            spec = spec_for(edge.answer("sum"), run_id=run_id)
            submit(edge, edge.service.open_session(spec).session_id, spec)
    words = capfd.readouterr().err
    assert words.count("\n") == words.count("frames go on without resource samples") == 1
    assert "no space left" in words
    assert len(list(read_rows(RunFolder(tmp_path / "run-b").frames("edge"), EdgeFrameRecord))) == 1


def test_meters_that_fail_cost_no_reply(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/sys/devices")

    monkeypatch.setattr(meters, "_shared", {})
    monkeypatch.setattr(meters, "Meters", refused)
    with edge_over(models, records=tmp_path) as edge:
        for run_id in ("run-a", "run-b"):
            spec = spec_for(edge.answer("sum"), run_id=run_id)
            session = edge.service.open_session(spec)
            assert submit(edge, session.session_id, spec).error is None
    words = capfd.readouterr().err
    assert words.count("\n") == words.count("frames go on without resource samples") == 1
    assert "/sys/devices" in words
    assert len(list(read_rows(RunFolder(tmp_path / "run-b").frames("edge"), EdgeFrameRecord))) == 1


def test_a_records_folder_that_cannot_be_made_costs_no_reply(models: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.write_text("a file in the way")
    with edge_over(models, records=records) as edge:
        spec = spec_for(edge.answer("sum"))
        session = edge.service.open_session(spec)
        assert submit(edge, session.session_id, spec).error is None


def test_closing_the_service_ends_every_sampler(models: Path, tmp_path: Path) -> None:
    def samplers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "resources"]

    before = len(samplers())
    with edge_over(models, records=tmp_path / "records") as edge:
        for number in range(3):
            edge.service.open_session(spec_for(edge.answer("sum"), run_id=f"run-{number}"))
        assert len(samplers()) == before + 3
    assert eventually(lambda: len(samplers()) == before)
    assert edge.service.sessions() == []


def test_questions_from_many_threads_get_the_same_answer(edge: Edge) -> None:
    cuts = ["left", "right", "sum", "flat", "@input", "@output"] * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda cut: edge.service.describe_cut(CutQuestion("tiny", cut)), cuts)
        )
    for cut, answer in zip(cuts, answers, strict=True):
        assert answer is edge.answer(cut)
