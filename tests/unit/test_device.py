"""The device: one row for every frame that was begun, and a manifest that tells the truth."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_node.__main__ import Device, main
from device_node.begun import Begun
from device_node.flight import Flight
from device_node.options import DeviceOptions
from splitbed.errors import FrameTimeout, RunIncomplete, StorageFull, UsageError
from splitbed.record import EdgeFrameRecord, FrameRecord, ResourceSample
from splitbed.run_folder import RowWriter, RunFolder, read_manifest, read_rows
from splitbed.session import Buffer, Reply, SessionAgreed, SessionSpec
from splitbed.transport import InProcessTransport, Session
from splitbed.transport.grpc_client import GrpcTransport
from splitbed.transport.grpc_server import GrpcServer
from tests.unit.edges import (
    NODE,
    Edge,
    device_options,
    eventually,
)


def options_for(folder: Path, **changes: Any) -> DeviceOptions:
    return device_options(folder, **{"warmup": 1, "frames": 10} | changes)


def rows_of(options: DeviceOptions) -> list[FrameRecord]:
    return list(read_rows(RunFolder(options.out / "mine").frames("device"), FrameRecord))


class Hanging:
    """A session over a transport that answers some frames, and the others when it is let go."""

    def __init__(self, session: Session, answered: int) -> None:
        self._session, self._answered = session, answered
        self.late: list[tuple[Future[Reply], Reply]] = []
        self.closed = False

    @property
    def agreed(self) -> SessionAgreed:
        return self._session.agreed

    def submit(self, frame_id: int, payloads: tuple[Buffer, ...]) -> Future[Reply]:
        future = self._session.submit(frame_id, payloads)
        if frame_id < self._answered:
            return future
        held: Future[Reply] = Future()
        self.late.append((held, future.result()))
        return held

    def close(self) -> None:
        self.closed = True
        self._session.close()
        self.let_go()

    def let_go(self) -> None:
        for future, reply in self.late:
            future.set_result(reply)
        self.late.clear()


class HangingTransport(InProcessTransport):
    """Opens sessions that hang after some frames."""

    answered = 3
    session: Hanging

    def open(self, spec: SessionSpec) -> Session:
        self.session = Hanging(super().open(spec), self.answered)
        return self.session


@pytest.mark.parametrize("window", [1, 2, 4, 16])
def test_every_frame_begun_has_one_row_when_an_edge_hangs(
    edge: Edge, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr("device_node.station.QUICK_NS", 0)  # else fewer: a thread has several
    options = options_for(tmp_path, window=window, timeout_s=0.5)
    transport = HangingTransport(edge.service)
    start = time.monotonic()
    with pytest.raises(FrameTimeout, match=r"did not answer frame 3 within 0\.5 s"):
        Device(options).run(transport, pictures, threading.Event())
    assert time.monotonic() - start < 3
    assert transport.session.closed
    rows = rows_of(options)  # the replies that came with the end were too late
    assert sorted(row.frame_id for row in rows) == list(range(len(rows)))
    # In a pipeline: those in flight, one in each of three stages, and one before two of them.
    assert len(rows) == (4 if window == 1 else min(11, 3 + window + 5))
    assert [row.status for row in rows] == ["ok"] * 3 + ["failed:timeout"] * (len(rows) - 3)
    assert all("frame 3" in row.error for row in rows[3:])
    assert "did not answer frame 3 within 0.5 s" in read_manifest(options.out / "mine").outcome


def test_a_reply_in_time_is_no_timeout(edge: Edge, pictures: list[Path], tmp_path: Path) -> None:
    """Frames in flight at the end are waited for, each from its own start."""
    options = options_for(tmp_path, window=16, timeout_s=5.0)
    transport = HangingTransport(edge.service)

    def answer() -> None:
        if eventually(lambda: hasattr(transport, "session")):
            eventually(lambda: len(transport.session.late) == 8)
            time.sleep(0.2)
            transport.session.let_go()

    answering = threading.Thread(target=answer)
    answering.start()
    assert Device(options).run(transport, pictures, threading.Event()) == 0
    answering.join()
    assert [row.status for row in rows_of(options)] == ["ok"] * 11


def test_a_mistake_of_ours_on_the_thread_of_replies_is_heard(
    edge: Edge, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(tmp_path, window=4)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("device_node.stages.Answerer.answer", broken)
    monkeypatch.setattr("device_node.stages.codec.raw_array", broken)
    server = GrpcServer(edge.service, "127.0.0.1:0")
    transport = GrpcTransport(server.address)
    with pytest.raises(ZeroDivisionError):
        Device(msgspec.structs.replace(options, reply="full")).run(
            transport, pictures, threading.Event()
        )
    transport.close()
    server.stop(0)
    rows = rows_of(options)
    assert rows[0].status == "failed:error"
    assert "ZeroDivisionError: a bug" in rows[0].error
    assert sorted(row.frame_id for row in rows) == list(range(len(rows)))
    assert "unexpectedly (ZeroDivisionError" in read_manifest(options.out / "mine").outcome


def test_a_flight_gives_each_frame_to_one_taker() -> None:
    flight = Flight(2, 0.05)
    frames = [
        Begun(FrameRecord("r", 1, n, warmup=False, status="ok"), Path("p.png")) for n in range(2)
    ]
    for frame in frames:
        assert flight.wait() == []
        flight.add(frame)
    assert flight.overdue() == []
    assert flight.wait() == frames
    assert not flight.land(frames[0])
    assert flight.overdue() == []
    for _ in frames:
        flight.free()
    assert flight.wait() == []
    flight.add(frames[0])
    assert flight.land(frames[0])
    assert not flight.land(frames[0])


# --- the run's folder -------------------------------------------------------------------------


def test_a_folder_holds_one_run(edge: Edge, pictures: list[Path], tmp_path: Path) -> None:
    options = options_for(tmp_path)
    RunFolder(options.out / "mine").folder.mkdir(parents=True)
    (options.out / "mine" / "link.json").write_text("{}")  # made before the run, by hand
    transport = InProcessTransport(edge.service)
    assert Device(options).run(transport, pictures, threading.Event()) == 0
    before = rows_of(options)
    with pytest.raises(UsageError, match="holds the rows of another run: give another --run-id"):
        Device(options)
    assert rows_of(options) == before
    Device(msgspec.structs.replace(options, run_id="", out=tmp_path / "runs"))
    Device(msgspec.structs.replace(options, out=tmp_path / "others"))


@pytest.mark.parametrize("run_id", ["../evil", "/etc/x", ".", "..", "a b", "x" * 129, "a\n"])
def test_a_run_id_that_names_no_folder(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UsageError, match="cannot name a folder: use up to 128 letters"):
        Device(options_for(tmp_path, run_id=run_id))


def test_a_manifest_by_hand_says_what_both_nodes_were(
    edge: Edge, pictures: list[Path], tmp_path: Path
) -> None:
    options = options_for(tmp_path)
    Device(options).run(InProcessTransport(edge.service), pictures, threading.Event())
    manifest = read_manifest(options.out / "mine")
    assert manifest.outcome == "complete"
    assert manifest.frames_wanted == 10
    source = edge.answer("right").source
    assert source is not None
    assert [msgspec.to_builtins(model) for model in manifest.models] == [
        msgspec.to_builtins(source)
    ]
    assert manifest.edge is not None
    assert {key: manifest.edge[key] for key in NODE} == NODE
    assert manifest.edge["provider"] == "CPUExecutionProvider"
    assert manifest.edge["tail_bytes"] > 0
    assert manifest.notes == ()


def test_an_orchestrator_learns_the_same(edge: Edge, pictures: list[Path], tmp_path: Path) -> None:
    options = options_for(tmp_path, orchestrated=True)
    Device(options).run(InProcessTransport(edge.service), pictures, threading.Event())
    learnt = RunFolder(options.out / "mine").read_session()
    assert {key: learnt["edge"][key] for key in NODE} == NODE
    assert learnt["models"][0]["name"] == "tiny.onnx"
    assert not (options.out / "mine" / "manifest.json").exists()


def test_what_nobody_expected_is_in_the_manifest(
    edge: Edge, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("device_node.frames.FrameLoop.run", broken)
    options = options_for(tmp_path)
    with pytest.raises(ZeroDivisionError):
        Device(options).run(InProcessTransport(edge.service), pictures, threading.Event())
    outcome = read_manifest(options.out / "mine").outcome
    assert outcome == "failed unexpectedly (ZeroDivisionError: a bug)"


def test_a_run_that_was_stopped(edge: Edge, pictures: list[Path], tmp_path: Path) -> None:
    stop, options = threading.Event(), options_for(tmp_path)
    stop.set()
    with pytest.raises(RunIncomplete, match="stopped after 0 of 10 frames"):
        Device(options).run(InProcessTransport(edge.service), pictures, stop)
    assert read_manifest(options.out / "mine").outcome == "interrupted"


@pytest.mark.parametrize("orchestrated", [False, True])
def test_a_sampler_without_its_file_is_noted(
    edge: Edge,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    orchestrated: bool,
) -> None:
    write = RowWriter.write

    def full(writer: RowWriter, row: FrameRecord | EdgeFrameRecord | ResourceSample) -> None:
        if isinstance(row, ResourceSample):
            raise StorageFull("no space left for samples")
        write(writer, row)

    monkeypatch.setattr(RowWriter, "write", full)
    options = options_for(tmp_path, orchestrated=orchestrated)
    assert Device(options).run(InProcessTransport(edge.service), pictures, threading.Event()) == 0
    words = "resource samples end early, frames do not: no space left for samples"
    assert capfd.readouterr().err.count(words) == 1
    if orchestrated:
        learnt = RunFolder(options.out / "mine").read_session()
        assert learnt["notes"] == [words]
        assert learnt["edge"]["threads"] == 1
        return
    manifest = read_manifest(options.out / "mine")
    assert manifest.notes == (words,)
    assert manifest.outcome == "complete"


# --- what a person gets wrong -----------------------------------------------------------------


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--timeout-s", "1e12"), "--timeout-s 1e12: "),
        (("--timeout-s", "nan"), "--timeout-s nan: "),
        (("--timeout-s", "0"), "--timeout-s 0: "),
        (("--connect-s", "inf"), "--connect-s inf: "),
        (("--sample-s", "1e12"), "--sample-s 1e12: "),
        (("--sample-s", "1e-9"), "--sample-s 1e-9: "),
        (("--run-id", "../evil"), "--run-id '../evil' cannot name a folder"),
        (("--pictures", "{tmp}/empty.txt"), "empty.txt is empty: write one path a line"),
    ],
)
def test_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, str], words: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "one.txt").write_text("one.png\n")
    common = ["--edge", "127.0.0.1:9", "--model", "m", "--cut", "c", "--out", str(tmp_path / "out")]
    common += ["--pictures", str(tmp_path / "one.txt")]
    assert main([*common, *(flag.format(tmp=tmp_path) for flag in flags)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("device: ")
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "out").exists()
