"""The probe's datagrams: paced, counted, and deaf to strangers."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from netem import datagram_port, datagrams
from netem.answering import MAGIC
from netem.datagram_port import DatagramOffer
from netem.datagrams import (
    Arrived,
    DatagramPlan,
    collect,
    open_socket,
    send_end,
    send_paced,
    together,
)
from netem.probe import ProbeClient, measure
from netem.relay import Relay
from netem.responder import Responder
from splitbed.address import host_and_port
from splitbed.errors import LinkError
from splitbed.link import Direction, LinkFacts, LinkProfile, Way
from tests.unit.edges import eventually

MS = 1_000_000
TOKEN = bytes(range(16))
UNSHAPED = LinkProfile("none", Direction(), Direction())


def plan(way: Way = "up", **fields: Any) -> DatagramPlan:
    figures: dict[str, Any] = {
        "count": 200,
        "payload_bytes": 1472,
        "gap_ns": 100_000.0,
        "burst_ns": MS,
        "late_ns": 2 * MS,
        "lead_ns": 0,
        "quiet_ns": 50 * MS,
    }
    return DatagramPlan(way=way, **(figures | fields))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    threads = set(threading.enumerate())
    yield
    assert eventually(lambda: set(threading.enumerate()) <= threads), threading.enumerate()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A sender and a receiver on loopback, one connected to the other."""
    with open_socket(socket.AF_INET) as sender, open_socket(socket.AF_INET) as receiver:
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        time.sleep(0.02)  # by then the kernel stamps what comes
        yield sender, receiver


@pytest.fixture
def responder() -> Iterator[Responder]:
    found = Responder("127.0.0.1:0")
    yield found
    found.close()


def after_all(_: float) -> bool:
    """The sender has ended already."""
    return True


# -------------------------------------------------------------------------------------- pacing


@pytest.mark.skipif(sys.platform != "linux", reason="Linux cuts datagrams apart")
def test_many_are_handed_over_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    calls: list[int] = []

    def send(packets: memoryview) -> None:
        calls.append(len(packets))
        sender.send(packets)

    asked = plan(count=501, gap_ns=20_000.0, burst_ns=2 * MS, late_ns=100 * MS, together=7)
    at_once = together(sender, asked)
    assert at_once == 7
    assert send_paced(send, TOKEN, asked, at_once).count == 501
    assert max(calls) == 7 * 1472
    assert len(calls) < 200
    found = collect(receiver, TOKEN, asked, after_all)
    assert (found.distinct, found.duplicated, found.reordered) == (501, 0, 0)


