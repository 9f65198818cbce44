"""Both transports in front of a real edge: one battery, and what only a network can do."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from splitbed.transport.grpc_settings import SERVICE, SESSION_HEADER, WINDOW_HEADER

# isort: split
import grpc
import msgspec
import numpy as np
import onnx
import pytest

from splitbed import codec
from splitbed.errors import (
    CodecError,
    CodecUnknown,
    CutUnknown,
    EdgeUnreachable,
    ModelMismatch,
    ModelUnknown,
    Overloaded,
    PayloadInvalid,
    ProtocolViolation,
    SplitbedError,
    TaskError,
    TransportError,
    Unauthorised,
    UsageError,
)
from splitbed.record import EdgeFrameRecord as Row
from splitbed.run_folder import RunFolder, read_rows
from splitbed.session import (
    LOCAL,
    REMOTE,
    Buffer,
    CutQuestion,
    Frame,
    ModelFile,
    Placement,
    Reply,
    SessionSpec,
    StageSpec,
    Step,
    TensorCodec,
)
from splitbed.tensor import Cut
from splitbed.transport import InProcessTransport, Peer, Transport
from splitbed.transport.grpc_client import GrpcTransport
from splitbed.transport.grpc_server import GrpcServer
from splitbed.wire import conversion
from splitbed.wire import split_pb2 as pb
from splitbed.wire.framing import encode_frame
from tests.unit.calibrations import calibration_of
from tests.unit.edges import (
    NODE,
    Edge,
    Stalling,
    boundary_of,
    edge_over,
    eventually,
    fetched,
    free_port,
    growing_model,
    model_folder,
    payloads,
    picture,
    spec_for,
    tensor_of,
    uncut,
    wide_model,
)

PATIENCE_S = 10
Change = Callable[[SessionSpec], SessionSpec]


@contextlib.contextmanager
def over_grpc(peer: Peer, **options: Any) -> Iterator[tuple[GrpcServer, GrpcTransport]]:
    """A server in front of a peer and a client of it, without TLS or token."""
    server = GrpcServer(peer, "127.0.0.1:0", **options)
    try:
        transport = GrpcTransport(server.address)
        try:
            yield server, transport
        finally:
            transport.close()
    finally:
        server.stop(0)


@contextlib.contextmanager
def reached(kind: str, peer: Peer) -> Iterator[Transport]:
    if kind == "in-process":
        yield InProcessTransport(peer)
    else:
        with over_grpc(peer) as (_, transport):
            yield transport


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "models")


@pytest.fixture(scope="module")
def shared_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with edge_over(model_folder(tmp_path_factory.mktemp("edge") / "models")) as made:
        yield made


@pytest.fixture(scope="module")
def shared_address(shared_edge: Edge) -> Iterator[str]:
    server = GrpcServer(shared_edge.service, "127.0.0.1:0")
    yield server.address
    server.stop(0)


@pytest.fixture
def edge(shared_edge: Edge) -> Iterator[Edge]:
    """An edge without sessions."""
    shared_edge.service.close()
    yield shared_edge
    shared_edge.service.close()


@pytest.fixture(params=["in-process", "grpc"])
def transport(
    request: pytest.FixtureRequest, edge: Edge, shared_address: str
) -> Iterator[Transport]:
    made: Transport
    if request.param == "grpc":
        made = GrpcTransport(shared_address)
    else:
        made = InProcessTransport(edge.service)
    yield made
    made.close()


def replaced(**changes: Any) -> Change:
    return lambda spec: msgspec.structs.replace(spec, **changes)


# --- one battery for both --------------------------------------------------------------------


def test_a_cut_is_described_and_its_parts_fetched(transport: Transport) -> None:
    answer = transport.describe_cut(CutQuestion("tiny", "right"))
    assert [str(tensor) for tensor in answer.cut.boundary] == [
        "left float32[1x3x8x8]",
        "right float32[1x3x8x8]",
    ]
    assert answer.first is not None
    assert answer.second is not None
    assert (answer.first.part, answer.second.part) == ("first", "second")
    for part in (answer.first, answer.second):
        content = fetched(transport, part)
        assert len(content) == part.file_bytes
        onnx.checker.check_model(onnx.load_from_string(content))
        assert b"".join(transport.part_chunks(part.sha256, 100)) == content[100:]
        assert b"".join(transport.part_chunks(part.sha256, part.file_bytes)) == b""
    assert '"top":3' in answer.task_json


def test_the_ends_of_a_model_have_one_part(transport: Transport) -> None:
    first = transport.describe_cut(CutQuestion("tiny", "@input"))
    last = transport.describe_cut(CutQuestion("tiny", "@output"))
    assert first.first is None
    assert first.second is not None
    assert first.second.part == "whole"
    assert last.second is None
    assert last.first is not None
    assert last.first.part == "whole"


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        (CutQuestion("big", "sum"), ModelUnknown, "no model 'big': it has tiny"),
        (CutQuestion("tiny", "summ"), CutUnknown, "near it are sum"),
        (CutQuestion("tiny", "sum", (("y", (1,)),)), SplitbedError, "no input 'y' to bind"),
    ],
)
def test_a_question_that_cannot_be_answered(
    transport: Transport, question: CutQuestion, error: type[SplitbedError], words: str
) -> None:
    with pytest.raises(error, match=words):
        transport.describe_cut(question)


def test_a_part_that_the_edge_does_not_have(transport: Transport) -> None:
    with pytest.raises(ModelUnknown, match="no part with that digest"):
        list(transport.part_chunks("0" * 64, 0))


@pytest.mark.parametrize("cut", ["@input", "left", "right", "sum"])
def test_a_full_reply_is_what_the_uncut_model_gives(
    transport: Transport, edge: Edge, cut: str
) -> None:
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", cut)))
    session = transport.open(spec)
    assert session.agreed.provider == "CPUExecutionProvider"
    (output,) = session.agreed.outputs
    sent = payloads(spec, boundary_of(cut, picture(1)))
    reply = session.submit(7, sent).result(PATIENCE_S)
    assert reply.error is None
    assert reply.frame_id == 7
    assert reply.session_id == session.agreed.session_id
    np.testing.assert_allclose(
        tensor_of(reply.payloads[0], output),
        uncut(edge.models / "tiny.onnx", picture(1)),
        rtol=1e-4,
        atol=1e-4,
    )
    session.close()
    session.close()
    assert edge.service.sessions() == []


def test_times_and_sizes_of_a_reply_add_up(transport: Transport) -> None:
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
    session = transport.open(spec)
    sent = payloads(spec, boundary_of("sum", picture(1)))
    reply = session.submit(300, sent).result(PATIENCE_S)
    message = encode_frame(Frame(session.agreed.session_id, 300, sent))
    assert reply.request_bytes == len(message)
    assert reply.reply_bytes > 20
    times = reply.times
    parts = times.queue_ns + times.decode_ns + times.tail_ns + times.encode_ns
    assert parts == times.edge_ns
    assert times.tail_ns > 0
    assert times.batch == 1
    assert times.edge_ns <= reply.complete_ns - reply.submitted_ns
    # Both nodes are this machine here, so that their clocks are one.
    assert reply.submitted_ns <= times.received_ns <= reply.complete_ns
    session.close()


@pytest.mark.parametrize("kind", ["in-process", "grpc"])
def test_both_nodes_count_the_same_bytes(kind: str, models: Path, tmp_path: Path) -> None:
    with edge_over(models, records=tmp_path / "records") as edge, reached(kind, edge.service) as at:
        for reply_mode in ("full", "result"):
            answer = at.describe_cut(CutQuestion("tiny", "right"))
            spec = spec_for(answer, reply=reply_mode, run_id=reply_mode)
            session = at.open(spec)
            sent = payloads(spec, boundary_of("right", picture(1)))
            replies = [session.submit(n, p).result(PATIENCE_S) for n, p in ((1, sent), (300, ()))]
            session.close()
            rows = read_rows(RunFolder(tmp_path / "records" / reply_mode).frames("edge"), Row)
            assert [(row.request_bytes, row.reply_bytes) for row in rows] == [
                (reply.request_bytes, reply.reply_bytes) for reply in replies
            ]


@pytest.mark.parametrize("kind", ["in-process", "grpc"])
@pytest.mark.parametrize("window", [1, 3])
def test_large_frames_come_whole_and_are_counted_alike(
    kind: str, window: int, models: Path, tmp_path: Path
) -> None:
    """They travel in pieces; small ones between them do not."""
    onnx.save(wide_model(), str(models / "wide.onnx"))
    records = tmp_path / "records"
    with edge_over(models, records=records) as edge, reached(kind, edge.service) as at:
        spec = spec_for(at.describe_cut(CutQuestion("wide", "mid")), model="wide", window=window)
        session = at.open(spec)
        replies: list[Reply] = []
        pending: list[Future[Reply]] = []
        values = [np.full((1, 3, 512, 512), n + 1, np.float32) for n in range(7)]
        for number, value in enumerate(values):
            if len(pending) == window:
                replies.append(pending.pop(0).result(PATIENCE_S))
            # One of them has no payload at all, and fails.
            sent = () if number == 3 else payloads(spec, {"mid": value})
            pending.append(session.submit(number, sent))
        replies += [future.result(PATIENCE_S) for future in pending]
        session.close()
    for number, reply in enumerate(replies):
        if number == 3:
            assert reply.error is not None
            continue
        assert reply.error is None
        found = tensor_of(reply.payloads[0], session.agreed.outputs[0])
        np.testing.assert_allclose(found, [[number + 1] * 3], rtol=1e-5)
        assert 3 * 512 * 512 * 4 < reply.request_bytes < 3 * 512 * 512 * 4 + 100
    rows = read_rows(RunFolder(records / "run-1").frames("edge"), Row)
    assert [row.request_bytes for row in rows] == [reply.request_bytes for reply in replies]


def test_an_edge_says_what_it_is_and_what_it_serves(transport: Transport, edge: Edge) -> None:
    content = (edge.models / "tiny.onnx").read_bytes()
    answer = transport.describe_cut(CutQuestion("tiny", "sum"))
    assert answer.source == ModelFile(
        "tiny.onnx",
        len(content),
        hashlib.md5(content, usedforsecurity=False).hexdigest(),
        hashlib.sha256(content).hexdigest(),
    )
    session = transport.open(spec_for(answer))
    assert session.agreed.node == NODE
    session.close()


def test_a_result_is_what_the_task_says(transport: Transport, edge: Edge) -> None:
    answer = transport.describe_cut(CutQuestion("tiny", "sum"))
    spec = spec_for(answer, reply="result")
    session = transport.open(spec)
    assert session.agreed.outputs == ()
    reply = session.submit(1, payloads(spec, boundary_of("sum", picture(2)))).result(PATIENCE_S)
    scores = uncut(edge.models / "tiny.onnx", picture(2)).reshape(-1)
    found = msgspec.json.decode(reply.result_json)
    assert found["top"] == list(np.argsort(-scores)[:3])
    assert found["label"] == found["top"][0]
    assert found["score"] == pytest.approx(float(scores.max()), rel=1e-4)
    assert reply.payloads == ()
    session.close()


def test_pictures_are_prepared_at_the_edge(transport: Transport, edge: Edge) -> None:
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "@picture")), reply="result")
    session = transport.open(spec)
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)
    reply = session.submit(1, payloads(spec, {"@picture": pixels})).result(PATIENCE_S)
    tensor = ((pixels.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
    scores = uncut(edge.models / "tiny.onnx", np.ascontiguousarray(tensor))
    assert msgspec.json.decode(reply.result_json)["label"] == int(scores.argmax())
    session.close()


def test_a_finished_result_makes_a_round_trip(transport: Transport) -> None:
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "@result")), reply="result")
    session = transport.open(spec)
    assert session.agreed.provider == ""
    top = np.array([4, 0, 2], np.int32)
    reply = session.submit(1, payloads(spec, {"@result": top})).result(PATIENCE_S)
    assert msgspec.json.decode(reply.result_json) == {"label": 4, "top": [4, 0, 2]}
    session.close()


def test_frames_in_flight_keep_their_order(transport: Transport, edge: Edge) -> None:
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "right")), window=4, coded="zstd")
    session = transport.open(spec)
    wanted = [uncut(edge.models / "tiny.onnx", picture(n)) for n in range(40)]
    done: list[int] = []
    pending: list[Future[Reply]] = []
    for number in range(40):
        if len(pending) == 4:
            pending.pop(0).result(PATIENCE_S)
        sent = payloads(spec, boundary_of("right", picture(number)))
        future = session.submit(number, sent)
        future.add_done_callback(lambda f: done.append(f.result().frame_id))
        future.add_done_callback(
            lambda f, n=number: np.testing.assert_allclose(  # type: ignore[misc]
                tensor_of(f.result().payloads[0], session.agreed.outputs[0]), wanted[n], rtol=1e-4
            )
        )
        pending.append(future)
    for future in pending:
        future.result(PATIENCE_S)
    assert done == list(range(40))
    session.close()


def test_two_sessions_at_once_do_not_mix(transport: Transport, edge: Edge) -> None:
    def run(cut: str, seed: int) -> bool:
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", cut)), run_id=f"run-{seed}")
        session = transport.open(spec)
        wanted = uncut(edge.models / "tiny.onnx", picture(seed))
        sent = payloads(spec, boundary_of(cut, picture(seed)))
        replies = [session.submit(n, sent).result(PATIENCE_S) for n in range(10)]
        session.close()
        (output,) = session.agreed.outputs
        return all(
            np.allclose(tensor_of(r.payloads[0], output), wanted, rtol=1e-4) for r in replies
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, ["left", "right", "sum", "left"], range(4)))


FAILING = {
    "a payload too short": (lambda p: (p[0], bytes(3)), PayloadInvalid),
    "a payload too long": (lambda p: (bytes(p[0]) + b"\0" * 99, p[1]), PayloadInvalid),
    "no payload": (lambda p: (), ProtocolViolation),
    "one payload of two": (lambda p: p[:1], ProtocolViolation),
    "three payloads of two": (lambda p: (*p, p[0]), ProtocolViolation),
    "a damaged payload": (lambda p: (p[0], b"\xff" * 9 + bytes(p[1])[9:]), PayloadInvalid),
    "empty payloads": (lambda p: (b"", b""), PayloadInvalid),
}


@pytest.mark.parametrize(("damage", "error"), FAILING.values(), ids=FAILING)
def test_a_frame_that_fails_leaves_the_session_open(
    transport: Transport,
    damage: Callable[[tuple[Buffer, ...]], tuple[Buffer, ...]],
    error: type[SplitbedError],
) -> None:
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "right")), window=3, coded="zstd")
    session = transport.open(spec)
    good = payloads(spec, boundary_of("right", picture(5)))
    replies = [session.submit(n, sent) for n, sent in enumerate((good, damage(good), good))]
    before, failed, after = (reply.result(PATIENCE_S) for reply in replies)
    assert type(failed.error) is error
    assert str(failed.error)
    assert failed.payloads == ()
    assert failed.frame_id == 1
    assert before.error is None
    assert after.error is None
    assert bytes(before.payloads[0]) == bytes(after.payloads[0])
    session.close()


def test_payloads_cut_off_anywhere_are_answered(transport: Transport, edge: Edge) -> None:
    answer = transport.describe_cut(CutQuestion("tiny", "right"))
    seen = [boundary_of("right", picture(seed)) for seed in range(8)]
    codecs = tuple(
        codec.plan(
            "uniform:0.05+layers", [tensor], calibration_of(tensor, *(s[tensor.name] for s in seen))
        )[0]
        for tensor in answer.cut.boundary
    )
    spec = spec_for(answer, codecs=codecs)
    session = transport.open(spec)
    (output,) = session.agreed.outputs
    wanted = uncut(edge.models / "tiny.onnx", picture(9))
    whole = [bytes(payload) for payload in payloads(spec, boundary_of("right", picture(9)))]
    errors = []
    for number, share in enumerate((0, 0.1, 0.4, 0.7, 1)):
        sent = tuple(payload[: round(len(payload) * share)] for payload in whole)
        reply = session.submit(number, sent).result(PATIENCE_S)
        assert reply.error is None
        found = tensor_of(reply.payloads[0], output)
        errors.append(float(np.square(found - wanted).mean()))
    assert errors[0] > errors[2] > errors[4]
    assert errors[4] < 0.02 * errors[0]
    longer = session.submit(9, (whole[0], whole[1] + b"\0")).result(PATIENCE_S)
    assert type(longer.error) is PayloadInvalid
    session.close()


OTHER_MODEL = {
    "another model": (replaced(model_digest="0" * 64), ModelMismatch, "another model named 'tiny'"),
    "unknown model": (replaced(model="big"), ModelUnknown, "no model 'big'"),
    "unknown cut": (
        lambda spec: replaced(cut=Cut("mid", spec.cut.boundary))(spec),
        CutUnknown,
        "no cut 'mid'",
    ),
}
OTHER_BOUNDARY: dict[str, Callable[[Cut], Cut]] = {
    "one tensor missing": lambda cut: Cut(cut.name, cut.boundary[:1]),
    "order": lambda cut: Cut(cut.name, cut.boundary[::-1]),
    "shape": lambda cut: Cut(
        cut.name, (msgspec.structs.replace(cut.boundary[0], shape=(1, 3, 8, 9)), cut.boundary[1])
    ),
    "dtype": lambda cut: Cut(
        cut.name, (msgspec.structs.replace(cut.boundary[0], dtype="float16"), cut.boundary[1])
    ),
}


def recut(change: Callable[[Cut], Cut]) -> Change:
    return lambda spec: msgspec.structs.replace(spec, cut=change(spec.cut))


def coded_as(*stages: StageSpec, tensor: str = "") -> Change:
    """The same codec for every boundary tensor."""

    def change(spec: SessionSpec) -> SessionSpec:
        codecs = tuple(TensorCodec(tensor or t.name, stages) for t in spec.cut.boundary)
        return msgspec.structs.replace(spec, codecs=codecs)

    return change


RAW = StageSpec("raw")
REFUSED: dict[str, tuple[Change, type[SplitbedError], str]] = {
    **OTHER_MODEL,
    **{
        f"another boundary: {name}": (recut(change), ProtocolViolation, "boundary of cut 'right'")
        for name, change in OTHER_BOUNDARY.items()
    },
    "no codecs": (replaced(codecs=()), UsageError, "0 codecs came for 2 boundary tensors"),
    "a codec too many": (
        lambda spec: replaced(codecs=(*spec.codecs, spec.codecs[0]))(spec),
        UsageError,
        "3 codecs came for 2",
    ),
    "codecs in another order": (
        lambda spec: replaced(codecs=spec.codecs[::-1])(spec),
        CodecUnknown,
        "'right' came where 'left' is next",
    ),
    "unknown codec": (coded_as(StageSpec("h264")), CodecUnknown, "unknown codec stage 'h264'"),
    "no stages": (coded_as(), CodecUnknown, "without stages"),
    "a byte stage first": (coded_as(StageSpec("zstd")), CodecUnknown, "'zstd' is not known here"),
    "an array stage later": (coded_as(RAW, RAW), CodecUnknown, "'raw' is not known here"),
    "a wrong parameter": (
        coded_as(RAW, StageSpec("zstd", {"level": 99})),
        CodecUnknown,
        "'zstd' is configured wrongly",
    ),
    "an unknown parameter": (
        coded_as(RAW, StageSpec("zstd", {"speed": 1})),
        CodecUnknown,
        "'zstd' is configured wrongly",
    ),
    "all on the edge": (replaced(placement=REMOTE), UsageError, "placed as split, not as remote"),
    "all on the device": (replaced(placement=LOCAL), UsageError, "placed as split, not as local"),
    "features sent down": (
        replaced(placement=Placement((Step("edge", "first"), Step("device", "second")))),
        UsageError,
        "no node runs the placement",
    ),
    "a result without a task": (replaced(reply="result", task_json=""), TaskError, "needs a task"),
    "a task that is none": (replaced(task_json="{}x"), TaskError, "cannot be read"),
    "a task of another size": (replaced(task_json='{"size":[9,9]}'), TaskError, "size"),
}


@pytest.mark.parametrize(("change", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_a_session_is_refused_with_a_reason(
    transport: Transport, edge: Edge, change: Change, error: type[SplitbedError], words: str
) -> None:
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "right")))
    with pytest.raises(error, match=words) as caught:
        transport.open(change(spec))
    assert type(caught.value) is error or error is SplitbedError
    assert "\n" not in str(caught.value)
    assert edge.service.sessions() == []
    transport.open(spec).close()


def test_a_codec_that_cannot_code_the_tensor_is_refused(transport: Transport) -> None:
    answer = transport.describe_cut(CutQuestion("tiny", "@picture"))
    spec = spec_for(answer, codecs=(TensorCodec("@picture", (StageSpec("cast"),)),))
    with pytest.raises(CodecError, match="cast codes floating-point tensors, not uint8"):
        transport.open(spec)


def test_too_many_sessions(models: Path) -> None:
    with edge_over(models, sessions=2) as edge:
        for kind in ("in-process", "grpc"):
            with reached(kind, edge.service) as transport:
                spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
                first, second = transport.open(spec), transport.open(spec)
                with pytest.raises(Overloaded, match="2 sessions open, as many as it may"):
                    transport.open(spec)
                first.close()
                transport.open(spec).close()
                second.close()


@pytest.mark.parametrize("kind", ["in-process", "grpc"])
def test_frames_larger_than_a_message_are_refused_at_once(models: Path, kind: str) -> None:
    with edge_over(models, message_bytes=66_400) as edge, reached(kind, edge.service) as transport:
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "right")))
        with pytest.raises(Overloaded, match="may take 1536 bytes, more than the 66400"):
            transport.open(spec)
        transport.open(spec_for(transport.describe_cut(CutQuestion("tiny", "flat")))).close()


def test_a_frame_of_an_unknown_session(transport: Transport, edge: Edge) -> None:
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
    session = transport.open(spec)
    edge.service.close_session(session.agreed.session_id)
    sent = payloads(spec, boundary_of("sum", picture(1)))
    with pytest.raises(ProtocolViolation, match="a session that is not open here"):
        session.submit(1, sent).result(PATIENCE_S)
    session.close()


def test_a_probe_has_sensible_time_stamps(transport: Transport) -> None:
    found = transport.probe()
    assert found.sent_ns <= found.peer_received_ns <= found.peer_sent_ns <= found.received_ns
    assert found.received_ns - found.sent_ns < 5e9


@pytest.mark.parametrize("kind", ["in-process", "grpc"])
def test_closing_twice_is_fine_and_nothing_works_afterwards(edge: Edge, kind: str) -> None:
    with reached(kind, edge.service) as transport:
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
        transport.close()
        transport.close()
        for call in (
            transport.probe,
            lambda: transport.describe_cut(CutQuestion("tiny", "sum")),
            lambda: list(transport.part_chunks("0" * 64, 0)),
            lambda: transport.open(spec),
        ):
            with pytest.raises(EdgeUnreachable):
                call()


@pytest.mark.parametrize("kind", ["in-process", "grpc"])
def test_a_frame_after_close_fails(edge: Edge, kind: str) -> None:
    with reached(kind, edge.service) as transport:
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
        session = transport.open(spec)
        session.close()
        sent = payloads(spec, boundary_of("sum", picture(1)))
        with pytest.raises(TransportError):
            session.submit(1, sent).result(1)


# --- what only a network can do ---------------------------------------------------------------


def test_an_edge_that_stops_fails_every_frame_in_flight(edge: Edge) -> None:
    peer = Stalling(edge.service)
    with over_grpc(peer) as (server, transport):
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")), window=4)
        session = transport.open(spec)
        sent = payloads(spec, boundary_of("sum", picture(1)))
        pending = [session.submit(n, sent) for n in range(4)]
        assert peer.reached.acquire(timeout=5)
        stopping = threading.Thread(target=server.stop, args=(0,))
        stopping.start()
        try:
            for future in pending:
                with pytest.raises(EdgeUnreachable):
                    future.result(5)
            # Later frames fail at once, with the same reason.
            with pytest.raises(EdgeUnreachable):
                session.submit(5, sent).result(1)
        finally:
            peer.go.set()
            stopping.join()
        session.close()


def test_an_edge_that_stops_lets_a_frame_under_way_finish(edge: Edge) -> None:
    peer = Stalling(edge.service)
    with over_grpc(peer) as (server, transport):
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
        session = transport.open(spec)
        future = session.submit(1, payloads(spec, boundary_of("sum", picture(1))))
        assert peer.reached.acquire(timeout=5)
        stopping = threading.Thread(target=server.stop, args=(1,))
        stopping.start()
        time.sleep(0.1)
        peer.go.set()
        assert future.result(5).error is None
        stopping.join()


def test_closing_a_session_waits_for_the_frames_in_flight(edge: Edge) -> None:
    with over_grpc(edge.service) as (_, transport):
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")), window=4)
        session = transport.open(spec)
        sent = payloads(spec, boundary_of("sum", picture(1)))
        pending = [session.submit(n, sent) for n in range(4)]
        session.close()
        assert [future.result(0).error for future in pending] == [None] * 4
        assert edge.service.sessions() == []


def test_more_streams_than_the_edge_has_room_for(edge: Edge) -> None:
    with over_grpc(edge.service, streams=1) as (_, transport):
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
        first = transport.open(spec)
        sent = payloads(spec, boundary_of("sum", picture(1)))
        first.submit(1, sent).result(PATIENCE_S)
        second = transport.open(spec)
        with pytest.raises(Overloaded, match="as many devices as it may"):
            second.submit(1, sent).result(PATIENCE_S)
        assert first.submit(2, sent).result(PATIENCE_S).error is None
        first.close()
        second.close()
        assert eventually(lambda: works(transport, spec, sent))


def works(transport: Transport, spec: SessionSpec, sent: tuple[Buffer, ...]) -> bool:
    """Whether a session can be opened and used now."""
    session = transport.open(spec)
    try:
        return session.submit(1, sent).result(PATIENCE_S).error is None
    except Overloaded:
        return False
    finally:
        session.close()


@pytest.mark.parametrize("run_id", ["../x", "a/b", "", ".hidden", "a" * 129, "a b", "a\0"])
def test_a_run_id_that_is_no_folder_name_is_refused(
    models: Path, tmp_path: Path, run_id: str
) -> None:
    records = tmp_path / "records"
    with (
        edge_over(models, records=records) as edge,
        over_grpc(edge.service) as (_, transport),
    ):
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")), run_id=run_id)
        with pytest.raises(ProtocolViolation, match="run_id"):
            transport.open(spec)
    assert not records.exists()


def test_a_device_that_vanishes_leaves_no_session(edge: Edge) -> None:
    with over_grpc(edge.service) as (_, transport):
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
        session = transport.open(spec)
        session.submit(1, payloads(spec, boundary_of("sum", picture(1)))).result(PATIENCE_S)
        transport.close()  # what the edge sees of a killed process
        assert eventually(lambda: edge.service.sessions() == [], 2)


def test_a_device_that_vanishes_before_its_first_frame_leaves_no_session(edge: Edge) -> None:
    with over_grpc(edge.service) as (_, transport):
        transport.open(spec_for(transport.describe_cut(CutQuestion("tiny", "sum"))))
        assert len(edge.service.sessions()) == 1
        transport.close()
        assert eventually(lambda: edge.service.sessions() == [], 2)


def test_a_device_may_be_slow_to_send_its_first_frame(models: Path) -> None:
    with edge_over(models, unused_s=0.2) as edge, over_grpc(edge.service) as (_, transport):
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
        without_stream = transport._call(
            "OpenSession", conversion.spec_message(spec), pb.SessionAgreed
        )
        session = transport.open(spec)
        assert len(edge.service.sessions()) == 2
        assert eventually(lambda: len(edge.service.sessions()) == 1, 2)
        time.sleep(0.3)
        sent = payloads(spec, boundary_of("sum", picture(1)))
        assert session.submit(1, sent).result(PATIENCE_S).error is None
        assert session.agreed.session_id != without_stream.session_id
        session.close()


@pytest.mark.parametrize("header", ["x", "-1", "1" * 30, "\u00b2", "12345"])
def test_a_stream_for_a_session_that_is_none(edge: Edge, header: str) -> None:
    with over_grpc(edge.service) as (server, transport):
        channel = grpc.insecure_channel(server.address)
        method: Any = channel.stream_stream(f"/{SERVICE}/Frames")
        with contextlib.suppress(ValueError, grpc.RpcError, UnicodeEncodeError):
            assert list(method(iter(()), metadata=((SESSION_HEADER, header),))) == []
        channel.close()
        transport.probe()


def our_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name in ("replies", "requests", "decoding")}


@pytest.mark.parametrize("window", [1, 4])
def test_closing_does_not_wait_for_an_edge_that_hangs(edge: Edge, window: int) -> None:
    before, peer = our_threads(), Stalling(edge.service)
    with over_grpc(peer) as (_, transport):
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")), window=window)
        session = transport.open(spec)
        sent = payloads(spec, boundary_of("sum", picture(1)))
        pending = [session.submit(n, sent) for n in range(window)]
        assert peer.reached.acquire(timeout=5)
        start = time.monotonic()
        session.close()
        assert time.monotonic() - start < 3.5
        for future in pending:
            with pytest.raises(EdgeUnreachable, match="closed before the reply came"):
                future.result(0)
        assert not any(t.name == "replies" for t in our_threads() - before)
        peer.go.set()
        assert eventually(lambda: our_threads() <= before)
        assert eventually(lambda: edge.service.sessions() == [])


class _Deaf:
    """An edge that answers everything but the end of a session."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.go = threading.Event()

    def close_session(self, session_id: int) -> None:
        self.go.wait(30)
        self._peer.close_session(session_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer, name)


