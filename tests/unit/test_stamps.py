"""How long a host had what its process reads."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator

import pytest

from netem.stamps import receive_stamped, since, stamp

MS = 1_000_000
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as one,
    ):
        other, _ = listener.accept()
        with other:
            stamp(other, True)
            time.sleep(0.02)  # by then the kernel stamps what comes
            yield one, other


@pytest.mark.skipif(sys.platform != "linux", reason="Linux stamps packets")
def test_what_lies_waiting_is_the_hosts_time(pair: Pair) -> None:
    one, other = pair
    one.sendall(b"abc")
    time.sleep(0.05)
    data, stamp_ns = receive_stamped(other, 3)
    assert data == b"abc"
    assert 50 * MS <= since(stamp_ns) < 2000 * MS


def test_without_stamps_nothing_is_known(pair: Pair) -> None:
    one, other = pair
    stamp(other, False)
    one.sendall(b"abc")
    assert receive_stamped(other, 3) == (b"abc", 0)
    assert since(0) == 0


def test_the_last_byte_counts(pair: Pair) -> None:
    one, other = pair
    one.sendall(b"ab")
    time.sleep(0.05)
    one.sendall(b"cd")
    assert other.recv(1) == b"a"
    data, stamp_ns = receive_stamped(other, 3)
    assert data == b"bcd"
    assert since(stamp_ns) < 40 * MS


def test_the_end_of_a_stream(pair: Pair) -> None:
    one, other = pair
    one.sendall(b"ab")
    one.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        receive_stamped(other, 3)


def test_where_no_socket_stamps() -> None:
    one, other = socket.socketpair()
    with one, other:
        stamp(other, True)
        one.sendall(b"abc")
        assert receive_stamped(other, 3) == (b"abc", 0)


def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    assert since(10) == 0
