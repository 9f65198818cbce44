"""The device's side of the clocks: when it asks, what it keeps, what rows say of a known truth."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from device_node.__main__ import Device
from device_node.clock import EdgeClock, least_delays
from device_node.options import DeviceOptions
from experiments.clock_summary import clock_summary, clock_text, hindsight, ways_text
from netem.least_delay import least_delays_ns
from netem.relay import Relay
from splitbed.clock import ClockHistory, LeastDelays
from splitbed.clock_frames import TightFrames
from splitbed.errors import EdgeUnreachable, UsageError
from splitbed.link import Direction, LinkProfile
from splitbed.record import FrameRecord, RunManifest
from splitbed.run_folder import RowWriter, RunFolder, read_manifest, read_rows
from splitbed.session import Buffer, ClockExchange, Reply, SessionAgreed, SessionSpec
from splitbed.transport import InProcessTransport, Session
from splitbed.transport.face import PROBE_TIMEOUT_S
from splitbed.transport.grpc_client import GrpcTransport
from splitbed.transport.grpc_server import GrpcServer
from tests.unit.clocks import Clock, ShiftedTransport
from tests.unit.edges import Edge, device_options

MS, S = 1_000_000, 1_000_000_000


@pytest.fixture(autouse=True)
def _whole_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr("device_node.clock._BURST_NS", 60 * S)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RowWriter]:
    with RowWriter(tmp_path / "clock.jsonl") as made:
        yield made


def options_for(folder: Path, **changes: Any) -> DeviceOptions:
    return device_options(
        folder, **{"out": folder, "warmup": 1, "frames": 12, "clock_s": 1e-6} | changes
    )


def rows_of(folder: Path) -> list[FrameRecord]:
    return list(read_rows(RunFolder(folder / "mine").frames("device"), FrameRecord))


def exchanges_of(folder: Path) -> list[ClockExchange]:
    return list(read_rows(RunFolder(folder / "mine").clock(), ClockExchange))


class Scripted:
    """A transport of nothing but probes: each takes so long, or fails."""

    def __init__(self, took_ns: int = 1000) -> None:
        self.took_ns, self.asked, self.is_down = took_ns, 0, False
        self.patience_s = 0.0

    def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> ClockExchange:
        self.asked += 1
        self.patience_s = timeout_s
        if self.is_down:
            raise EdgeUnreachable("no edge")
        now_ns = time.perf_counter_ns()
        half_ns = self.took_ns // 2
        return ClockExchange(now_ns - self.took_ns, now_ns - half_ns, now_ns - half_ns, now_ns)


def clock_over(scripted: Scripted, writer: RowWriter, every_s: float) -> EdgeClock:
    return EdgeClock(scripted, writer, LeastDelays(), every_s)  # type: ignore[arg-type]


# --- when it asks -------------------------------------------------------------------------------


def test_a_burst_comes_first_and_every_exchange_is_a_row(writer: RowWriter) -> None:
    scripted = Scripted()
    clock = clock_over(scripted, writer, 1000)
    clock.burst()
    assert scripted.asked == writer.rows == 9
    clock.idle()  # the last exchange is young enough
    assert scripted.asked == 9
    found = clock.at(time.perf_counter_ns())
    assert found is not None
    assert abs(found.offset_ns) <= found.error_ns < 100 * MS


def test_a_slow_link_gets_a_short_burst(writer: RowWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_node.clock._BURST_NS", 0)
    scripted = Scripted()
    clock_over(scripted, writer, 1).burst()
    assert scripted.asked == 3


def test_a_gap_must_be_long_enough(writer: RowWriter) -> None:
    scripted = Scripted(took_ns=40 * MS)
    clock = clock_over(scripted, writer, 1e-6)
    clock.burst()
    clock.idle(gap_ns=81 * MS)
    assert scripted.asked == 9
    clock.idle(gap_ns=83 * MS)
    assert scripted.asked == 10
    clock.idle()
    assert scripted.asked == 11


def test_no_exchange_outlasts_a_frame_s_patience_or_its_gap(writer: RowWriter) -> None:
    scripted = Scripted(took_ns=MS)
    clock = EdgeClock(scripted, writer, LeastDelays(), 1e-6, 0.5)  # type: ignore[arg-type]
    clock.burst()
    assert scripted.patience_s == 0.5
    clock.idle(gap_ns=102 * MS)
    assert scripted.patience_s == pytest.approx(0.1)
    clock.idle()
    assert scripted.patience_s == 0.5


def test_none_between_frames_where_nobody_wants_them(writer: RowWriter) -> None:
    scripted = Scripted()
    clock_over(scripted, writer, 0).idle()
    assert scripted.asked == 0


def test_an_edge_that_does_not_answer_is_left_in_peace(writer: RowWriter) -> None:
    scripted = Scripted()
    clock = clock_over(scripted, writer, 1000)
    scripted.is_down = True
    clock.idle()
    clock.idle()
    assert (scripted.asked, clock.failed) == (1, 1)
    clock.last_burst()
    assert (scripted.asked, clock.failed) == (2, 2)
    with pytest.raises(EdgeUnreachable):
        clock.burst()
    facts = clock.facts()
    assert (facts.exchanges, facts.failed, facts.offset_ns) == (0, 2, None)


class Watched(GrpcTransport):
    """Counts the frames in flight, and notes it at every probe."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.in_flight = 0
        self.seen: list[int] = []
        self.lock = threading.Lock()

    def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> ClockExchange:
        self.seen.append(self.in_flight)
        found = super().probe(timeout_s)
        self.seen.append(self.in_flight)
        return found

    def open(self, spec: SessionSpec) -> Session:
        return WatchedSession(self, super().open(spec))


