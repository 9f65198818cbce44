"""Several frames on the device at once: in order, bounded, one row each, and always an end."""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from device_node.__main__ import Device
from device_node.begun import Begun
from device_node.clock import EdgeClock
from device_node.frames import FrameLoop
from device_node.ledger import Ledger
from device_node.options import DeviceOptions
from device_node.source import Camera
from device_node.stages import Stages
from splitbed.errors import (
    EdgeUnreachable,
    EngineError,
    PictureUnreadable,
    RunIncomplete,
    StorageFull,
)
from splitbed.process import PARENT
from splitbed.record import EdgeFrameRecord, FrameRecord, ResourceSample
from splitbed.run_folder import RowWriter, RunFolder, read_manifest, read_rows
from splitbed.session import Buffer, Reply, SessionAgreed, SessionSpec
from splitbed.transport import InProcessTransport, Session
from splitbed.transport.grpc_server import GrpcServer
from tests.unit.edges import (
    Edge,
    device_options,
    eventually,
    transport_to,
)

STAGES = ("preprocess", "head", "encode", "finish")
MODES: list[dict[str, Any]] = [{}, {"window": 4}, {"load": "rate:200", "window": 2}]
"""Serial, closed with several in flight, open."""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    names = {"read", "preprocess", "head", "send", "finish"}
    assert not [t for t in threading.enumerate() if t.name in names]


def options_for(folder: Path, **changes: Any) -> DeviceOptions:
    return device_options(folder, **{"warmup": 2, "frames": 20} | changes)


def measured(options: DeviceOptions) -> list[FrameRecord]:
    """The rows, every frame begun having exactly one."""
    path = RunFolder(options.out / "mine").frames("device")
    rows = list(read_rows(path, FrameRecord))
    assert sorted(row.frame_id for row in rows) == list(range(len(rows)))
    return rows


def run(
    edge: Edge, options: DeviceOptions, pictures: list[Path], stop: threading.Event | None = None
) -> int:
    return Device(options).run(
        InProcessTransport(edge.service), pictures, stop or threading.Event()
    )


def slowed(monkeypatch: pytest.MonkeyPatch, stage: str, seconds: float) -> None:
    before = getattr(Stages, stage)

    def slow(stages: Stages, frame: Begun, *rest: Any) -> Any:
        ended = before(stages, frame, *rest)
        time.sleep(seconds)
        return ended if stage == "finish" else time.perf_counter_ns()

    monkeypatch.setattr(Stages, stage, slow)


# --- what a frame's time is made of -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["in-process", "grpc"])
@pytest.mark.parametrize("mode", [*MODES, {"load": "offline", "window": 3}])
def test_order_and_sums(
    edge: Edge, pictures: list[Path], tmp_path: Path, mode: dict[str, Any], kind: str
) -> None:
    options = options_for(tmp_path, **mode, frames=60)
    with transport_to(edge, kind) as transport:
        assert Device(options).run(transport, pictures, threading.Event()) == 0
    rows = measured(options)
    assert [row.frame_id for row in rows] == list(range(62))
    assert {row.status for row in rows} == {"ok"}
    assert [row.source for row in rows] == [pictures[n % 3].name for n in range(62)]
    assert sum(row.warmup for row in rows) == 2
    for row in rows:
        parts = (row.wait_ns, row.window_ns, row.queue_ns, row.rtt_ns, row.finish_ns)
        assert min(*parts, row.preprocess_ns, row.head_ns, row.encode_ns) >= 0
        assert row.rest_ns >= 0
    assert statistics.median(row.rest_ns / row.total_ns for row in rows) < 0.1
    assert [row.intended_ns for row in rows] == sorted(row.intended_ns for row in rows)
    manifest = read_manifest(options.out / "mine")
    assert manifest.frames_wanted == 60
    assert manifest.load is not None
    assert manifest.load["stopped_by"] == "frames"
    assert manifest.load["elapsed_ns"] > 0
    if not mode:
        assert {row.queue_ns for row in rows} == {0}
        assert {row.wait_ns for row in rows} == {0}


