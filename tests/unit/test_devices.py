"""Several devices at once on one edge, over real sockets: whose frame is whose, at what cost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from prometheus_client.parser import text_string_to_metric_families

from edge_node.turns import Turns
from splitbed.engine import Engine
from splitbed.errors import Overloaded, ProtocolViolation
from splitbed.session import Buffer, CutQuestion, Frame, Reply
from splitbed.tensor import Array
from splitbed.transport import Session, Work
from splitbed.transport.grpc_client import GrpcTransport
from splitbed.transport.grpc_server import GrpcServer, stream_depth
from splitbed.transport.grpc_settings import SESSION_HEADER, WINDOW_HEADER
from tests.unit.edges import (
    Edge,
    boundary_of,
    edge_over,
    eventually,
    model_folder,
    payloads,
    picture,
    spec_for,
    tensor_of,
    uncut,
)

PATIENCE_S = 20
NAMES = ("replies", "requests", "decoding")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "models")


@contextlib.contextmanager
def served(models: Path, turns: Turns | None = None, **options: Any) -> Iterator[tuple[Edge, str]]:
    """An edge and the address at which it answers."""
    with edge_over(models, turns=turns, **options) as edge:
        server = GrpcServer(edge.service, "127.0.0.1:0")
        try:
            yield edge, server.address
        finally:
            server.stop(0)


class _Device:
    """A device with inputs of its own, that knows what must come back."""

    def __init__(self, address: str, models: Path, number: int, cut: str, window: int) -> None:
        self._transport = GrpcTransport(address)
        answer = self._transport.describe_cut(CutQuestion("tiny", cut))
        self.spec = spec_for(answer, run_id=f"device-{number}", window=window)
        self.session: Session = self._transport.open(self.spec)
        self._inputs = [picture(100 * number + n) for n in range(4)]
        self._sent = [payloads(self.spec, boundary_of(cut, value)) for value in self._inputs]
        self._wanted = [uncut(models / "tiny.onnx", value) for value in self._inputs]
        self.replies: list[Reply] = []
        self._flying: deque[tuple[int, Future[Reply]]] = deque()

    def send(self, frame_id: int) -> None:
        sent = self._sent[frame_id % 4]
        self._flying.append((frame_id, self.session.submit(frame_id, sent)))

    def check(self) -> Reply:
        """The next reply, which must be this device's own."""
        frame_id, future = self._flying.popleft()
        reply = future.result(PATIENCE_S)
        assert reply.error is None
        assert reply.frame_id == frame_id
        found = tensor_of(reply.payloads[0], self.session.agreed.outputs[0])
        np.testing.assert_allclose(found, self._wanted[frame_id % 4], rtol=1e-4, atol=1e-4)
        self.replies.append(reply)
        return reply

    def measure(self, frames: int) -> list[Reply]:
        for frame_id in range(frames):
            if len(self._flying) == self.spec.window:
                self.check()
            self.send(frame_id)
        while self._flying:
            self.check()
        return self.replies

    def close(self) -> None:
        self.session.close()
        self._transport.close()

    def vanish(self) -> None:
        """What an edge sees of a killed process."""
        self._transport.close()