class WatchedSession:
    def __init__(self, transport: Watched, session: Session) -> None:
        self._transport, self._session = transport, session

    @property
    def agreed(self) -> SessionAgreed:
        return self._session.agreed

    def submit(self, frame_id: int, payloads: tuple[Buffer, ...]) -> Future[Reply]:
        self._count(1)
        future = self._session.submit(frame_id, payloads)
        future.add_done_callback(lambda _: self._count(-1))
        return future

    def close(self) -> None:
        self._session.close()

    def _count(self, by: int) -> None:
        with self._transport.lock:
            self._transport.in_flight += by


@pytest.mark.parametrize("window", [1, 4])
def test_exchanges_and_frames_never_overlap(
    edge: Edge, pictures: list[Path], tmp_path: Path, window: int
) -> None:
    server = GrpcServer(edge.service, "127.0.0.1:0")
    transport = Watched(server.address)
    try:
        Device(options_for(tmp_path, window=window)).run(transport, pictures, threading.Event())
    finally:
        transport.close()
        server.stop(0)
    assert set(transport.seen) == {0}
    exchanges, rows = exchanges_of(tmp_path), rows_of(tmp_path)
    if window == 1:  # one before each frame, and the bursts
        assert len(exchanges) == 9 + 13 + 9
    for row in rows:
        begun_ns, done_ns = row.submitted_ns, row.submitted_ns + row.rtt_ns
        assert not any(e.sent_ns < done_ns and begun_ns < e.received_ns for e in exchanges)
    # Every frame lies between exchanges.
    assert exchanges[0].received_ns < min(row.submitted_ns for row in rows)
    assert max(row.submitted_ns for row in rows) < exchanges[-1].sent_ns


def test_an_exchange_is_in_no_frame_s_time(
    edge: Edge, pictures: list[Path], tmp_path: Path
) -> None:
    class Slow(InProcessTransport):
        def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> ClockExchange:
            time.sleep(0.03)
            return super().probe(timeout_s)

    options = options_for(tmp_path, frames=3, warmup=0)
    Device(options).run(Slow(edge.service), pictures, threading.Event())
    rows = rows_of(tmp_path)
    gaps_ns = [
        later.intended_ns - (row.intended_ns + row.total_ns) for row, later in pairwise(rows)
    ]
    assert min(gaps_ns) >= 30 * MS
    assert len(exchanges_of(tmp_path)) == 9 + 3 + 9


# --- what comes of it ---------------------------------------------------------------------------

PROFILE = LinkProfile("up", Direction(delay_ns=30 * MS), Direction(delay_ns=10 * MS))


