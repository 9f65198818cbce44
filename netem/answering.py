"""The probe's wire format, and its answering side.

Over one TCP connection the client sends MAGIC, then requests of one letter and a 64-bit big-endian
number.

    P n   ping: the nine bytes come back at once
    U n   upload: n bytes follow; answer: two numbers, bytes and nanoseconds, from the end of the
          first read to the end of the last, by the receiver's clock
    D n   download: n bytes come back
    C 0   counters: three numbers, payload bytes up, down, connections
    F 0   facts: a number, and as many bytes of JSON (splitbed.link.LinkFacts)
    R n   replay the link's trace from its beginning (n = 1), or stop it (n = 0); answer as for F
          (splitbed.link.Replay), of no bytes where there is no trace, or none was going on
    J 0   join the link's users: what is said from then on stands in netem.users

Durations are taken by one clock each; no two machines' clocks are subtracted.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Final, Protocol

import msgspec

from splitbed.link import LinkCounters, LinkFacts, Replay

MAGIC: Final = b"\x01splitbed-probe1"
"""Begins with a byte that begins neither HTTP/2 nor TLS."""

REQUEST: Final = struct.Struct("!cQ")
NUMBER: Final = struct.Struct("!Q")
LARGEST_BYTES: Final = 1 << 30
_READ_BYTES: Final = 1 << 20
_BLOCK: Final = bytes(64 * 1024)


class Served(Protocol):
    """The link on whose behalf the probe is answered."""

    def counters(self) -> LinkCounters:
        """What passed so far."""

    def facts(self) -> LinkFacts:
        """What it is."""

    def replay(self, begin: bool) -> Replay | None:
        """Begin its trace (anew), or end it; what came of the one that was going on."""


class Register(Protocol):
    """The users of a link (netem.users)."""

    def attend(self, sock: socket.socket) -> None:
        """Serve a connection that joins them, until it leaves."""


def respond(sock: socket.socket, link: Served, users: Register) -> None:
    """Answer one client until it goes away."""
    with sock, contextlib.suppress(OSError, EOFError):
        if receive(sock, len(MAGIC)) != MAGIC:
            return
        while True:
            kind, number = REQUEST.unpack(receive(sock, REQUEST.size))
            if number > LARGEST_BYTES:
                return
            if kind == b"P":
                sock.sendall(REQUEST.pack(kind, number))
            elif kind == b"U":
                timed_bytes, timed_ns = drain(sock, number)
                sock.sendall(NUMBER.pack(timed_bytes) + NUMBER.pack(timed_ns))
            elif kind == b"D":
                pour(sock, number)
            elif kind == b"C":
                found = link.counters()
                for value in (found.up_bytes, found.down_bytes, found.connections):
                    sock.sendall(NUMBER.pack(value))
            elif kind == b"F":
                _give(sock, msgspec.json.encode(link.facts()))
            elif kind == b"R" and number in (0, 1):
                replay = link.replay(bool(number))
                _give(sock, b"" if replay is None else msgspec.json.encode(replay))
            elif kind == b"J" and number == 0:
                users.attend(sock)
                return
            else:
                return


def _give(sock: socket.socket, answer: bytes) -> None:
    sock.sendall(NUMBER.pack(len(answer)) + answer)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises EOFError where the other end closes before."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError("connection closed")
        data += more
    return data


def drain(sock: socket.socket, size: int) -> tuple[int, int]:
    """Read `size` bytes; how many came after the first read, and in how many nanoseconds.

    What the first read took arrived over an unknown time, so the clock starts when it ends.
    """
    buffer = memoryview(bytearray(min(_READ_BYTES, max(1, size))))
    left, first, start_ns = size, -1, 0
    while left:
        got = sock.recv_into(buffer, min(left, len(buffer)))
        if not got:
            raise EOFError("connection closed")
        if first < 0:
            first, start_ns = got, time.perf_counter_ns()
        left -= got
    return size - max(0, first), time.perf_counter_ns() - start_ns


def pour(sock: socket.socket, size: int) -> None:
    """Send `size` bytes of zeros."""
    while size > 0:
        sock.sendall(_BLOCK[: min(size, len(_BLOCK))])
        size -= len(_BLOCK)
