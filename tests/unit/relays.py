"""A relay between a test's own two ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import psutil

from netem.relay import Relay
from splitbed.address import host_and_port
from splitbed.link import Direction, LinkProfile, Trace
from tests.unit.edges import eventually

FREE = Direction()
MS = 1_000_000


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """No test of the relay may leave a thread or an open file behind."""
    threads, files = set(threading.enumerate()), psutil.Process().num_fds()
    yield
    assert eventually(lambda: set(threading.enumerate()) <= threads), threading.enumerate()
    assert eventually(lambda: psutil.Process().num_fds() <= files)


def profile(up: Direction = FREE, down: Direction = FREE) -> LinkProfile:
    return LinkProfile("test", up, down)


def mbit(rate: float, delay_ns: int = 0, jitter_ns: int = 0) -> Direction:
    return Direction(int(rate * 1e6), delay_ns, jitter_ns)


def both(direction: Direction) -> tuple[Direction, Direction]:
    return direction, direction


class Link:
    """A relay between the test's own two ends."""

    def __init__(self, up: Direction, down: Direction, trace: Trace | None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(5)
        port = self._listener.getsockname()[1]
        where = "127.0.0.1:0", f"127.0.0.1:{port}"
        self.relay = Relay(profile(up, down), *where, seed=1, trace=trace)
        self._ends: list[socket.socket] = []

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """One connection: the device's end and the edge's."""
        client = socket.create_connection(host_and_port(self.relay.address), 5)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(10)
        client.sendall(b"!")  # a relay that knows nothing of a connection does not connect on
        server, _ = self._listener.accept()
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.settimeout(10)
        assert server.recv(1) == b"!"
        self._ends += [client, server]
        return client, server

    def close(self) -> None:
        self.relay.close()
        self._listener.close()
        for end in self._ends:
            end.close()


@contextlib.contextmanager
def link(
    up: Direction = FREE, down: Direction = FREE, trace: Trace | None = None
) -> Iterator[Link]:
    made = Link(up, down, trace)
    try:
        yield made
    finally:
        made.close()


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other end shuts its direction."""
    data = bytearray()
    while more := sock.recv(1 << 20):
        data += more
    return bytes(data)


def ended(sock: socket.socket) -> bool:
    """Whether the connection is over; what was under way is read away."""
    with contextlib.suppress(ConnectionError):
        while sock.recv(1 << 20):
            pass
    return True