@contextlib.contextmanager
def over_a_relay(edge: Edge, clock: Clock) -> Iterator[ShiftedTransport]:
    """To an edge whose clock is shifted, 30 ms away and 10 ms back."""
    server = GrpcServer(edge.service, "127.0.0.1:0")
    relay = Relay(PROFILE, "127.0.0.1:0", server.address, seed=1)
    transport = ShiftedTransport(relay.address, clock)
    try:
        yield transport
    finally:
        transport.close()
        relay.close()
        server.stop(0)


def test_an_offset_and_a_drift_are_found_within_their_bounds(
    edge: Edge, pictures: list[Path], tmp_path: Path
) -> None:
    clock = Clock(7 * S, 180e-6, 10e-6, 0.5, time.perf_counter_ns())
    options = options_for(tmp_path, link_delay_ms="30,10", clock_s=0.2)
    with over_a_relay(edge, clock) as transport:
        Device(options).run(transport, pictures, threading.Event())
    manifest, rows = read_manifest(tmp_path / "mine"), rows_of(tmp_path)
    assert manifest.clock is not None
    assert manifest.clock["basis"] == "link delays"
    drift_off_ppm = abs(manifest.clock["drift_ppm"] - 180)
    assert drift_off_ppm <= manifest.clock["drift_error_ppm"] + 10
    for delays in (LeastDelays(), LeastDelays(*least_delays_ns(PROFILE))):
        history = ClockHistory(exchanges_of(tmp_path), delays)
        assert not history.contradicted
        for row in rows:
            found = history.at(row.submitted_ns)
            assert found is not None
            assert abs(found.offset_ns - clock.offset(row.submitted_ns)) <= found.error_ns
    for row in rows:
        up_ns, down_ns = transport.truth[row.frame_id]
        assert up_ns >= 30 * MS  # what a relay lets through is never faster than it says
        assert down_ns >= 10 * MS
        if row.uplink_ns is not None and row.uplink_error_ns is not None:
            assert abs(row.uplink_ns - up_ns) <= row.uplink_error_ns + 1
        if row.downlink_ns is not None and row.downlink_error_ns is not None:
            assert abs(row.downlink_ns - down_ns) <= row.downlink_error_ns + 1
    summary = clock_summary(hindsight(RunFolder(tmp_path / "mine"), manifest), rows)
    assert summary is not None
    assert summary.offset_ms is not None
    assert summary.offset_ms == pytest.approx(7000, abs=200)
    assert "given 30 ms up and 10 down at least" in clock_text(summary)
    if summary.up.p50_ms is not None:
        assert summary.up.p50_ms.value >= 30
        assert "up p50" in ways_text(summary)


