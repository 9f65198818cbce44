"""The user-space relay: every byte, in order, at the rate and delay of its profile."""

from __future__ import annotations

import contextlib
import random
import socket
import socketserver
import statistics
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netem.probe import ProbeClient, measure
from netem.relay import Relay
from netem.shaper import Shaper
from splitbed.address import host_and_port
from splitbed.errors import LinkError
from splitbed.link import PAYLOAD_SHARE, Direction, LinkCounters
from tests.unit.edges import eventually, free_port
from tests.unit.relays import FREE, MS, both, ended, link, mbit, nothing_left, profile, read_all


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


def send_all(sock: socket.socket, chunks: Sequence[bytes]) -> None:
    for chunk in chunks:
        sock.sendall(chunk)
    sock.shutdown(socket.SHUT_WR)


def goodput_bps(sender: socket.socket, receiver: socket.socket, size: int) -> float:
    """Payload bits per second, from before the first byte is sent until the last is there.

    However late a busy machine wakes us, this is never more than what the link lets through.
    """
    with ThreadPoolExecutor(1) as pool:
        start = time.perf_counter()
        sending = pool.submit(sender.sendall, bytes(size))
        left = size
        while left:
            got = len(receiver.recv(min(left, 1 << 18)))
            assert got, "the connection ended early"
            left -= got
        seconds = time.perf_counter() - start
        sending.result()
    return size * 8 / seconds


def round_trips_ns(client: socket.socket, server: socket.socket, count: int) -> list[int]:
    found = []
    for _ in range(count):
        start_ns = time.perf_counter_ns()
        client.sendall(b"?")
        server.sendall(server.recv(1))
        client.recv(1)
        found.append(time.perf_counter_ns() - start_ns)
    return found


CHUNKS = st.lists(
    st.one_of(st.integers(1, 20), st.integers(1, 4000), st.integers(100_000, 400_000)), max_size=12
)


@settings(max_examples=20, deadline=None)
@given(up=CHUNKS, down=CHUNKS, seed=st.integers(0, 2**32), shaped=st.booleans())
def test_every_byte_arrives_in_both_directions(
    up: list[int], down: list[int], seed: int, shaped: bool
) -> None:
    random_bytes = random.Random(seed).randbytes
    sent_up, sent_down = [random_bytes(n) for n in up], [random_bytes(n) for n in down]
    direction = mbit(500, delay_ns=MS, jitter_ns=MS) if shaped else FREE
    with link(*both(direction)) as made, ThreadPoolExecutor(3) as pool:
        client, server = made.connect()
        sending = [pool.submit(send_all, client, sent_up), pool.submit(send_all, server, sent_down)]
        at_client = pool.submit(read_all, client)
        assert read_all(server) == b"".join(sent_up)
        assert at_client.result() == b"".join(sent_down)
        for one in sending:
            one.result()
        wanted = LinkCounters(1 + sum(up), sum(down), 1)
        assert made.relay.counters() == wanted


class _Backwards(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read()[::-1])


class _Target(socketserver.ThreadingTCPServer):
    request_queue_size = 128  # its own 5 are too few for 50 at once: the kernel would drop some


def test_many_connections_at_once_do_not_mix() -> None:
    with _Target(("127.0.0.1", 0), _Backwards) as target, contextlib.ExitStack() as stack:
        serving = threading.Thread(target=target.serve_forever, args=(0.01,))
        serving.start()
        stack.callback(serving.join)
        stack.callback(target.shutdown)
        relay = Relay(
            profile(*both(Direction(delay_ns=MS))),
            "127.0.0.1:0",
            f"127.0.0.1:{target.server_address[1]}",
        )
        stack.callback(relay.close)

        def exchange(number: int) -> bool:
            data = random.Random(number).randbytes(5_000 + number)
            with socket.create_connection(host_and_port(relay.address), 10) as sock:
                send_all(sock, [data[:7], data[7:]])
                return read_all(sock) == data[::-1]

        with ThreadPoolExecutor(50) as pool:
            assert all(pool.map(exchange, range(50)))
        assert relay.counters().connections == 50


def test_half_close_leaves_the_other_direction_open() -> None:
    with link(*both(Direction(delay_ns=MS))) as made:
        client, server = made.connect()
        send_all(client, [b"question"])
        assert read_all(server) == b"question"
        time.sleep(0.05)
        send_all(server, [b"a late ", b"answer"])
        assert read_all(client) == b"a late answer"


def test_a_connection_that_says_nothing_and_ends_is_forwarded_as_such() -> None:
    with link() as made:
        client = socket.create_connection(host_and_port(made.relay.address), 5)
        client.shutdown(socket.SHUT_WR)
        server, _ = made._listener.accept()
        with client, server:
            assert read_all(server) == b""
            send_all(server, [b"hello"])
            assert read_all(client) == b"hello"


