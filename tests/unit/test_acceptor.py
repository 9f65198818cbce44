"""What strangers can do to whoever listens: nothing that outlasts them."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from netem import acceptor, responder
from netem.acceptor import Acceptor
from netem.probe import ProbeClient
from netem.relay import Relay
from netem.responder import Responder
from splitbed.address import host_and_port
from splitbed.link import Direction, LinkProfile
from tests.unit.edges import Node, eventually
from tests.unit.relays import ended, nothing_left

LISTEN = ("--listen", "127.0.0.1:0")
SERVERS = {
    "relay": ("relay", "--target", "127.0.0.1:1", "--profile", "none", *LISTEN),
    "responder": ("responder", *LISTEN),
}
MAKE: dict[str, Callable[[], Relay | Responder]] = {
    "relay": lambda: Relay(
        LinkProfile("none", Direction(), Direction()), "127.0.0.1:0", "127.0.0.1:1"
    ),
    "responder": lambda: Responder("127.0.0.1:0"),
}
each = pytest.mark.parametrize("kind", SERVERS)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


def answers(where: tuple[str, int]) -> bool:
    with contextlib.suppress(Exception), ProbeClient(where) as client:
        return bool(client.facts())
    return False


@contextlib.contextmanager
def idle(where: tuple[str, int], count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(where, 5)) for _ in range(count)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prlimit is Linux's")
@each
def test_it_outlives_a_lack_of_files_and_does_not_spin(kind: str) -> None:
    with Node("-m", "netem", *SERVERS[kind]) as node:
        process, where = psutil.Process(node.process.pid), host_and_port(node.address)
        room = process.num_fds() + 4
        process.rlimit(psutil.RLIMIT_NOFILE, (room, room))
        with idle(where, 12):
            assert eventually(lambda: process.num_fds() >= room)
            before_s = sum(process.cpu_times()[:2])
            time.sleep(0.5)
            assert sum(process.cpu_times()[:2]) - before_s < 0.2
        assert eventually(lambda: answers(where))


def test_it_outlives_a_lack_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Responder("127.0.0.1:0")
    where = host_and_port(made.address)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with socket.create_connection(where, 5) as client:
            client.settimeout(5)
            assert ended(client)
    assert answers(where)
    made.close()


@each
def test_so_many_at_once_and_no_more(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "MOST_CONNECTIONS", 3)
    made = MAKE[kind]()
    where = host_and_port(made.address)
    with idle(where, 3), socket.create_connection(where, 5) as fourth:
        fourth.settimeout(5)
        assert ended(fourth)
        assert not answers(where)
    assert eventually(lambda: answers(where))  # there is room again
    made.close()


@pytest.mark.parametrize("said", [b"", b"\x01split"], ids=["nothing", "half"])
def test_a_responder_waits_so_long_for_the_first_words(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder, "FIRST_BYTES_TIMEOUT_S", 0.2)
    made = Responder("127.0.0.1:0")
    where = host_and_port(made.address)
    with socket.create_connection(where, 5) as client, ProbeClient(where) as probe:
        client.sendall(said)
        client.settimeout(5)
        assert ended(client)
        time.sleep(0.3)
        assert probe.facts().profile.name == "none"  # who has said who it is may take its time
    made.close()


def test_it_goes_on_until_it_is_closed() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    where = listener.getsockname()[:2]
    made = Acceptor(listener, lambda client: client.sendall(b"hello"))
    for _ in range(2):
        with socket.create_connection(where, 5) as client:
            assert client.recv(5) == b"hello"
    made.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where, 5)
