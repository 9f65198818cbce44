"""Where the answering side sends and receives its datagrams.

An exchange belongs to a TCP connection. The client is told a token there, and shows it in a
datagram from the address of that connection; only then anything is sent to it. So nobody is sent a
datagram who did not open a connection to us, and nothing that a stranger sends is counted. One
exchange goes on at a time: two at once would measure each other.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from netem.answering import ENDED, REQUEST, give, is_readable, receive
from netem.datagrams import (
    TOKEN_BYTES,
    DatagramPlan,
    collect,
    open_socket,
    send_end,
    send_paced,
    together,
)

_TURN_S: Final = 30.0
_GREETING_S: Final = 3.0
_WORD_S: Final = 10.0
_LOOK_UP_S: Final = 0.005


class DatagramOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the client is told."""

    port: int
    """0: others are being measured."""
    token: str
    """As hexadecimal digits."""


class DatagramPort:
    """The port beside a responder's, one exchange at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._turn = threading.Lock()

    def exchange(self, control: socket.socket, plan: DatagramPlan) -> None:
        """One exchange with the client at the other end of `control`.

        Raises EOFError where it breaks off, OSError where there is no socket to be had.
        """
        with self._turn_taken() as ours, self._opened(control) as sock:
            token = secrets.token_bytes(TOKEN_BYTES)
            port = sock.getsockname()[1] if ours else 0
            give(control, DatagramOffer(port, token.hex()))
            if not ours:
                return
            control.settimeout(_WORD_S)
            heard = _greeted(sock, control, token)
            give(control, {} if heard else None)
            if heard and plan.way == "up":
                give(control, collect(sock, token, plan, lambda wait_s: _ended(control, wait_s)))
            elif heard:
                give(control, send_paced(sock.send, token, plan, together(sock, plan)))
                send_end(sock.send, token, lambda wait_s: is_readable(control, wait_s))
            control.settimeout(None)

    @contextlib.contextmanager
    def _turn_taken(self) -> Iterator[bool]:
        ours = self._turn.acquire(timeout=_TURN_S)
        try:
            yield ours
        finally:
            if ours:
                self._turn.release()

    def _opened(self, control: socket.socket) -> socket.socket:
        """A socket at the address that the client knows, on our port where that is free."""
        host, _, *scope = control.getsockname()
        sock = open_socket(control.family)
        try:
            sock.bind((host, self._port, *scope))
        except OSError:
            sock.bind((host, 0, *scope))
        return sock


def _greeted(sock: socket.socket, control: socket.socket, token: bytes) -> bool:
    """Wait for the token from the client's address; False if it does not come.

    From then on the socket hears and speaks to nobody else.
    """
    host = control.getpeername()[0]
    end = time.monotonic() + _GREETING_S
    while time.monotonic() < end:
        try:
            data, where = sock.recvfrom(TOKEN_BYTES + 1)
        except BlockingIOError:
            if is_readable(control, _LOOK_UP_S):
                raise EOFError("the client broke off") from None
            continue
        if data == token and where[0] == host:
            sock.connect(where)
            return True
    return False


def _ended(control: socket.socket, wait_s: float) -> bool:
    """Whether the client says, within so long, that it has sent all its datagrams."""
    if not is_readable(control, wait_s):
        return False
    if REQUEST.unpack(receive(control, REQUEST.size))[0] != ENDED:
        raise EOFError("the client broke off")
    return True