@pytest.mark.parametrize(
    "turns", [Turns(1), Turns(2), Turns(1, batch=4, wait_ms=1)], ids=["one", "two", "batch"]
)
def test_every_device_gets_its_own_replies(models: Path, turns: Turns) -> None:
    kinds = [("sum", 1), ("sum", 8), ("right", 3), ("left", 1), ("@input", 2), ("sum", 2)]
    with served(models, turns) as (edge, address):
        devices = [_Device(address, models, n, *kind) for n, kind in enumerate(kinds)]
        with ThreadPoolExecutor(len(devices)) as pool:
            found = list(pool.map(lambda device: device.measure(40), devices))
        assert [len(replies) for replies in found] == [40] * len(devices)
        for times in (reply.times for replies in found for reply in replies):
            parts = times.queue_ns + times.decode_ns + times.tail_ns + times.encode_ns
            assert parts == times.edge_ns
            assert min(times.queue_ns, times.decode_ns, times.tail_ns, times.encode_ns) >= 0
            assert 1 <= times.batch <= turns.batch
        balances = edge.service.balances()
        assert [one.spec for one in balances] == [device.spec for device in devices]
        assert eventually(lambda: all(one.frames == 40 for one in edge.service.balances()))
        for one, replies in zip(edge.service.balances(), found, strict=True):
            assert one.failed == 0
            assert one.up_bytes == sum(reply.request_bytes for reply in replies)
            assert one.down_bytes == sum(reply.reply_bytes for reply in replies)
            assert one.queue_ns == sum(reply.times.queue_ns for reply in replies)
            assert one.batch_sum == sum(reply.times.batch for reply in replies)
            assert one.tail_ns == sum(r.times.tail_ns // r.times.batch for r in replies)
        for device in devices:
            device.close()
        assert edge.service.balances() == []


class _Gate:
    """Lets tails run one at a time, when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        run = Engine.run

        def gated(
            engine: Engine, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None
        ) -> list[Array]:
            name = threading.current_thread().name
            if name == "tails" or name.startswith("grpc"):  # and not this test's own runs
                self.running.release()
                assert self.go.acquire(timeout=PATIENCE_S)
            return run(engine, feeds, wanted)

        monkeypatch.setattr(Engine, "run", gated)


def test_stages_of_one_session_go_side_by_side(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(models) as (edge, address):
        device = _Device(address, models, 1, "sum", 4)
        gate, decoded = _Gate(monkeypatch), threading.Semaphore(0)
        start = edge.service.start

        def counted(frame: Frame, received_ns: int) -> Work:
            work = start(frame, received_ns)
            decoded.release()
            return work

        monkeypatch.setattr(edge.service, "start", counted)
        for frame_id in range(4):
            device.send(frame_id)
        assert gate.running.acquire(timeout=PATIENCE_S)
        # While the first frame is in the tail the others are decoded.
        for _ in range(4):
            assert decoded.acquire(timeout=PATIENCE_S)
        for _ in range(3):
            gate.go.release()
            device.check()  # a reply is out while the next one is in the tail
            assert gate.running.acquire(timeout=PATIENCE_S)
        gate.go.release()
        device.check()
        first, *others = (reply.times for reply in device.replies)
        for times in others:  # who waits for a tail says so
            assert times.queue_ns > first.tail_ns / 2
        device.close()


def test_frames_of_equal_tails_share_a_run_and_differ_in_nothing(models: Path) -> None:
    turns = Turns(1, batch=6, wait_ms=500)
    with served(models, turns) as (_, address):
        devices = [_Device(address, models, number, "sum", 2) for number in range(3)]
        for _ in range(5):
            for device in devices:
                device.send(0)
                device.send(1)
            for device in devices:
                device.check()
                device.check()
        batches = [reply.times.batch for device in devices for reply in device.replies]
        assert max(batches) > 1
        assert np.mean(batches) > 2
        for device in devices:
            assert "one_by_one" not in device.session.agreed.node
            device.close()


def test_a_broken_frame_in_a_batch_is_its_own_devices_trouble(models: Path) -> None:
    with served(models, Turns(1, batch=4, wait_ms=200)) as (_, address):
        devices = [_Device(address, models, number, "sum", 2) for number in range(2)]
        for _ in range(3):
            for device in devices:
                device.send(0)
            broken = [devices[0].session.submit(9, sent) for sent in ((),)]
            for device in devices:
                device.check()
            error = broken[0].result(PATIENCE_S).error
            assert isinstance(error, ProtocolViolation)
        for device in devices:
            device.close()


def stacking_model() -> onnx.ModelProto:
    """x -> mid = relu(x) -> y = mid over mid: two rows of each frame."""
    nodes = [
        helper.make_node("Relu", ["x"], ["mid"]),
        helper.make_node("Concat", ["mid", "mid"], ["y"], axis=0),
    ]
    info = helper.make_tensor_value_info
    x, y = info("x", TensorProto.FLOAT, (1, 4)), info("y", TensorProto.FLOAT, (2, 4))
    graph = helper.make_graph(nodes, "tests", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_tail_that_cannot_be_batched_says_so_once(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(stacking_model(), str(models / "stacking.onnx"))
    with served(models, Turns(1, batch=4, wait_ms=50)) as (edge, address):
        transport = GrpcTransport(address)
        answer = transport.describe_cut(CutQuestion("stacking", "mid"))
        spec = spec_for(answer, model="stacking", window=4)
        sessions = [transport.open(spec) for _ in range(2)]
        value = np.array([[1, 2, 3, 4]], np.float32)
        futures = [one.submit(n, (value.tobytes(),)) for one in sessions for n in range(4)]
        for future in futures:
            reply = future.result(PATIENCE_S)
            assert reply.times.batch == 1
            found = np.frombuffer(reply.payloads[0], np.float32).reshape(2, 4)
            np.testing.assert_array_equal(found, np.concatenate([value, value]))
        for one in sessions:
            assert "differs in its first dimension" in one.agreed.node["one_by_one"]
        assert all(one.why_single for one in edge.service.balances())
        assert capsys.readouterr().err.count("run one by one") == 1
        for one in sessions:
            one.close()
        transport.close()


# --- who asks for too much ----------------------------------------------------------------------


def test_a_device_that_floods_is_held_and_the_others_are_not(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(large_model(), str(models / "large.onnx"))
    with served(models) as (edge, address):
        modest = _Device(address, models, 1, "sum", 1)
        flood = GrpcTransport(address)
        answer = flood.describe_cut(CutQuestion("large", "mid"))
        session = flood.open(spec_for(answer, model="large", window=2))
        decoded = threading.Semaphore(0)
        start = edge.service.start

        def counted(frame: Frame, received_ns: int) -> Work:
            decoded.release()
            return start(frame, received_ns)

        monkeypatch.setattr(edge.service, "start", counted)
        gate = _Gate(monkeypatch)
        sent: tuple[Buffer, ...] = (bytes(4 << 20),)
        futures = [session.submit(number, sent) for number in range(60)]
        assert gate.running.acquire(timeout=PATIENCE_S)
        assert eventually(lambda: edge.service.turns.waiting() == 1)
        time.sleep(0.3)
        # One is in the tail, the window holds one more, and nothing else was decoded.
        assert edge.service.turns.waiting() == 1
        assert sum(decoded.acquire(blocking=False) for _ in range(60)) == 2
        modest.send(0)
        assert eventually(lambda: edge.service.turns.waiting() == 2)
        # The other device waits for what runs and for one frame of the flood, not for sixty.
        gate.go.release(3)
        modest.check()
        gate.go.release(100)
        assert [future.result(PATIENCE_S).error for future in futures] == [None] * 60
        session.close()
        flood.close()
        modest.close()


def large_model() -> onnx.ModelProto:
    """x -> mid = relu(x) of 4 MiB -> the mean of it."""
    nodes = [
        helper.make_node("Relu", ["x"], ["mid"]),
        helper.make_node("GlobalAveragePool", ["mid"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    x = info("x", TensorProto.FLOAT, (1, 1, 1024, 1024))
    y = info("y", TensorProto.FLOAT, (1, 1, 1, 1))
    graph = helper.make_graph(nodes, "tests", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    "header", ["256", "0", "-1", "x", "1" * 30, "9" * 5000, "\u0663", "1e9", "0x10", ""]
)
def test_a_stream_gets_no_more_room_than_its_session(models: Path, header: str) -> None:
    with served(models) as (edge, address):
        device = _Device(address, models, 1, "sum", 2)
        depth = _depth_of(edge, header, device.session.agreed.session_id)
        assert depth <= 2
        device.close()


def _depth_of(edge: Edge, header: str, session_id: int) -> int:
    headers = {SESSION_HEADER: str(session_id), WINDOW_HEADER: header}
    return stream_depth(headers, edge.service)[0]


def test_two_streams_of_one_session_do_not_double_its_window(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(models) as (edge, address):
        device = _Device(address, models, 1, "sum", 1)
        gate = _Gate(monkeypatch)
        frame = Frame(device.session.agreed.session_id, 0, device._sent[0])
        with ThreadPoolExecutor(1, thread_name_prefix="grpc") as pool:
            first = pool.submit(edge.service.process, frame, 0)
            assert gate.running.acquire(timeout=PATIENCE_S)
            with pytest.raises(ProtocolViolation, match="1 of the session's window"):
                edge.service.process(frame, 0)
            gate.go.release()
            assert first.result(PATIENCE_S).error is None
        device.close()


def test_more_devices_than_the_edge_takes_are_told_so(models: Path) -> None:
    with served(models, sessions=2) as (_, address):
        devices = [_Device(address, models, number, "sum", 1) for number in range(2)]
        with pytest.raises(Overloaded, match="2 sessions open, as many as it may"):
            _Device(address, models, 3, "sum", 1)
        for device in devices:
            device.send(0)
            device.check()
            device.close()
        _Device(address, models, 4, "sum", 1).close()


# --- what is left of them -----------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_devices_that_vanish_leave_nothing(
    models: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name in NAMES}

    before = threads()
    with served(models, Turns(1, batch=batch, wait_ms=1)) as (edge, address):
        stayed = _Device(address, models, 9, "sum", 2)
        gone = [_Device(address, models, number, "sum", 4) for number in range(4)]
        gate = _Gate(monkeypatch)
        for device in gone:
            for frame_id in range(4):
                device.send(frame_id)
        assert gate.running.acquire(timeout=PATIENCE_S)
        for device in gone:
            device.vanish()
        gate.go.release(1000)
        assert eventually(lambda: edge.service.sessions() == [stayed.spec])
        assert edge.service.turns.waiting() == 0
        stayed.measure(4)
        stayed.close()
    assert eventually(lambda: threads() <= before)
    assert not [thread for thread in threading.enumerate() if thread.name == "tails"]


def samples(edge: Edge) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(edge.metrics.text().decode())
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
        if family.name.startswith("splitbed_session_")
    }


def test_labels_of_a_session_go_with_it(models: Path) -> None:
    with served(models) as (edge, address):
        for number in (1, 2):
            device = _Device(address, models, number, "sum", 1)
            device.measure(3)
            device.session.submit(7, ()).result(PATIENCE_S)
            of = ("tiny", f"device-{number}", str(number))
            key = ("splitbed_session_frames_total", "tiny", "failed", *of[1:])
            assert eventually(lambda key=key: samples(edge).get(key) == 1)  # type: ignore[misc]
            found = samples(edge)
            assert found["splitbed_session_frames_total", "tiny", "ok", *of[1:]] == 3
            assert found["splitbed_session_tail_seconds_total", *of] > 0
            assert found["splitbed_session_queue_seconds_total", *of] > 0
            assert found["splitbed_session_batch_mean", *of] == 1
            up = sum(reply.request_bytes for reply in device.replies)
            assert found["splitbed_session_bytes_total", "up", *of] > up
            assert str(device.session.agreed.session_id) not in edge.metrics.text().decode()
            assert len({name[-1] for name in found}) == 1
            device.close()
            assert samples(edge) == {}