@pytest.mark.parametrize("slow", STAGES)
def test_back_pressure(
    edge: Edge,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slow: str,
) -> None:
    """Whichever stage holds everything up: so many frames are begun, and no more."""
    monkeypatch.setattr("device_node.station.QUICK_NS", 0)  # else fewer: a thread has several
    # In each of three stages one, before two of them one, the window, and one being finished.
    most = {"preprocess": 1, "head": 3, "encode": 5, "finish": 5 + 4 + 1}[slow]
    alive: list[int] = []
    begin, work = Ledger.begin, getattr(Stages, slow)

    def counted(ledger: Ledger) -> None:
        begin(ledger)
        alive.append(ledger.begun - ledger.kept)

    def held(stages: Stages, frame: Begun, *rest: Any) -> Any:
        if frame.row.frame_id == 0:
            eventually(lambda: len(alive) == most, 30)
            time.sleep(0.1)  # one more would come now
            alive.append(0)
        return work(stages, frame, *rest)

    monkeypatch.setattr(Ledger, "begin", counted)
    monkeypatch.setattr(Stages, slow, held)
    options = options_for(tmp_path, window=4, load="offline", frames=40, warmup=0)
    with transport_to(edge, "grpc") as transport:
        assert Device(options).run(transport, pictures, threading.Event()) == 0
    assert len(measured(options)) == 40
    assert alive[: most + 1] == [*range(1, most + 1), 0]
    assert max(alive) <= 10


# --- failures -------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, stage: str, number: int, error: Exception) -> None:
    before: Callable[..., Any] = getattr(Stages, stage)

    def broken(stages: Stages, frame: Begun, *rest: Any) -> Any:
        if frame.row.frame_id == number:
            raise error
        return before(stages, frame, *rest)

    monkeypatch.setattr(Stages, stage, broken)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", STAGES[:3])