@pytest.mark.parametrize("who", ["device", "edge"])
def test_an_end_that_vanishes_ends_the_other(who: str) -> None:
    with link(*both(Direction(delay_ns=MS))) as made:
        client, server = made.connect()
        leaver, stayer = (client, server) if who == "device" else (server, client)
        # Without lingering, close() sends a reset: what a killed process leaves behind.
        leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaver.close()
        assert ended(stayer)


@pytest.mark.parametrize("who", ["device", "edge"])
def test_a_reset_is_not_mistaken_for_the_end_of_the_data(who: str) -> None:
    with link(*both(Direction(delay_ns=MS))) as made:
        client, server = made.connect()
        leaver, stayer = (client, server) if who == "device" else (server, client)
        leaver.sendall(b"not all")
        assert stayer.recv(7, socket.MSG_WAITALL) == b"not all"
        leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaver.close()
        stayer.settimeout(5)
        with pytest.raises(ConnectionResetError):
            stayer.recv(1)


def send_while_taken(sender: socket.socket) -> None:
    """Fill every buffer on the way."""
    sender.setblocking(False)
    try:
        while True:
            try:
                sender.send(bytes(64_000))
            except BlockingIOError:
                sender.settimeout(0.3)
                sender.send(bytes(1))
                sender.setblocking(False)
    except TimeoutError:
        sender.settimeout(10)


@pytest.mark.parametrize("who", ["device", "edge"])
def test_a_receiver_that_vanishes_stops_a_sender_that_waits(who: str) -> None:
    with link(*both(mbit(5))) as made:
        client, server = made.connect()
        receiver, sender = (client, server) if who == "device" else (server, client)
        send_while_taken(sender)
        receiver.close()
        sender.settimeout(2)
        with pytest.raises(ConnectionError):
            sender.sendall(bytes(20_000_000))


def test_nobody_behind_the_relay(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    relay = Relay(profile(), "127.0.0.1:0", f"127.0.0.1:{port}")
    with socket.create_connection(host_and_port(relay.address), 5) as client:
        client.settimeout(5)
        client.sendall(b"anyone?")
        assert ended(client)
    assert relay.counters().connections == 0
    with ProbeClient(host_and_port(relay.address)) as probe:  # the link itself still answers
        assert probe.round_trips(3, 1)
    relay.close()
    words = capfd.readouterr().err
    assert f"nobody answers behind it at 127.0.0.1:{port}" in words
    assert words.count("\n") == 1


@pytest.mark.parametrize(
    ("up", "down", "word"),
    [(Direction(loss_pct=0.5), FREE, "uplink"), (FREE, Direction(loss_pct=100), "downlink")],
)
def test_loss_is_refused_with_a_sentence(up: Direction, down: Direction, word: str) -> None:
    with pytest.raises(LinkError, match=rf"asks for loss on the {word}.* use the kernel") as caught:
        Relay(profile(up, down), "127.0.0.1:0", "127.0.0.1:1")
    assert "\n" not in str(caught.value)


def test_an_address_in_use_is_refused_with_a_sentence() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(LinkError, match=r"cannot listen on \S+: Address already in use"),
    ):
        Relay(profile(), f"127.0.0.1:{other.getsockname()[1]}", "127.0.0.1:1")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(LinkError, match=r"cannot listen on 192\.0\.2\.1:0"):
        Relay(profile(), "192.0.2.1:0", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("rate_mbit", "size"), [(0.064, 4_500), (1, 80_000), (40, 2_000_000), (400, 12_000_000)]
)
@pytest.mark.parametrize("way", ["up", "down"])
def test_rate_holds(rate_mbit: float, size: int, way: str) -> None:
    shaped = mbit(rate_mbit)
    wanted = rate_mbit * 1e6 * PAYLOAD_SHARE
    with link(*((shaped, FREE) if way == "up" else (FREE, shaped))) as made:
        client, server = made.connect()
        sender, receiver = (client, server) if way == "up" else (server, client)
        least = 0.85 if rate_mbit < 100 else 0.4
        found = []
        for _ in range(5):  # a busy machine may be late, but not five times in a row
            found.append(goodput_bps(sender, receiver, size) / wanted)
            assert found[-1] <= 1.001
            if found[-1] >= least:
                break
        assert max(found) >= least, found


def test_no_rate_means_as_fast_as_the_machine_allows() -> None:
    with link(*both(Direction(delay_ns=5 * MS))) as made:
        client, server = made.connect()
        assert goodput_bps(client, server, 60_000_000) > 100e6
        assert goodput_bps(server, client, 60_000_000) > 100e6


def test_four_connections_share_one_rate() -> None:
    size, count = 200_000, 4
    with link(mbit(8), FREE) as made, ThreadPoolExecutor(2 * count) as pool:
        pairs = [made.connect() for _ in range(count)]
        start = time.perf_counter()
        for client, _ in pairs:
            pool.submit(send_all, client, [bytes(size)])

        def seconds(server: socket.socket) -> float:
            assert len(read_all(server)) == size
            return time.perf_counter() - start

        ends = sorted(pool.map(seconds, [server for _, server in pairs]))
        wanted = count * size * 8 / (8e6 * PAYLOAD_SHARE)
        assert 0.97 * wanted <= ends[-1] <= 1.5 * wanted
        assert ends[0] >= 0.6 * wanted, f"one connection went ahead of the others: {ends}"