def test_closing_does_not_wait_for_an_edge_that_does_not_close(edge: Edge) -> None:
    peer = _Deaf(edge.service)
    with over_grpc(peer) as (_, transport):
        session = transport.open(spec_for(transport.describe_cut(CutQuestion("tiny", "sum"))))
        start = time.monotonic()
        session.close()
        assert time.monotonic() - start < 5
        peer.go.set()
        assert eventually(lambda: edge.service.sessions() == [])


def test_no_proxy_comes_between_the_nodes(
    shared_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    transport = GrpcTransport(shared_address, connect_timeout_s=2)
    transport.probe()
    transport.close()


def test_a_message_larger_than_the_device_may_send(edge: Edge) -> None:
    server = GrpcServer(edge.service, "127.0.0.1:0")
    transport = GrpcTransport(server.address, message_bytes=1000)
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "right")))
    session = transport.open(spec)
    with pytest.raises(Overloaded, match="raise --message-mib on both"):
        session.submit(1, payloads(spec, boundary_of("right", picture(1)))).result(PATIENCE_S)
    session.close()
    transport.close()
    server.stop(0)


def test_a_message_larger_than_the_edge_takes(edge: Edge) -> None:
    server = GrpcServer(edge.service, "127.0.0.1:0", message_bytes=1000)
    transport = GrpcTransport(server.address)
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "right")))
    session = transport.open(spec)
    with pytest.raises(Overloaded, match="raise --message-mib on both"):
        session.submit(1, payloads(spec, boundary_of("right", picture(1)))).result(PATIENCE_S)
    session.close()
    transport.close()
    server.stop(0)


