"""The probe: what it measures through a relay and a responder, and what it makes of strangers."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from netem import probe
from netem.answering import MAGIC
from netem.probe import ProbeClient, measure
from netem.relay import Relay
from netem.responder import Responder
from netem.transfer import Transfer, TransferPlan
from splitbed.address import host_and_port
from splitbed.certificate import LinkMeasurement
from splitbed.errors import LinkError
from splitbed.link import PAYLOAD_SHARE, Direction, LinkCounters, LinkFacts, LinkProfile
from tests.unit.edges import eventually, free_port

MS = 1_000_000
UNSHAPED = LinkProfile("none", Direction(), Direction())
SHAPED = LinkProfile(
    "shaped",
    Direction(rate_bps=20_000_000, delay_ns=8 * MS),
    Direction(rate_bps=60_000_000, delay_ns=4 * MS),
    # As wide as a busy machine needs.
    rate_tolerance_pct=25,
    rtt_tolerance_ns=12 * MS,
)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Whatever a peer does, no thread stays."""
    threads = set(threading.enumerate())
    yield
    assert eventually(lambda: set(threading.enumerate()) <= threads), threading.enumerate()


@pytest.fixture(params=["relay", "responder"])
def where(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """Something that answers the probe."""
    made: Relay | Responder
    if request.param == "relay":
        made = Relay(UNSHAPED, "127.0.0.1:0", "127.0.0.1:1")
    else:
        made = Responder("127.0.0.1:0")
    yield host_and_port(made.address)
    made.close()


@contextlib.contextmanager
def stranger(behave: Callable[[socket.socket], object]) -> Iterator[tuple[str, int]]:
    """A server that is no probe."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(4) as pool:

        def serve(sock: socket.socket) -> None:
            with sock, contextlib.suppress(OSError):
                sock.settimeout(5)
                behave(sock)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    pool.submit(serve, server.accept()[0])

        pool.submit(accept)
        yield server.getsockname()[:2]
        server.shutdown(socket.SHUT_RDWR)


def test_a_shaped_relay_is_measured_as_its_profile() -> None:
    relay = Relay(SHAPED, "127.0.0.1:0", "127.0.0.1:1")
    try:
        found: list[LinkMeasurement] = []
        while len(found) < 4:  # a busy machine may be late, but not four times in a row
            found.append(measure(host_and_port(relay.address), SHAPED, 0.9))
            if not found[-1].misses(SHAPED):
                break
    finally:
        relay.close()
    best = found[-1]
    assert best.misses(SHAPED) == []
    assert min(best.rtt_ns) >= 12 * MS
    assert 3 <= len(best.rtt_ns) <= 200
    # A third of the time and more at the rate, and no more than was planned.
    assert 0.3 * 20e6 * PAYLOAD_SHARE / 8 <= best.up_probe_bytes <= 0.5 * 20e6 / 8
    assert 0.3 * 60e6 * PAYLOAD_SHARE / 8 <= best.down_probe_bytes <= 0.5 * 60e6 / 8
    assert 0.5 <= best.seconds <= 5
    assert best.facts == LinkFacts("relay", SHAPED)
    assert best.up_datagrams is None
    assert best.without_datagrams == "a relay carries no datagrams"


def test_a_bare_link_is_fast(where: tuple[str, int]) -> None:
    found = measure(where, UNSHAPED, 0.3)
    assert found.up_goodput_bps > 200e6
    assert found.down_goodput_bps > 200e6
    assert found.rtt_median_ns < 20 * MS
    assert len(found.rtt_ns) <= 200
    assert found.misses(UNSHAPED) == []


def test_a_slow_link_is_measured_with_few_round_trips_and_bytes() -> None:
    slow = LinkProfile("slow", Direction(rate_bps=1_000_000, delay_ns=60 * MS), Direction())
    relay = Relay(slow, "127.0.0.1:0", "127.0.0.1:1")
    try:
        found = measure(host_and_port(relay.address), slow, 0.15)
    finally:
        relay.close()
    assert len(found.rtt_ns) == 3
    # Seven round trips at the rate, not megabytes of a full buffer.
    assert 45_000 <= found.up_probe_bytes <= 60_000
    assert found.seconds < 5


def test_a_link_of_unknown_rate_is_measured_in_the_time_asked() -> None:
    link = LinkProfile("unknown", Direction(rate_bps=60_000_000), Direction(rate_bps=60_000_000))
    relay = Relay(link, "127.0.0.1:0", "127.0.0.1:1")
    try:
        assert measure(host_and_port(relay.address), UNSHAPED, 0.08).seconds < 1.0
    finally:
        relay.close()


def test_misses_are_named() -> None:
    good = LinkMeasurement((12 * MS,) * 5, 19.3e6, 57.9e6, 1, 1, 1.0)
    assert good.misses(SHAPED) == []
    bad = LinkMeasurement((32 * MS,) * 5, 9e6, 99e6, 1, 1, 1.0)
    uplink, downlink, trip = bad.misses(SHAPED)
    assert uplink == "uplink goodput 9 Mbit/s (-53.4 %)"
    assert downlink == "downlink goodput 99 Mbit/s (+70.9 %)"
    assert trip == "round trip 32.00 ms (+20.00)"


ENDLESS = TransferPlan(duration_ns=100_000 * MS, window_ns=10 * MS, most_bytes=1 << 40)
SHORT = TransferPlan(duration_ns=10 * MS, window_ns=10 * MS, most_bytes=10_000)


def test_several_clients_at_once(where: tuple[str, int]) -> None:
    def ask(_: int) -> int:
        with ProbeClient(where) as client:
            assert client.upload(SHORT).received_bytes == 10_000
            assert client.download(SHORT).received_bytes == 10_000
            return len(client.round_trips(5, 1))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [5] * 8


def test_a_responder_counts_nothing() -> None:
    responder = Responder("127.0.0.1:0")
    with ProbeClient(host_and_port(responder.address)) as client:
        client.upload(SHORT)
        assert client.counters() == LinkCounters(0, 0, 0)
    responder.close()


def request(letter: bytes, number: int) -> bytes:
    return struct.pack("!cQ", letter, number)


def planned(letter: bytes, plan: TransferPlan) -> bytes:
    text = msgspec.json.encode(plan)
    return request(letter, len(text)) + text


@pytest.mark.parametrize(
    "sent",
    [
        MAGIC + request(b"U", 2**64 - 1),
        MAGIC + request(b"D", 2**63),
        MAGIC + request(b"D", 4097),
        MAGIC + request(b"D", 2) + b"{}",
        MAGIC + request(b"U", 7) + b"nothing",
        MAGIC + request(b"S", 4097),
        MAGIC + request(b"S", 2) + b"[]",
        MAGIC + request(b"R", 2),
        MAGIC + request(b"P", 2**40),
        MAGIC + request(b"X", 0),
        MAGIC + request(b"\x00", 5),
        MAGIC[:1] + b"is not the magic of this probe",
    ],
    ids=[
        *("upload", "download", "just too large", "no plan", "no JSON", "datagrams"),
        *("no datagram plan", "replay", "ping", "letter", "zero letter", "magic"),
    ],
)
def test_a_hostile_request_ends_the_connection(where: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(where, 5) as sock:
        sock.settimeout(5)
        sock.sendall(sent)
        answer = b"nothing yet"
        with contextlib.suppress(ConnectionError):
            answer = sock.recv(100)
            assert answer == b""
    with ProbeClient(where) as client:  # others are not disturbed
        assert client.round_trips(3, 1)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        MAGIC[:5],
        MAGIC,
        MAGIC + b"P\x00",
        MAGIC + request(b"U", 500) + b"{",
        MAGIC + planned(b"U", ENDLESS) + bytes(500),
        MAGIC + planned(b"D", ENDLESS),
    ],
    ids=[
        *("silent", "half magic", "magic", "half request", "half plan"),
        *("half upload", "reads no download"),
    ],
)
def test_a_client_that_leaves_early_disturbs_nobody(where: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(where, 5) as sock:
        sock.sendall(sent)
    with ProbeClient(where) as client:
        assert client.round_trips(3, 1)


def test_nobody_answers() -> None:
    port = free_port()
    with pytest.raises(LinkError, match=f"no probe answers at 127.0.0.1:{port} .*start a relay"):
        measure(("127.0.0.1", port), UNSHAPED, 0.1)


@pytest.mark.parametrize(
    "behave",
    [
        lambda sock, asked: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda sock, asked: sock.sendall(asked),
        lambda sock, asked: sock.sendall(b"hm"),
        lambda sock, asked: None,
    ],
    ids=["other words", "echo", "too few bytes", "closes"],
)
def test_something_else_answers(behave: Callable[[socket.socket, bytes], object]) -> None:
    first_bytes = len(MAGIC) + len(request(b"P", 0))
    with (
        stranger(lambda sock: behave(sock, sock.recv(first_bytes, socket.MSG_WAITALL))) as where,
        pytest.raises(LinkError, match=rf"{where[0]}:{where[1]} (is no probe|went away)"),
    ):
        measure(where, UNSHAPED, 0.1)


def test_something_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_TIMEOUT_S", 0.3)
    with (
        stranger(lambda sock: [0 for _ in iter(lambda: sock.recv(100), b"")]) as where,
        pytest.raises(LinkError, match="went away: timed out"),
    ):
        measure(where, UNSHAPED, 0.1)


def half_a_probe(sock: socket.socket, transfer: Callable[[socket.socket, bytes], object]) -> None:
    """Answers like a bare link, up to a transfer."""
    sock.recv(len(MAGIC), socket.MSG_WAITALL)
    while asked := sock.recv(9, socket.MSG_WAITALL):
        if asked[:1] == b"P":
            sock.sendall(asked)
        elif asked[:1] == b"F":
            text = msgspec.json.encode(LinkFacts("direct", UNSHAPED))
            sock.sendall(struct.pack("!Q", len(text)) + text)
        else:
            transfer(sock, asked[:1])
            return


@pytest.mark.parametrize(
    ("transfer", "words"),
    [
        (lambda sock, kind: None, "went away"),
        (lambda sock, kind: kind == b"U" and sock.recv(50_000), "went away"),
        (lambda sock, kind: answered(sock, kind, b"{}"), "another version's words"),
        (lambda sock, kind: answered(sock, kind, b"x" * 10), "another version's words"),
        (lambda sock, kind: answered(sock, kind, None), "is no probe"),
    ],
    ids=["at once", "half way", "other fields", "no JSON", "endless"],
)
def test_a_peer_that_fails_during_an_upload(
    transfer: Callable[[socket.socket, bytes], object], words: str
) -> None:
    with (
        stranger(lambda sock: half_a_probe(sock, transfer)) as where,
        pytest.raises(LinkError, match=rf"{where[0]}:{where[1]} .*{words}|{words}"),
    ):
        measure(where, UNSHAPED, 0.2)


def answered(sock: socket.socket, kind: bytes, text: bytes | None) -> None:
    while sock.recv(1 << 20):
        pass
    sock.sendall(
        struct.pack("!Q", 1 << 40) if text is None else struct.pack("!Q", len(text)) + text
    )


def test_a_peer_that_resets_a_download() -> None:
    """Whoever breaks off is not taken for one who has sent everything."""

    def transfer(sock: socket.socket, kind: bytes) -> None:
        if kind == b"U":
            answered(sock, kind, msgspec.json.encode(Transfer(1, ((1, 1),))))
        else:
            sock.sendall(bytes(100_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with (
        stranger(lambda sock: half_a_probe(sock, transfer)) as where,
        pytest.raises(LinkError, match=r"went away: .*reset"),
    ):
        measure(where, UNSHAPED, 0.2)


def test_a_responder_refuses_an_address_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LinkError, match=f"cannot listen on 127.0.0.1:{port}: Address"):
            Responder(f"127.0.0.1:{port}")


def test_a_responder_listens_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    responder = Responder("[::1]:0")
    with ProbeClient(host_and_port(responder.address)) as client:
        assert client.round_trips(3, 1)
    responder.close()


def test_a_closed_responder_answers_nobody() -> None:
    responder = Responder("127.0.0.1:0")
    responder.close()
    with pytest.raises(LinkError):
        ProbeClient(host_and_port(responder.address))