def test_directions_do_not_share_their_rates() -> None:
    with link(mbit(4), mbit(8)) as made, ThreadPoolExecutor(1) as pool:
        client, server = made.connect()
        upward = pool.submit(goodput_bps, client, server, 250_000)
        down = goodput_bps(server, client, 500_000) / PAYLOAD_SHARE
        up = upward.result() / PAYLOAD_SHARE
        assert 0.6 * 4e6 <= up <= 1.001 * 4e6
        assert 0.6 * 8e6 <= down <= 1.001 * 8e6


def test_delay_holds() -> None:
    with link(Direction(delay_ns=20 * MS), Direction(delay_ns=10 * MS)) as made:
        found = round_trips_ns(*made.connect(), 20)
        assert min(found) >= 30 * MS
        assert statistics.median(found) <= 45 * MS


def test_delay_comes_on_top_of_the_time_on_the_wire() -> None:
    with link(mbit(1, delay_ns=50 * MS), FREE) as made:
        client, server = made.connect()
        start = time.perf_counter()
        client.sendall(bytes(12_500))
        left = 12_500
        while left:
            left -= len(server.recv(left))
        seconds = time.perf_counter() - start
        wanted = 12_500 * 8 / (1e6 * PAYLOAD_SHARE) + 0.05
        assert wanted <= seconds <= wanted + 0.1


def test_jitter_spreads_the_delay() -> None:
    with link(Direction(delay_ns=20 * MS, jitter_ns=5 * MS), FREE) as made:
        found = round_trips_ns(*made.connect(), 60)
        assert 2.5 * MS <= statistics.stdev(found) <= 15 * MS
        assert 17 * MS <= statistics.median(found) <= 32 * MS


def test_jitter_is_the_same_for_the_same_seed() -> None:
    def delays(seed: int) -> list[int]:
        shaper = Shaper(Direction(delay_ns=20 * MS, jitter_ns=5 * MS), seed)
        booked = [shaper.carry(1, counted=True) for _ in range(5)]
        return [round((one.arrives_ns - one.leaves_ns) / 1e4) for one in booked]

    assert delays(3) == delays(3)
    assert delays(3) != delays(4)


def test_jitter_never_changes_the_order() -> None:
    numbers = [n.to_bytes(2, "big") for n in range(200)]
    with link(Direction(delay_ns=5 * MS, jitter_ns=20 * MS), FREE) as made:
        client, server = made.connect()
        for number in numbers:
            client.sendall(number)
            time.sleep(0.0005)  # a chunk of its own
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"".join(numbers)


def test_counters_leave_the_probe_out() -> None:
    with link() as made:
        client, server = made.connect()
        client.sendall(b"12345")
        assert server.recv(5) == b"12345"
        server.sendall(b"123")
        assert client.recv(3) == b"123"
        wanted = LinkCounters(up_bytes=6, down_bytes=3, connections=1)
        assert made.relay.counters() == wanted
        where = host_and_port(made.relay.address)
        measure(where, profile(*both(mbit(50))), 0.1)
        with ProbeClient(where) as probe:
            assert probe.counters() == wanted
        assert made.relay.counters() == wanted


def test_close_ends_connections_and_frees_the_port() -> None:
    with link(*both(Direction(delay_ns=MS))) as made:
        client, server = made.connect()
        made.relay.close()
        made.relay.close()
        assert ended(client)
        assert ended(server)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(host_and_port(made.relay.address), 5)
        Relay(profile(), made.relay.address, "127.0.0.1:1").close()


def test_close_while_bytes_are_under_way() -> None:
    with link(*both(mbit(2, delay_ns=50 * MS))) as made, ThreadPoolExecutor(2) as pool:
        client, server = made.connect()

        def flood(sock: socket.socket) -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    sock.sendall(bytes(50_000))

        floods = [pool.submit(flood, client), pool.submit(flood, server)]
        time.sleep(0.1)
        made.relay.close()
        for one in floods:
            one.result(timeout=5)


def test_close_ends_a_connection_that_said_nothing_yet() -> None:
    with link() as made:
        threads = threading.active_count()
        client = socket.create_connection(host_and_port(made.relay.address), 5)
        try:
            assert eventually(lambda: threading.active_count() > threads)
            made.relay.close()
            client.settimeout(1)
            assert ended(client)
        finally:
            client.close()
            time.sleep(0.1)  # let a relay that forgot it connect on, while there is a target


def test_listens_on_ipv6() -> None:
    with contextlib.ExitStack() as stack:
        try:
            target = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        port = target.getsockname()[1]
        relay = Relay(profile(), "[::1]:0", f"[::1]:{port}")
        stack.callback(relay.close)
        client = stack.enter_context(socket.create_connection(host_and_port(relay.address), 5))
        client.sendall(b"six")
        server = stack.enter_context(target.accept()[0])
        assert server.recv(3) == b"six"