def test_a_reply_larger_than_a_message(models: Path) -> None:
    onnx.save(growing_model(500_000), str(models / "growing.onnx"))
    with (
        edge_over(models, message_bytes=1 << 20) as edge,
        over_grpc(edge.service, message_bytes=1 << 20) as (_, transport),
    ):
        answer = transport.describe_cut(CutQuestion("growing", "mid"))
        spec = spec_for(answer, model="growing")
        session = transport.open(spec)
        sent = payloads(spec, {"mid": np.ones((1, 1), np.float32)})
        with pytest.raises(Overloaded, match="raise --message-mib on both"):
            session.submit(1, sent).result(PATIENCE_S)
        session.close()


def test_nobody_there_is_named() -> None:
    port = free_port()
    start = time.monotonic()
    with pytest.raises(EdgeUnreachable, match=f"no edge answers at 127.0.0.1:{port} within 0.3 s"):
        GrpcTransport(f"127.0.0.1:{port}", connect_timeout_s=0.3)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\x00" * 100])
def test_something_that_is_not_grpc_listens_there(words: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    with sock:
                        sock.sendall(words)

        serving = threading.Thread(target=serve)
        serving.start()
        port = server.getsockname()[1]
        with pytest.raises(EdgeUnreachable, match=f"answers at 127.0.0.1:{port}, but not as an"):
            GrpcTransport(f"127.0.0.1:{port}", connect_timeout_s=0.5)
        server.shutdown(socket.SHUT_RDWR)
        serving.join()


def test_another_grpc_service_listens_there() -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        transport = GrpcTransport(f"127.0.0.1:{port}")
        with pytest.raises(ProtocolViolation, match=f"127.0.0.1:{port} is no splitbed edge"):
            transport.probe()
        transport.close()
        server.stop(0).wait()


def test_two_servers_do_not_share_an_address(edge: Edge) -> None:
    with (
        over_grpc(edge.service) as (server, _),
        pytest.raises(TransportError, match=f"cannot listen on {server.address}"),
    ):
        GrpcServer(edge.service, server.address)


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(edge: Edge, listen: str) -> None:
    with pytest.raises(UsageError, match="is no address: write host:port"):
        GrpcServer(edge.service, listen).stop(0)


class _NewFrames:
    """Raw messages on a stream of frames, as a hostile device may send them."""

    def __init__(self, address: str, window: str, messages: list[bytes]) -> None:
        self.taken = 0
        self._messages = messages
        self._go_on = threading.Event()
        self._channel = grpc.insecure_channel(address)
        method: Any = self._channel.stream_stream(f"/{SERVICE}/Frames")
        self.call = method(self._send(), metadata=((WINDOW_HEADER, window),))

    def _send(self) -> Iterator[bytes]:
        for message in self._messages:
            self.taken += 1
            yield message
        self._go_on.wait(30)

    def close(self) -> None:
        self._go_on.set()
        self.call.cancel()
        self._channel.close()


@contextlib.contextmanager
def raw_frames(address: str, window: str, messages: list[bytes]) -> Iterator[_NewFrames]:
    made = _NewFrames(address, window, messages)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    "message",
    [
        *(b"\xff" * 30, b"\x09", b"", encode_frame(Frame(1, 1, ()))),
        *(b"\x28\x01\x32\x02ab", b"\x28\x0a\x32\x00"),
    ],
)
def test_a_message_that_is_no_frame_ends_the_stream(edge: Edge, message: bytes) -> None:
    with over_grpc(edge.service) as (server, transport):
        with raw_frames(server.address, "1", [message]) as frames:
            with pytest.raises(grpc.RpcError) as caught:
                next(frames.call)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        transport.probe()