def test_one_frame_fails(
    edge: Edge,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: dict[str, Any],
    stage: str,
) -> None:
    failing(monkeypatch, stage, 7, EngineError("no more"))
    options = options_for(tmp_path, **mode)
    with pytest.raises(RunIncomplete, match="1 of 22 frames failed, the first because no more"):
        run(edge, options, pictures)
    rows = measured(options)
    assert len(rows) == 22
    assert {row.frame_id: row.status for row in rows if row.status != "ok"} == {7: "failed:engine"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_mistake_of_ours(
    edge: Edge,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: dict[str, Any],
    stage: str,
) -> None:
    failing(monkeypatch, stage, 7, ZeroDivisionError("a bug"))
    options = options_for(tmp_path, **mode, frames=100)
    with pytest.raises(ZeroDivisionError):
        run(edge, options, pictures)
    rows = measured(options)
    assert len(rows) < 40
    assert next(row.error for row in rows if row.frame_id == 7) == "ZeroDivisionError: a bug"
    assert all("a bug" in row.error for row in rows if row.status != "ok")


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_that_cannot_be_read(
    edge: Edge, pictures: list[Path], tmp_path: Path, mode: dict[str, Any]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    options = options_for(tmp_path, **mode)
    with pytest.raises(RunIncomplete, match="cannot be read"):
        run(edge, options, [*pictures, broken])
    rows = measured(options)
    assert len(rows) == 22
    assert {row.source for row in rows if row.status != "ok"} == {"broken.png"}


@pytest.mark.parametrize("mode", MODES)
def test_a_full_disk(
    edge: Edge,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: dict[str, Any],
) -> None:
    write = RowWriter.write

    def full(writer: RowWriter, row: FrameRecord | EdgeFrameRecord | ResourceSample) -> None:
        if isinstance(row, FrameRecord) and row.frame_id >= 8:
            raise StorageFull("no space left")
        write(writer, row)

    monkeypatch.setattr(RowWriter, "write", full)
    options = options_for(tmp_path, **mode, frames=10_000)
    with pytest.raises(StorageFull):
        run(edge, options, pictures)
    assert len(measured(options)) == 8


class Ending:
    """A session whose edge is gone after some frames."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def agreed(self) -> SessionAgreed:
        return self._session.agreed

    def submit(self, frame_id: int, payloads: tuple[Buffer, ...]) -> Future[Reply]:
        if frame_id < 8:
            return self._session.submit(frame_id, payloads)
        gone: Future[Reply] = Future()
        gone.set_exception(EdgeUnreachable("the connection was lost"))
        return gone

    def close(self) -> None:
        self._session.close()


class EndingTransport(InProcessTransport):
    def open(self, spec: SessionSpec) -> Session:
        return Ending(super().open(spec))


@pytest.mark.parametrize("mode", MODES)
def test_a_lost_edge(
    edge: Edge, pictures: list[Path], tmp_path: Path, mode: dict[str, Any]
) -> None:
    options = options_for(tmp_path, **mode, frames=10_000)
    with pytest.raises(EdgeUnreachable, match="the connection was lost"):
        Device(options).run(EndingTransport(edge.service), pictures, threading.Event())
    rows = measured(options)
    assert [row.status for row in rows] == ["ok"] * 8 + ["failed:unreachable"] * (len(rows) - 8)
    assert len(rows) <= 8 + 10 + 2
    manifest = read_manifest(options.out / "mine")
    assert manifest.load is not None
    assert manifest.load["stopped_by"] == "failed"


@pytest.mark.parametrize("mode", [*MODES, {"load": "rate:0.01"}])
def test_stopped_half_way(
    edge: Edge, pictures: list[Path], tmp_path: Path, mode: dict[str, Any]
) -> None:
    options, stop = options_for(tmp_path, **mode, frames=100_000), threading.Event()
    path = RunFolder(options.out / "mine").frames("device")
    wanted = 3 if mode.get("load") == "rate:0.01" else 12

    def stopped() -> None:
        eventually(lambda: path.exists() and path.read_bytes().count(b"\n") >= wanted)
        stop.set()

    thread = threading.Thread(target=stopped)
    thread.start()
    with pytest.raises(RunIncomplete, match=r"stopped after \d+ of 100000 frames"):
        run(edge, options, pictures, stop)
    thread.join()
    rows = measured(options)
    assert {row.status for row in rows} == {"ok"}
    assert len(rows) >= wanted
    manifest = read_manifest(options.out / "mine")
    assert manifest.outcome == "interrupted"
    assert manifest.frames_wanted == 100_000
    assert manifest.load is not None
    assert manifest.load["stopped_by"] == "interrupted"


def test_sigterm_half_way(edge: Edge, pictures: list[Path], tmp_path: Path) -> None:
    """A process, gRPC, an open loop: frames on their way are finished, none is lost."""
    options = options_for(tmp_path)
    path = RunFolder(options.out / "mine").frames("device")
    server = GrpcServer(edge.service, "127.0.0.1:0")
    device = subprocess.Popen(
        [
            *(sys.executable, "-m", "device_node", "--edge", server.address, "--model", "tiny"),
            *("--cut", "right", "--images", str(pictures[0].parent), "--out", str(options.out)),
            *("--run-id", "mine", "--cache", str(options.cache), "--load", "poisson:100"),
            *("--window", "3", "--frames", "100000"),
        ],
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != PARENT},
    )
    try:
        assert eventually(lambda: path.exists() and path.read_bytes().count(b"\n") >= 20, 30)
        device.send_signal(signal.SIGTERM)
        errors = device.communicate(timeout=20)[1].decode()
    finally:
        device.kill()
        server.stop(0)
    assert device.returncode == RunIncomplete.exit_code
    assert "stopped after" in errors
    assert errors.count("\n") == 1
    assert {row.status for row in measured(options)} == {"ok"}


def test_a_mistake_of_ours_between_frames_ends_the_run(
    edge: Edge, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def idle(_: EdgeClock, gap_ns: int | None = None) -> None:
        raise KeyError("x")

    monkeypatch.setattr(EdgeClock, "idle", idle)
    options = options_for(tmp_path, load="rate:20", frames=300)
    with pytest.raises(KeyError):
        run(edge, options, pictures)
    assert {row.status for row in measured(options)} <= {"ok", "failed:error"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", ["head", "tail"])
def test_a_mistake_of_ours_in_the_account_of_a_frame_holds_nobody_up(
    edge: Edge,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: dict[str, Any],
    stage: str,
) -> None:
    if stage == "head":
        failing(monkeypatch, "head", 7, EngineError("no more"))
    write = RowWriter.write

    def broken(writer: RowWriter, row: FrameRecord | EdgeFrameRecord | ResourceSample) -> None:
        wanted = "failed:engine" if stage == "head" else "ok"
        if isinstance(row, FrameRecord) and row.frame_id == 7 and row.status == wanted:
            raise ZeroDivisionError("a bug in the account")
        write(writer, row)

    monkeypatch.setattr(RowWriter, "write", broken)
    options = options_for(tmp_path, **mode, frames=100)
    with pytest.raises(ZeroDivisionError, match="a bug in the account"):
        run(edge, options, pictures)
    rows = list(read_rows(RunFolder(options.out / "mine").frames("device"), FrameRecord))
    assert {row.status for row in rows} <= {"ok", "failed:error"}
    assert {*range(7)} <= {row.frame_id for row in rows}


@pytest.mark.parametrize("mode", [{}, {"load": "rate:20"}])
def test_idle_moments(
    edge: Edge,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: dict[str, Any],
) -> None:
    """Somebody may use the link while no frame does; a failure there ends the run, rows kept."""
    loops: list[FrameLoop] = []
    gaps: list[int | None] = []
    make = FrameLoop.__init__

    def idle(_: EdgeClock, gap_ns: int | None = None) -> None:
        ledger = loops[0].ledger
        assert ledger.begun == ledger.kept
        gaps.append(gap_ns)
        if len(gaps) == 5:
            raise StorageFull("no space left")

    def made(loop: FrameLoop, *arguments: Any, **more: Any) -> None:
        make(loop, *arguments, **more)
        loops.append(loop)

    monkeypatch.setattr(FrameLoop, "__init__", made)
    monkeypatch.setattr(EdgeClock, "idle", idle)
    options = options_for(tmp_path, **mode, frames=300)
    with pytest.raises(StorageFull):
        run(edge, options, pictures)
    assert {row.status for row in measured(options)} == {"ok"}
    assert all(gap is None or gap > 0 for gap in gaps) if mode else gaps == [None] * 5


# --- open loops, deadlines, rules -----------------------------------------------------------------


def test_a_slow_device_cannot_hide_its_queue(
    edge: Edge, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed(monkeypatch, "head", 0.02)
    options = options_for(tmp_path, load="rate:500", frames=40, window=4)
    assert run(edge, options, pictures) == 0
    rows = [row for row in measured(options) if not row.warmup]
    gaps = {b.intended_ns - a.intended_ns for a, b in itertools.pairwise(rows)}
    assert gaps == {2_000_000}
    manifest = read_manifest(options.out / "mine")
    assert manifest.load is not None
    assert manifest.load["start_ns"] == rows[0].intended_ns
    # Frame n was due at 2n ms and could not begin before those ahead of it had left the head.
    waits = [row.wait_ns for row in rows]
    assert all(waits[n] > (n - 4) * 18_000_000 for n in range(5, 40))
    assert all(row.total_ns > row.wait_ns for row in rows)


def test_a_frame_begins_when_it_is_due(edge: Edge, pictures: list[Path], tmp_path: Path) -> None:
    options = options_for(tmp_path, load="rate:40", frames=20)
    assert run(edge, options, pictures) == 0
    rows = [row for row in measured(options) if not row.warmup]
    # None before its time, and on a machine with a quiet moment one nearly on it.
    assert 0 <= min(row.wait_ns for row in rows) < 5_000_000


@pytest.mark.parametrize("mode", [{}, {"window": 3}, {"load": "rate:500", "window": 2}])
def test_late_frames_are_kept(
    edge: Edge,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: dict[str, Any],
) -> None:
    slowed(monkeypatch, "head", 0.005)
    options = options_for(tmp_path, **mode, deadline_ms=4.0)
    assert run(edge, options, pictures) == 0
    rows = measured(options)
    assert {row.status for row in rows if row.warmup} == {"ok"}
    assert {row.status for row in rows if not row.warmup} == {"late"}
    assert all(row.result is not None and row.total_ns > 4_000_000 for row in rows)
    manifest = read_manifest(options.out / "mine")
    assert (manifest.outcome, manifest.frames_wanted) == ("complete", 20)
    assert manifest.load is not None
    assert (manifest.load["deadline_ms"], manifest.load["late"]) == (4.0, "keep")
    assert "20 of 20 frames, 20 late, 0 dropped, end to end: p50" in capsys.readouterr().out


def test_late_frames_are_dropped(
    edge: Edge,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slowed(monkeypatch, "head", 0.03)
    options = options_for(tmp_path, load="rate:200", deadline_ms=20.0, late="drop", frames=60)
    assert run(edge, options, pictures) == 0
    rows = measured(options)
    assert len(rows) == 62  # every frame that was due
    dropped = [row for row in rows if row.status == "dropped"]
    assert len(dropped) >= 40
    assert not any(row.warmup or row.total_ns or row.rtt_ns or row.result for row in dropped)
    # Most never began: what they waited is known, and nothing else was spent on them.
    assert sum(row.wait_ns > 20_000_000 and not row.preprocess_ns for row in dropped) >= 20
    # One that the head made late was not sent.
    assert any(row.head_ns for row in dropped)
    assert read_manifest(options.out / "mine").outcome == "complete"
    assert f"{len(dropped)} dropped" in capsys.readouterr().out


def test_a_serial_device_drops_what_its_head_made_late(
    edge: Edge, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed(monkeypatch, "head", 0.01)
    options = options_for(tmp_path, deadline_ms=5.0, late="drop")
    assert run(edge, options, pictures) == 0
    rows = measured(options)
    assert [row.status for row in rows] == ["ok"] * 2 + ["dropped"] * 20
    assert all(row.head_ns and not row.total_ns for row in rows[2:])


@pytest.mark.parametrize("mode", [*MODES, {"load": "poisson:100"}])
def test_frames_and_time_at_least(
    edge: Edge, pictures: list[Path], tmp_path: Path, mode: dict[str, Any]
) -> None:
    options = options_for(tmp_path, **mode, frames=5, min_s=0.3)
    assert run(edge, options, pictures) == 0
    rows = [row for row in measured(options) if not row.warmup]
    manifest = read_manifest(options.out / "mine")
    assert manifest.load is not None
    assert manifest.load["stopped_by"] == "min-s"
    assert manifest.load["elapsed_ns"] >= 2e8
    assert manifest.load["frames"] == manifest.frames_wanted == len(rows) > 5
    if mode.get("load") == "rate:200":
        assert len(rows) == 60  # those due within 0.3 s, however slow this machine


def test_until_or_at_most(edge: Edge, pictures: list[Path], tmp_path: Path) -> None:
    options = options_for(tmp_path, until="p50:100%", frames=5, max_frames=3000)
    assert run(edge, options, pictures) == 0
    manifest = read_manifest(options.out / "mine")
    assert manifest.load is not None
    assert manifest.load["stopped_by"] == "until"
    assert manifest.load["rule"]["until"] == {"share": 0.5, "within": 1.0}
    assert 32 <= manifest.frames_wanted < 3000
    options = options_for(tmp_path / "more", until="p99.9:0.1%", frames=5, max_frames=40, window=3)
    assert run(edge, options, pictures) == 0
    manifest = read_manifest(options.out / "mine")
    assert manifest.load is not None
    assert manifest.load["stopped_by"] == "max-frames"
    assert manifest.frames_wanted == 40


def test_an_orchestrator_learns_the_load(edge: Edge, pictures: list[Path], tmp_path: Path) -> None:
    options = options_for(tmp_path, orchestrated=True, load="poisson:300", seed=5)
    assert run(edge, options, pictures) == 0
    load = RunFolder(options.out / "mine").read_session()["load"]
    assert (load["kind"], load["rate_fps"], load["seed"]) == ("poisson", 300.0, 5)
    assert (load["stopped_by"], load["frames"]) == ("frames", 20)
    assert load["rule"]["frames"] == 20


def test_a_camera_keeps_what_it_may(pictures: list[Path], tmp_path: Path) -> None:
    camera = Camera(kept_bytes=2 * 8 * 8 * 3)
    first = [camera.read(path) for path in pictures]
    again = [camera.read(path) for path in pictures]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True, True, False]
    with pytest.raises(PictureUnreadable):
        camera.read(tmp_path / "none.png")
