"""The probe's wire format, and its answering side.

Over one TCP connection the client sends MAGIC, then requests of one letter and a 64-bit big-endian
number.

    P n   ping: nine bytes come back at once, P and for how many nanoseconds this host had the
          ping before (0: not known)
    U n   upload: n bytes of JSON follow (netem.transfer.TransferPlan), then the bytes to be timed,
          up to the end of the client's stream; answer as for F (netem.transfer.Transfer), and the
          connection is over
    D n   download: n bytes of JSON follow, as for U; the bytes to be timed come back, and the
          connection is over
    B 0   buffers: two numbers, the largest receive and send buffer of this host's TCP in bytes
    S n   datagrams: n bytes of JSON follow (netem.datagrams.DatagramPlan); answers as for F, the
          first of no bytes where this link carries none:
          an offer (netem.datagram_port.DatagramOffer); the client then sends its token from a UDP
          socket to the port offered, again and again until it hears that
          the greeting was heard: {}, or no bytes where none arrived and the exchange is over;
          then up: datagrams, their end, the answer (Arrived)
          or down: datagrams, what was sent (Sent), the end of the datagrams
    E 0   the datagrams have ended; not answered, because they say so themselves as well, and may be
          earlier
    C 0   counters: three numbers, bytes up, down, connections (splitbed.link.LinkCounters)
    F 0   facts: a number, and as many bytes of JSON (splitbed.link.LinkFacts)
    R n   replay the link's trace from its beginning (n = 1), or stop it (n = 0); answer as for F
          (splitbed.link.Replay), of no bytes where there is no trace, or none was going on
    J 0   join the link's users: what is said from then on stands in netem.users

Durations are taken by one clock each; no two machines' clocks are subtracted.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import Final, Protocol, TypeVar

import msgspec

from netem.datagrams import DatagramPlan
from netem.stamps import receive_stamped, since, stamp
from netem.transfer import TransferPlan, drain, largest_buffers, pour
from splitbed.link import LinkCounters, LinkFacts, Replay

MAGIC: Final = b"\x01splitbed-probe1"
"""Begins with a byte that begins neither HTTP/2 nor TLS."""

REQUEST: Final = struct.Struct("!cQ")
NUMBER: Final = struct.Struct("!Q")
LARGEST_NUMBER: Final = 1 << 30
LARGEST_PLAN_BYTES: Final = 4096
ENDED: Final = b"E"
FIRST_BYTES_TIMEOUT_S: Final = 10.0
"""Longest wait for what a new connection has to say."""

_TCP_THIN_LINEAR_TIMEOUTS: Final = 16
_T = TypeVar("_T")


class Served(Protocol):
    """The link on whose behalf the probe is answered."""

    def counters(self) -> LinkCounters:
        """What passed so far."""

    def facts(self) -> LinkFacts:
        """What it is."""

    def replay(self, begin: bool) -> Replay | None:
        """Begin its trace (anew), or end it; what came of the one that was going on."""


class Datagrams(Protocol):
    """What can send and count datagrams (netem.datagram_port)."""

    def exchange(self, control: socket.socket, plan: DatagramPlan) -> None:
        """One exchange with the client of this connection."""


class Register(Protocol):
    """The users of a link (netem.users)."""

    def attend(self, sock: socket.socket) -> None:
        """Serve a connection that joins them, until it leaves."""


def respond(
    sock: socket.socket,
    link: Served,
    users: Register,
    datagrams: Datagrams | None = None,
    patience_s: float | None = None,
) -> None:
    """Answer one client until it goes away, or says nothing of a probe within `patience_s`."""
    with sock, contextlib.suppress(OSError, EOFError, msgspec.MsgspecError):
        hurry(sock)
        sock.settimeout(patience_s)
        if receive(sock, len(MAGIC)) != MAGIC:
            return
        sock.settimeout(None)
        is_stamped = False
        while True:
            request, stamp_ns = receive_stamped(sock, REQUEST.size)
            kind, number = REQUEST.unpack(request)
            if number > LARGEST_NUMBER:
                return
            if is_stamped != (kind == b"P"):  # a cost on every packet, so for pings alone
                is_stamped = not is_stamped
                stamp(sock, is_stamped)
            if kind == b"P":
                sock.sendall(REQUEST.pack(kind, since(stamp_ns)))
            elif kind == b"U":
                give(sock, drain(sock, _plan(sock, number, TransferPlan)))
                return
            elif kind == b"D":
                pour(sock, _plan(sock, number, TransferPlan))
                return
            elif kind == b"B":
                for size in largest_buffers():
                    sock.sendall(NUMBER.pack(size))
            elif kind == b"S":
                plan = _plan(sock, number, DatagramPlan)
                if datagrams is None:
                    give(sock, None)
                else:
                    datagrams.exchange(sock, plan)
            elif kind == ENDED:
                continue
            elif kind == b"C":
                found = link.counters()
                for value in (found.up_bytes, found.down_bytes, found.connections):
                    sock.sendall(NUMBER.pack(value))
            elif kind == b"F":
                give(sock, link.facts())
            elif kind == b"R" and number in (0, 1):
                give(sock, link.replay(bool(number)))
            elif kind == b"J" and number == 0:
                users.attend(sock)
                return
            else:
                return


def give(sock: socket.socket, answer: object) -> None:
    """Answer with a number and as many bytes of JSON; of no bytes where there is nothing to say."""
    data = b"" if answer is None else msgspec.json.encode(answer)
    sock.sendall(NUMBER.pack(len(data)) + data)


def is_readable(sock: socket.socket, wait_s: float) -> bool:
    """Whether the other end says something, or leaves, within so long."""
    return bool(select.select([sock], [], [], wait_s)[0])


def _plan(sock: socket.socket, size: int, kind: type[_T]) -> _T:
    """What the client asks for; EOFError for more than anybody asks, MsgspecError for nonsense."""
    if size > LARGEST_PLAN_BYTES:
        raise EOFError("too long")
    return msgspec.json.decode(receive(sock, size), type=kind)


def hurry(sock: socket.socket) -> None:
    """Let requests and answers be sent at once, and be repeated soon where they are lost.

    Where losses come in bursts, which last for so many packets, a connection with one packet under
    way would wait twice as long each time for its next chance.
    """
    with contextlib.suppress(OSError):  # no TCP: behind the relay
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_THIN_LINEAR_TIMEOUTS, 1)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises EOFError where the other end closes before."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError("connection closed")
        data += more
    return data