def waiting_readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("requests", "decoding")]


def test_frames_beyond_the_window_leave_no_thread_behind(edge: Edge) -> None:
    before, peer = set(waiting_readers()), Stalling(edge.service)
    messages = [encode_frame(Frame(1, 1, ()))] * 50
    with over_grpc(peer) as (server, _), raw_frames(server.address, "2", messages) as frames:
        assert eventually(lambda: frames.taken == 50)
        time.sleep(0.2)
        peer.go.set()
        with pytest.raises(grpc.RpcError):
            next(frames.call)
    assert eventually(lambda: set(waiting_readers()) <= before, 1)


@pytest.mark.parametrize("window", ["2", "0"])
def test_an_edge_reads_ahead_no_further_than_the_window(edge: Edge, window: str) -> None:
    peer = Stalling(edge.service)
    message = encode_frame(Frame(1, 1, (bytes(1 << 20),)))
    with over_grpc(peer) as (server, _):
        with raw_frames(server.address, window, [message] * 120) as frames:
            assert peer.reached.acquire(timeout=5)
            # gRPC's own buffers hold some 40 MiB; 120 would have to be held by us.
            held = eventually(lambda: frames.taken == 120, 1.5)
        peer.go.set()
    assert not held


# --- who may connect --------------------------------------------------------------------------