def test_where_the_link_is_never_free_frames_tell_of_the_clock(
    edge: Edge, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_node.clock.TightFrames", lambda: TightFrames(1))
    clock = Clock(-7 * S, -180e-6, 10e-6, 0.5, time.perf_counter_ns())
    options = options_for(tmp_path, link_delay_ms="30,10", window=4, frames=40, clock_s=100)
    with over_a_relay(edge, clock) as transport:
        Device(options).run(transport, pictures, threading.Event())
    manifest, rows = read_manifest(tmp_path / "mine"), rows_of(tmp_path)
    assert manifest.clock is not None
    assert (manifest.clock["basis"], manifest.clock["exchanges"]) == ("link delays", 18)
    assert 20 < manifest.clock["frames"] <= len(rows)
    known = hindsight(RunFolder(tmp_path / "mine"), manifest, rows)
    without = hindsight(RunFolder(tmp_path / "mine"), manifest)
    assert known is not None
    assert without is not None
    assert 0 == without.frames < known.frames
    for row in rows:
        found, plain = known.history.at(row.submitted_ns), without.history.at(row.submitted_ns)
        assert found is not None
        assert plain is not None
        assert abs(found.offset_ns - clock.offset(row.submitted_ns)) <= found.error_ns
        assert found.error_ns <= plain.error_ns + 2
        up_ns, down_ns = transport.truth[row.frame_id]
        for ways in (row, known.ways(row)):
            if ways.uplink_ns is not None and ways.uplink_error_ns is not None:
                assert abs(ways.uplink_ns - up_ns) <= ways.uplink_error_ns + 1
            if ways.downlink_ns is not None and ways.downlink_error_ns is not None:
                assert abs(ways.downlink_ns - down_ns) <= ways.downlink_error_ns + 1
    summary = clock_summary(known, rows)
    assert summary is not None
    assert f"18 exchanges and {known.frames} frames, given 30 ms up" in clock_text(summary)


def test_an_edge_that_lies_of_its_frames_is_contradicted(
    edge: Edge, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lying(ShiftedTransport):
        def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> ClockExchange:
            return GrpcTransport.probe(self, timeout_s)  # of frames only: 5 s

    monkeypatch.setattr("device_node.clock.TightFrames", lambda: TightFrames(1))
    server = GrpcServer(edge.service, "127.0.0.1:0")
    transport = Lying(server.address, Clock(5 * S))
    try:
        Device(options_for(tmp_path)).run(transport, pictures, threading.Event())
    finally:
        transport.close()
        server.stop(0)
    manifest, rows = read_manifest(tmp_path / "mine"), rows_of(tmp_path)
    assert [row.status for row in rows] == ["ok"] * 13
    assert manifest.clock is not None
    assert manifest.clock["basis"] == "contradicted"
    known = hindsight(RunFolder(tmp_path / "mine"), manifest, rows)
    assert known is not None
    assert known.history.contradicted
    assert known.uplinks(rows) == {}


def test_a_link_faster_than_it_is_said_to_be_is_not_believed(
    edge: Edge, pictures: list[Path], tmp_path: Path
) -> None:
    options = options_for(tmp_path, link_delay_ms="20,20")
    Device(options).run(InProcessTransport(edge.service), pictures, threading.Event())
    manifest, rows = read_manifest(tmp_path / "mine"), rows_of(tmp_path)
    assert manifest.clock is not None
    assert manifest.clock["basis"] == "round trip"
    assert manifest.clock["least_up_ns"] == 20 * MS
    found = clock_summary(hindsight(RunFolder(tmp_path / "mine"), manifest), rows)
    assert found is not None
    assert "by half the round trip" in clock_text(found)


def test_a_clock_that_is_set_gives_no_one_way_times(
    edge: Edge, pictures: list[Path], tmp_path: Path
) -> None:
    class Stepping(InProcessTransport):
        asked = 0

        def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> ClockExchange:
            self.asked += 1
            found = super().probe(timeout_s)
            step_ns = S if self.asked > 12 else 0
            return ClockExchange(
                found.sent_ns,
                found.peer_received_ns + step_ns,
                found.peer_sent_ns + step_ns,
                found.received_ns,
            )

    Device(options_for(tmp_path)).run(Stepping(edge.service), pictures, threading.Event())
    manifest, rows = read_manifest(tmp_path / "mine"), rows_of(tmp_path)
    assert [row.status for row in rows] == ["ok"] * 13
    assert rows[-1].uplink_ns is None
    assert manifest.clock is not None
    assert manifest.clock["basis"] == "contradicted"
    assert manifest.clock["offset_ns"] is None
    found = clock_summary(hindsight(RunFolder(tmp_path / "mine"), manifest), rows)
    assert found is not None
    assert found.up.known_pct == 0
    assert "was one of the clocks set?" in clock_text(found)
    assert ways_text(found) == ""


def test_the_orchestrator_learns_how_it_ended(
    edge: Edge, pictures: list[Path], tmp_path: Path
) -> None:
    options = options_for(tmp_path, orchestrated=True)
    Device(options).run(InProcessTransport(edge.service), pictures, threading.Event())
    clock = RunFolder(tmp_path / "mine").read_session()["clock"]
    assert clock["exchanges"] == len(exchanges_of(tmp_path)) > 18


def test_runs_without_exchanges_have_no_clocks(tmp_path: Path) -> None:
    manifest = RunManifest("r", "c", {}, 0, "", "complete", 1, {}, {})
    assert clock_summary(hindsight(RunFolder(tmp_path), manifest), []) is None


@pytest.mark.parametrize("text", ["20", "20,", "a,b", "-1,2", "1,2,3", "nan,1", "1,70000", "1;2"])
def test_least_delays_are_two_numbers(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write UP,DOWN in milliseconds up to 60000, as in 20,20"):
        Device(options_for(tmp_path, link_delay_ms=text))


def test_least_delays_as_written() -> None:
    assert least_delays("") == LeastDelays()
    assert least_delays("20,5.5") == LeastDelays(20 * MS, 5_500_000)
