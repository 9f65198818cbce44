"""A trace replayed by the relay: its rates, its gaps, its delays, its beginning and its end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from netem.probe import ProbeClient
from netem.relay import Relay
from netem.schedule import Schedule
from netem.shaper import Shaper
from netem.trace_steps import pieces
from splitbed.address import host_and_port
from splitbed.errors import LinkError
from splitbed.link import PAYLOAD_SHARE, Change, Direction, Step, Trace
from tests.unit.edges import eventually
from tests.unit.relays import FREE, MS, both, link, mbit, nothing_left, profile, read_all

S = 1_000_000_000


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


def trace(rates_mbit: Sequence[float], step_ms: int, way: str = "both") -> Trace:
    changes = [Change(int(rate * 1e6)) for rate in rates_mbit]
    steps = [
        Step(
            i * step_ms * MS,
            change if way != "down" else Change(),
            change if way != "up" else Change(),
        )
        for i, change in enumerate(changes)
    ]
    return Trace("made", tuple(steps), len(steps) * step_ms * MS)


def delays(*delays_ms: int, step_ms: int) -> Trace:
    steps = [Step(i * step_ms * MS, Change(delay_ns=d * MS)) for i, d in enumerate(delays_ms)]
    return Trace("delays", tuple(steps), len(steps) * step_ms * MS)


def flood(sock: socket.socket, ended: threading.Event) -> None:
    """Always have more to send."""
    sock.settimeout(0.1)
    while not ended.is_set():
        try:
            sock.sendall(bytes(32_000))
        except TimeoutError:
            continue
        except OSError:
            return


def counted(sock: socket.socket, begin_ns: int, slot_ms: int, slots: int) -> list[int]:
    """Bytes that arrive in each slot."""
    found = [0] * slots
    while True:
        got = len(sock.recv(1 << 16))
        slot = (time.perf_counter_ns() - begin_ns) // (slot_ms * MS)
        if slot >= slots:
            return found
        found[slot] += got


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_saturating_sender_gets_what_the_trace_has_and_then_again(way: str) -> None:
    given = trace((8, 2, 0, 20, 0.2), 200, way)
    schedule = Schedule(FREE, pieces(given, "up" if way == "up" else "down"), given.duration_ns)
    offs = []
    for _ in range(4):  # a busy machine may be late, but not always
        with link(*both(mbit(5)), given) as made, ThreadPoolExecutor(1) as pool:
            client, server = made.connect()
            sender, receiver = (client, server) if way == "up" else (server, client)
            ended = threading.Event()
            begin_ns = time.perf_counter_ns()
            made.relay.replay(True)
            time.sleep(0.005)
            pool.submit(flood, sender, ended)
            found = counted(receiver, begin_ns, 200, 8)
            ended.set()
            made.relay.close()
        ends = [schedule.carried_bytes(slot * 200 * MS) for slot in range(9)]
        wanted = [b - a for a, b in pairwise(ends)]
        # Nothing is made up: never more than the trace has let through by then.
        for slot in range(8):
            assert sum(found[: slot + 1]) <= ends[slot + 1] + 3000
        offs = [abs(f - w) - 3000 - 0.1 * w for f, w in zip(found, wanted, strict=True)]
        if max(offs) <= 0:
            break
    assert max(offs) <= 0, (found, wanted)


def test_before_and_after_the_replay_the_link_is_the_profile_s() -> None:
    with link(*both(mbit(20)), trace((0.1,), 100)) as made:
        client, server = made.connect()

        def seconds(size: int) -> float:
            start = time.perf_counter()
            client.sendall(bytes(size))
            while size:
                size -= len(server.recv(size))
            return time.perf_counter() - start

        assert made.relay.replay(False) is None
        assert seconds(10_000) < 0.3
        assert made.relay.replay(True) is None
        assert seconds(10_000) >= 10_000 * 8 / 0.1e6 / PAYLOAD_SHARE * 0.99
        assert made.relay.replay(False) is not None
        assert made.relay.replay(False) is None
        assert seconds(10_000) < 0.3


def test_nothing_passes_in_a_gap_and_what_waited_passes_when_it_is_over() -> None:
    given = trace((8, 0, 8), 300, "up")
    with link(FREE, FREE, given) as made:
        client, server = made.connect()
        begin = time.perf_counter()
        made.relay.replay(True)
        time.sleep(0.35)
        client.sendall(b"first")
        client.shutdown(socket.SHUT_WR)
        assert server.recv(5) == b"first"
        assert time.perf_counter() - begin >= 0.6
        # The end of the stream waited as well.
        assert read_all(server) == b""


@pytest.mark.parametrize("how", ["ended", "begun anew"])
def test_what_waits_in_a_gap_goes_when_the_replay_ends(how: str) -> None:
    given = Trace("gap", (Step(0, Change(8_000_000)), Step(100 * MS, Change(0))), 60 * S)
    with link(FREE, FREE, given) as made:
        client, server = made.connect()
        made.relay.replay(True)
        time.sleep(0.15)
        client.sendall(bytes(50_000))
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.recv(1)
        made.relay.replay(how == "begun anew")
        server.settimeout(5)
        left = 50_000
        while left:
            left -= len(server.recv(left))


def test_a_relay_that_is_closed_in_a_gap_leaves_nothing() -> None:
    with link(FREE, FREE, trace((0,), 1000)) as made:
        client, server = made.connect()
        made.relay.replay(True)
        client.sendall(b"x")
        server.sendall(b"y")
        time.sleep(0.1)
        made.relay.close()
        # `nothing_left` waits for five seconds; the gap would never end.


def test_a_chunk_is_cut_where_the_rate_falls() -> None:
    """Else the last of what was read in a fast step would hold all of it back in a slow one."""
    given = trace((80, 0.01), 500, "up")
    with link(FREE, FREE, given) as made, ThreadPoolExecutor(1) as pool:
        client, server = made.connect()
        made.relay.replay(True)
        ended = threading.Event()
        pool.submit(flood, client, ended)
        found = counted(server, time.perf_counter_ns(), 100, 9)
        ended.set()
        made.relay.close()
    # 125 bytes in each of these.
    assert max(found[6:]) < 20_000
    assert sum(found[6:]) > 0


def test_a_new_delay_holds_for_what_leaves_later_and_keeps_the_order() -> None:
    with link(FREE, FREE, delays(400, 0, step_ms=600)) as made:
        client, server = made.connect()
        begin = time.perf_counter()
        made.relay.replay(True)
        client.sendall(b"1")
        assert server.recv(1) == b"1"
        assert time.perf_counter() - begin >= 0.4
        client.sendall(b"2")  # leaves with the old delay yet, and arrives after 0.8 s
        time.sleep(max(0.0, begin + 0.65 - time.perf_counter()))
        client.sendall(b"3")  # would be there at once
        assert [server.recv(1), server.recv(1)] == [b"2", b"3"]
        assert time.perf_counter() - begin >= 0.8


def test_the_report_of_a_replay() -> None:
    given = trace((8, 2), 100)
    with link(FREE, FREE, given) as made:
        client, server = made.connect()
        with ProbeClient(host_and_port(made.relay.address)) as probe:
            assert probe.facts().trace == "made"
            assert probe.replay(True) is None
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            time.sleep(0.35)
            report = probe.replay(True)
            assert report is not None
            assert (report.trace, report.digest) == ("made", given.digest)
            assert report.elapsed_ns >= 350 * MS
            assert report.changes == report.elapsed_ns // (100 * MS) + 1
            assert 0 <= report.drift_p50_ns <= report.drift_max_ns < S
            again = probe.replay(False)
            assert again is not None
            assert again.elapsed_ns < report.elapsed_ns + 250 * MS
            assert probe.replay(False) is None


def test_a_relay_without_a_trace_replays_nothing() -> None:
    with link() as made, ProbeClient(host_and_port(made.relay.address)) as probe:
        assert probe.facts().trace == ""
        assert probe.replay(True) is None
        assert probe.replay(False) is None


def test_loss_in_a_trace_is_refused_with_a_sentence() -> None:
    given = Trace("lossy", (Step(0), Step(S, Change(), Change(loss_pct=1))), 2 * S)
    words = r"trace lossy asks for loss on the downlink from second 1 on, .* use the kernel"
    with pytest.raises(LinkError, match=words):
        Relay(profile(), "127.0.0.1:0", "127.0.0.1:1", trace=given)
    none = Trace("none", (Step(0, Change(loss_pct=0)),), S)
    Relay(profile(), "127.0.0.1:0", "127.0.0.1:1", trace=none).close()


def test_only_what_is_let_go_keeps_its_instant() -> None:
    """At 1 kbit/s, of chunks of 16 ms booked at once, all but the first get the new rate."""
    shaper = Shaper(Direction(1000), seed=0)
    with ThreadPoolExecutor(60) as pool:
        begin_ns = time.perf_counter_ns()
        booked = [pool.submit(shaper.carry, 1000, True) for _ in range(60)]
        assert not eventually(lambda: all(one.done() for one in booked), within_s=0.1)
        shaper.follow(Schedule(Direction(1_000_000_000)), time.perf_counter_ns())
        passages = [one.result(5) for one in booked]
    assert all(one.leaves_ns - begin_ns < 0.6 * S for one in passages)
    shaper.close()


def test_what_was_let_go_is_no_debt_of_the_next_schedule() -> None:
    shaper = Shaper(Direction(100_000_000), seed=0)
    for _ in range(20):  # until it is booked ahead as far as it gets
        shaper.carry(100_000, counted=True)
    shaper.follow(Schedule(Direction(100_000)), time.perf_counter_ns())
    begin_ns = time.perf_counter_ns()
    # 4 ms at the old rate are 48 kB, and those 4 s at the new one.
    assert shaper.carry(50, counted=True).leaves_ns - begin_ns < S
    shaper.close()


def test_the_end_of_a_stream_waits_in_a_gap_as_bytes_do() -> None:
    given = Trace("gap", (Step(0, Change(0)), Step(300 * MS, Change(8_000_000))), S)
    with link(FREE, FREE, given) as made:
        client, server = made.connect()
        begin = time.perf_counter()
        made.relay.replay(True)
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b""
        assert time.perf_counter() - begin >= 0.3