def test_the_right_token_opens_every_call(edge: Edge) -> None:
    server = GrpcServer(edge.service, "127.0.0.1:0", token="open sesame")
    transport = GrpcTransport(server.address, token="open sesame")
    transport.probe()
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")))
    session = transport.open(spec)
    reply = session.submit(1, payloads(spec, boundary_of("sum", picture(1)))).result(PATIENCE_S)
    assert reply.error is None
    session.close()
    transport.close()
    server.stop(0)


@pytest.mark.parametrize("token", ["", "open sesame ", "Open sesame"])
def test_another_token_opens_no_call(edge: Edge, token: str) -> None:
    server = GrpcServer(edge.service, "127.0.0.1:0", token="open sesame")
    transport = GrpcTransport(server.address, token=token)
    spec = spec_for(edge.answer("sum"))
    for call in (
        transport.probe,
        lambda: transport.describe_cut(CutQuestion("tiny", "sum")),
        lambda: list(transport.part_chunks("0" * 64, 0)),
        lambda: transport.open(spec),
    ):
        words = "the token is not this edge's" if token else "this edge wants a token"
        with pytest.raises(Unauthorised, match=words):
            call()
    with raw_frames(server.address, "1", []) as frames:
        with pytest.raises(grpc.RpcError) as caught:
            next(frames.call)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    transport.close()
    server.stop(0)