def test_a_device_that_takes_one_at_a_time(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair

    def send(packets: memoryview) -> None:
        if len(packets) > 1472:
            raise OSError(errno.EIO, "no checksums in hardware")
        sender.send(packets)

    asked = plan(count=300, gap_ns=20_000.0, late_ns=100 * MS, together=7)
    assert send_paced(send, TOKEN, asked, 7).count == 300
    found = collect(receiver, TOKEN, asked, after_all)
    assert (found.distinct, found.duplicated, found.reordered) == (300, 0, 0)


def test_what_else_goes_wrong_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    def send(packets: memoryview) -> None:
        raise OSError(errno.ENETDOWN, "the network is down")

    with pytest.raises(OSError, match="down"):
        send_paced(send, TOKEN, plan(together=7), 7)


def test_one_at_a_time_unless_asked(pair: tuple[socket.socket, socket.socket]) -> None:
    assert together(pair[0], plan()) == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as no_udp:
        assert together(no_udp, plan(together=7)) == 1


def test_datagrams_are_sent_by_the_clock(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    asked = plan(count=500, gap_ns=400_000.0)
    sent = send_paced(sender.send, TOKEN, asked)
    assert sent.count == 500
    assert sent.took_ns >= 499 * 400_000 - 2 * MS
    # A busy machine may be late; it is not made up for in large bursts.
    assert sent.bps(12_000) <= 1.02 * 30e6
    found = collect(receiver, TOKEN, asked, after_all)
    assert (found.distinct, found.duplicated, found.reordered) == (500, 0, 0)
    assert found.window == 25
    assert found.bps(12_000) == pytest.approx(30e6, rel=0.3)


def test_what_was_held_up_is_not_made_up_for_at_once() -> None:
    times: list[int] = []

    def slow(_: object) -> None:
        times.append(time.perf_counter_ns())
        if len(times) == 20:
            time.sleep(0.1)

    sent = send_paced(slow, TOKEN, plan(count=60, gap_ns=1e6))
    assert sent.held_up_ns > 90 * MS
    after = [later - times[20] for later in times[20:]]
    # Two milliseconds are made up for, the other forty are gone.
    assert sum(passed < 5 * MS for passed in after) <= 9
    assert after[-1] >= 34 * MS
    times.clear()
    sent = send_paced(slow, TOKEN, plan(count=60, gap_ns=1e6, late_ns=500 * MS))
    assert sum(later - times[20] < 5 * MS for later in times[20:]) > 30


def test_a_full_buffer_is_waited_for() -> None:
    refusals = iter([True, False] * 50)

    def send(_: object) -> None:
        if next(refusals):
            raise BlockingIOError

    assert send_paced(send, TOKEN, plan(count=20)).count == 20


def test_a_system_that_takes_nothing_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_GRACE_NS", 100 * MS)

    def send(_: object) -> None:
        raise BlockingIOError

    assert send_paced(send, TOKEN, plan(count=20)).count == 0


# ------------------------------------------------------------------------------------- counting


def datagram(number: int, token: bytes = TOKEN, size: int = 1472) -> bytes:
    return (token + struct.pack("!Q", number)).ljust(size, b"\0")


def counted(
    pair: tuple[socket.socket, socket.socket], sent: list[bytes], asked: DatagramPlan
) -> Arrived:
    for data in sent:
        pair[0].send(data)
    return collect(pair[1], TOKEN, asked, after_all)


def test_lost_twice_and_late(pair: tuple[socket.socket, socket.socket]) -> None:
    numbers = [0, 1, 2, 5, 3, 4, 4, 7, 7, 7, 6]  # 8 and 9 do not come
    found = counted(pair, [datagram(number) for number in numbers], plan(count=10))
    assert (found.distinct, found.duplicated, found.reordered) == (8, 3, 3)
    assert found.overflowed == 0


def test_whatever_else_arrives_counts_for_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    strange = [
        datagram(1, bytes(16)),
        datagram(10),  # beyond what was planned
        datagram(2**64 - 1),
        datagram(2, size=1471),
        datagram(3) + b"x",
        datagram(4, size=24),
        TOKEN,
        b"",
    ]
    found = counted(pair, [*strange, datagram(0), *strange], plan(count=10))
    assert (found.distinct, found.duplicated, found.window_ns) == (1, 0, 0)
    assert found.bps(12_000) == 0


def test_the_rate_is_that_after_the_lead(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    asked = plan(count=140, gap_ns=1e6, lead_ns=40 * MS)
    for number in range(100):  # all at once
        sender.send(datagram(number))
    time.sleep(0.06)
    for number in range(100, 140):
        sender.send(datagram(number))
        time.sleep(0.004 if number != 115 else 0.3)  # a machine that stands still for a moment
    found = collect(receiver, TOKEN, asked, after_all)
    assert (found.distinct, found.window) == (140, 10)
    assert 40 * MS <= found.window_ns <= 80 * MS
    assert found.bps(1000) <= 1000 / 0.004


def test_when_they_arrived_is_told_by_the_kernel(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A receiver that reads everything at the end measures the same."""
    sender, receiver = pair
    for number in range(10):
        sender.send(datagram(number))
        time.sleep(0.01)
    time.sleep(0.1)
    found = collect(receiver, TOKEN, plan(count=10, gap_ns=1e7), after_all)
    assert found.window == 8
    assert 79 * MS <= found.window_ns <= 170 * MS


def test_a_socket_that_overflows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_BUFFER_BYTES", 20_000)
    with open_socket(socket.AF_INET) as sender, open_socket(socket.AF_INET) as receiver:
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        told = iter([False, False])

        def ended(_: float) -> bool:
            for number in range(100):
                sender.send(datagram(number))
            return next(told, True)

        found = collect(receiver, TOKEN, plan(count=100), ended)
    assert 0 < found.distinct < 100
    assert found.overflowed > 0


def test_the_end_is_said_until_it_is_heard() -> None:
    said: list[bytes] = []
    send_end(said.append, TOKEN, lambda _: len(said) == 5)
    assert said == [TOKEN + b"\xff" * 8] * 5
    send_end(said.append, TOKEN, lambda _: False)
    assert len(said) == 65


def test_the_end_may_come_as_a_datagram(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in (bytes(16) + b"\xff" * 8, TOKEN + b"\xff" * 8 + b"x", TOKEN + b"\xff" * 8):
        pair[0].send(end)
    pair[0].send(datagram(3))  # late, and still counted
    start = time.perf_counter()
    found = collect(pair[1], TOKEN, plan(count=10), threading.Event().wait)
    assert (found.distinct, found.duplicated) == (1, 0)
    assert time.perf_counter() - start < 2


def test_a_flood_of_strangers_ends_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    over = threading.Event()

    def flood() -> None:
        with open_socket(socket.AF_INET) as stranger:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    stranger.sendto(b"noise", receiver.getsockname())

    with ThreadPoolExecutor(1) as pool:
        pool.submit(flood)
        try:
            asked = plan(count=50, gap_ns=1e6)
            sent = pool_free(lambda: send_paced(sender.send, TOKEN, asked))
            found = collect(receiver, TOKEN, asked, lambda wait_s: sent.wait(wait_s))
        finally:
            over.set()
    assert found.distinct + found.overflowed >= 50


def pool_free(work: Callable[[], object]) -> threading.Event:
    """Do it on a thread; the event says when it is done."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    threading.Thread(target=run).start()
    return done


# ------------------------------------------------------------------------------ over a responder


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"])
def test_an_exchange(way: Way, listen: str) -> None:
    try:
        server = Responder(listen)
    except LinkError:
        pytest.skip("this machine has no IPv6 loopback")
    host, port = host_and_port(server.address)
    with ProbeClient(("127.0.0.1" if host == "0.0.0.0" else host, port)) as client:
        payload, packet = client.largest_payload()
        assert (payload, packet) == (1452 if ":" in host else 1472, 1500)
        for _ in range(2):  # one after the other, over the same connection
            found = client.datagrams(plan(way, payload_bytes=payload))
            assert not isinstance(found, str)
            assert found.sent.count == 200
            assert found.arrived.distinct + found.arrived.overflowed == 200
            assert found.arrived.duplicated == 0
        assert client.round_trips(3, 1)
    server.close()


def test_a_link_is_measured_by_datagrams_too(responder: Responder) -> None:
    lossless = LinkProfile("none", Direction(), Direction())
    found = measure(host_and_port(responder.address), lossless, 0.5)
    assert found.facts == LinkFacts("direct", lossless)
    assert found.without_datagrams == ""
    for way in (found.up_datagrams, found.down_datagrams):
        assert way is not None
        assert way.sent >= 100
        assert way.lost <= way.overflowed
        assert way.offered_bps <= 102e6
        assert way.rate_bps is None
    assert found.up_window_bytes >= 0
    lossy = LinkProfile("lossy", Direction(20_000_000, loss_pct=1.0), Direction())
    found = measure(host_and_port(responder.address), lossy, 0.5)
    assert found.up_datagrams is not None
    assert found.up_datagrams.rate_bps is not None
    assert found.up_datagrams.rate_bps > 15e6
    assert any(
        "uplink rate " in miss or "uplink lost 0 of " in miss for miss in found.misses(lossy)
    )


def test_a_relay_says_that_it_carries_none() -> None:
    relay = Relay(UNSHAPED, "127.0.0.1:0", "127.0.0.1:1")
    with ProbeClient(host_and_port(relay.address)) as client:
        assert client.datagrams(plan()) == "the link carries no datagrams"
        assert client.round_trips(3, 1)
    relay.close()


def test_a_port_that_is_taken(responder: Responder) -> None:
    """Another port is found and told."""
    host, port = host_and_port(responder.address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((host, port))
        with ProbeClient((host, port)) as client:
            found = client.datagrams(plan("down"))
    assert not isinstance(found, str)
    assert found.arrived.distinct + found.arrived.overflowed == 200


def test_others_wait_for_their_turn(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    where = host_and_port(responder.address)
    long = plan(count=400, gap_ns=1e6)
    with ProbeClient(where) as one, ProbeClient(where) as two, ThreadPoolExecutor(2) as pool:
        start = time.perf_counter()
        both = [pool.submit(client.datagrams, long) for client in (one, two)]
        assert all(not isinstance(each.result(), str) for each in both)
        assert time.perf_counter() - start > 0.8
        monkeypatch.setattr(datagram_port, "_TURN_S", 0.1)
        first = pool.submit(one.datagrams, long)
        time.sleep(0.1)
        assert two.datagrams(long) == "the other end is busy with others' measurements"
        assert not isinstance(first.result(), str)


# --------------------------------------------------------------------------------- hostile peers


class Raw:
    """A client that speaks the format by hand."""

    def __init__(self, responder: Responder, asked: DatagramPlan) -> None:
        self.where = host_and_port(responder.address)
        self.control = socket.create_connection(self.where, 5)
        self.control.settimeout(5)
        text = msgspec.json.encode(asked)
        self.control.sendall(MAGIC + struct.pack("!cQ", b"S", len(text)) + text)
        offer = msgspec.json.decode(self.answer(), type=DatagramOffer)
        self.port, self.token = offer.port, bytes.fromhex(offer.token)

    def answer(self) -> bytes:
        (size,) = struct.unpack("!Q", self.control.recv(8, socket.MSG_WAITALL))
        return self.control.recv(size, socket.MSG_WAITALL) if size else b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()


def heard(sock: socket.socket, within_s: float) -> bool:
    return bool(select.select([sock], [], [], within_s)[0])


def test_nothing_is_sent_to_who_does_not_show_the_token(
    responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagram_port, "_GREETING_S", 0.5)
    with Raw(responder, plan("down")) as raw, open_socket(socket.AF_INET) as guess:
        assert raw.port == raw.where[1]
        guess.connect((raw.where[0], raw.port))
        for data in (bytes(16), raw.token + b"x", raw.token[:15], raw.token[::-1]):
            guess.send(data)
        assert raw.answer() == b""
        assert not heard(guess, 0.1)
        # The connection goes on.
        raw.control.sendall(struct.pack("!cQ", b"P", 5))
        assert raw.control.recv(9, socket.MSG_WAITALL)[:1] == b"P"


def test_nothing_is_sent_to_another_address_than_the_connections(
    responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shows the token in another's name would have that one flooded."""
    monkeypatch.setattr(datagram_port, "_GREETING_S", 0.5)
    with Raw(responder, plan("down")) as raw, open_socket(socket.AF_INET) as victim:
        try:
            victim.bind(("127.0.0.2", 0))
        except OSError:
            pytest.skip("this machine has one loopback address only")
        victim.connect((raw.where[0], raw.port))
        victim.send(raw.token)
        assert raw.answer() == b""
        assert not heard(victim, 0.1)


@pytest.mark.parametrize("way", ["up", "down"])
def test_no_more_is_sent_than_was_planned(responder: Responder, way: Way) -> None:
    with Raw(responder, plan(way, count=30)) as raw, open_socket(socket.AF_INET) as sock:
        sock.connect((raw.where[0], raw.port))
        sock.send(raw.token)
        assert raw.answer() == b"{}"
        if way == "up":
            raw.control.sendall(struct.pack("!cQ", b"E", 0))
        answer = msgspec.json.decode(raw.answer())
        got = 0
        while heard(sock, 0.2):
            got += len(sock.recv(2000)) == 1472
    assert (got, answer["count"]) == (30, 30) if way == "down" else got == 0


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("stage", ["offered", "greeted", "speaks"])
def test_a_client_that_breaks_off_frees_the_turn(
    responder: Responder, way: Way, stage: str
) -> None:
    with Raw(responder, plan(way)) as raw, open_socket(socket.AF_INET) as sock:
        sock.connect((raw.where[0], raw.port))
        if stage != "offered":
            sock.send(raw.token)
            assert raw.answer() == b"{}"
        if stage == "speaks":
            raw.control.sendall(struct.pack("!cQ", b"P", 1))
    with ProbeClient(host_and_port(responder.address)) as client:
        assert not isinstance(client.datagrams(plan("down")), str)


def test_a_client_that_never_sends_its_datagrams(
    responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "_GRACE_NS", 300 * MS)
    with Raw(responder, plan()) as raw, open_socket(socket.AF_INET) as sock:
        sock.connect((raw.where[0], raw.port))
        sock.send(raw.token)
        assert raw.answer() == b"{}"
        start = time.perf_counter()
        found = msgspec.json.decode(raw.answer(), type=Arrived)
        assert time.perf_counter() - start < 3
        assert found.distinct == 0


def test_a_client_that_says_half_a_word_does_not_hold_the_others_up(
    responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagram_port, "_WORD_S", 0.3)
    with Raw(responder, plan()) as raw, open_socket(socket.AF_INET) as sock:
        sock.connect((raw.where[0], raw.port))
        sock.send(raw.token)
        assert raw.answer() == b"{}"
        raw.control.sendall(b"E\0")
        with ProbeClient(host_and_port(responder.address)) as client:
            assert not isinstance(client.datagrams(plan("down")), str)


@pytest.mark.parametrize(
    "fields",
    [
        {"count": 0},
        {"count": -1},
        {"count": 1_000_001, "gap_ns": 500.0},
        {"payload_bytes": 23},
        {"payload_bytes": 1473},
        {"gap_ns": 100.0},
        {"gap_ns": 1e9},  # 200 seconds
        {"gap_ns": float("inf")},
        {"burst_ns": 0},
        {"late_ns": 2_000 * MS},
        {"lead_ns": -1},
        {"quiet_ns": 6_000 * MS},
        {"way": "sideways"},
        {"more": 1},
    ],
)
def test_plans_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    whole = msgspec.to_builtins(plan())
    msgspec.convert(whole, DatagramPlan)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(whole | fields, DatagramPlan)


def test_no_datagram_gets_through(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a firewall: said so, and not taken for a loss of everything."""
    monkeypatch.setattr(datagram_port, "_GREETING_S", 0.3)
    monkeypatch.setattr("netem.datagram_client._greet", lambda *_: None)
    where = host_and_port(responder.address)
    with ProbeClient(where) as client:
        found = client.datagrams(plan())
    assert found == f"no datagram reaches port {where[1]} there by UDP"
    measured = measure(where, UNSHAPED, 0.3)
    assert measured.without_datagrams == found
    assert measured.up_datagrams is None
    assert measured.down_datagrams is None