def test_a_token_is_not_asked_for_by_an_open_edge(edge: Edge) -> None:
    server = GrpcServer(edge.service, "127.0.0.1:0")
    transport = GrpcTransport(server.address, token="whatever")
    transport.probe()
    transport.close()
    server.stop(0)


@pytest.mark.parametrize("token", ["Schlüssel", "two\nlines"])
def test_a_token_that_no_header_can_carry_is_refused(edge: Edge, token: str) -> None:
    server = GrpcServer(edge.service, "127.0.0.1:0")
    try:
        with pytest.raises(UsageError, match="token"):
            GrpcTransport(server.address, token=token).probe()
    finally:
        server.stop(0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for loopback and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "edge.pem", folder / "edge.key"
    command = [openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


def test_tls_with_a_certificate_that_is_known(edge: Edge, certificate: tuple[Path, Path]) -> None:
    server = GrpcServer(edge.service, "127.0.0.1:0", tls=certificate, token="both")
    transport = GrpcTransport(server.address, tls_ca=certificate[0], token="both")
    spec = spec_for(transport.describe_cut(CutQuestion("tiny", "right")), window=2)
    session = transport.open(spec)
    reply = session.submit(1, payloads(spec, boundary_of("right", picture(1)))).result(PATIENCE_S)
    assert reply.error is None
    session.close()
    transport.close()
    server.stop(0)


def test_tls_with_a_stranger(edge: Edge, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    plain = GrpcServer(edge.service, "127.0.0.1:0")
    secret = GrpcServer(edge.service, "127.0.0.1:0", tls=certificate)
    for server, tls_ca, words in (
        (plain, certificate[0], "but not as an edge with TLS"),
        (secret, None, "but not as an edge without TLS"),
    ):
        with pytest.raises(EdgeUnreachable, match=f"answers at {server.address}, {words}"):
            GrpcTransport(server.address, tls_ca=tls_ca, connect_timeout_s=0.5)
        server.stop(0)


def test_tls_with_another_ca_or_another_name(
    edge: Edge, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=other"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(tmp_path / "other.key"), "-out", str(other)]
    subprocess.run(command, check=True, capture_output=True)
    server = GrpcServer(edge.service, "0.0.0.0:0", tls=certificate)
    port = server.address.rpartition(":")[2]
    for address, ca in ((f"127.0.0.1:{port}", other), (f"127.0.0.2:{port}", certificate[0])):
        with pytest.raises(EdgeUnreachable, match=r"vouches for \(.*\): give the CA that signed"):
            GrpcTransport(address, tls_ca=ca, connect_timeout_s=0.5)
    server.stop(0)


def test_files_for_tls_that_are_not_there(edge: Edge, tmp_path: Path) -> None:
    nowhere = tmp_path / "no.pem"
    with pytest.raises(UsageError, match=r"cannot read .*no\.pem \(No such"):
        GrpcServer(edge.service, "127.0.0.1:0", tls=(nowhere, nowhere))
    with pytest.raises(UsageError, match=r"cannot read .*no\.pem \(No such"):
        GrpcTransport("127.0.0.1:1", tls_ca=nowhere)


def test_a_broken_certificate_is_named(edge: Edge, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate at all")
    with pytest.raises(UsageError, match=r"broken\.pem"):
        GrpcServer(edge.service, "127.0.0.1:0", tls=(broken, broken))


def test_an_edge_by_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    with pytest.raises(EdgeUnreachable, match=r"known by the name of the edge at edge\.invalid:1 "):
        GrpcTransport("edge.invalid:1", connect_timeout_s=0.1)
