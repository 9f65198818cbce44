"""The asking side of an exchange of datagrams (the other one: netem.datagram_port)."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Final

import msgspec

from netem.answering import ENDED, REQUEST, is_readable
from netem.datagram_port import DatagramOffer
from netem.datagrams import (
    LARGEST_PAYLOAD,
    Arrived,
    DatagramPlan,
    Sent,
    collect,
    open_socket,
    packet_bytes,
    send_end,
    send_paced,
    together,
)

_GREETING_EVERY_S: Final = 0.05
_GREETING_S: Final = 10.0
_IP_MTU: Final = {socket.AF_INET: (socket.IPPROTO_IP, 14), socket.AF_INET6: (41, 24)}
"""Linux: the largest packet that is known to reach where a socket is connected to."""


class Exchange(msgspec.Struct, frozen=True):
    """Both sides of it."""

    sent: Sent
    arrived: Arrived


def exchange(
    control: socket.socket, plan: DatagramPlan, answer: Callable[[], bytes]
) -> Exchange | str:
    """Send or receive as planned, once it was asked for on `control`; why it cannot be, if so.

    `answer` reads the next answer from there.
    """
    text = answer()
    if not text:
        return "the link carries no datagrams"
    offer = msgspec.json.decode(text, type=DatagramOffer)
    if not offer.port:
        return "the other end is busy with others' measurements"
    token = bytes.fromhex(offer.token)
    host, _, *scope = control.getpeername()
    with open_socket(control.family) as sock:
        sock.connect((host, offer.port, *scope))
        _greet(sock, control, token)
        if not answer():
            return f"no datagram reaches port {offer.port} there by UDP"
        if plan.way == "up":
            sent = send_paced(sock.send, token, plan, together(sock, plan))
            control.sendall(REQUEST.pack(ENDED, 0))
            send_end(sock.send, token, lambda wait_s: is_readable(control, wait_s))
            return Exchange(sent, msgspec.json.decode(answer(), type=Arrived))
        arrived = collect(sock, token, plan, lambda wait_s: is_readable(control, wait_s))
        return Exchange(msgspec.json.decode(answer(), type=Sent), arrived)


def largest_payload(control: socket.socket) -> tuple[int, int]:
    """Bytes of a datagram that fills a packet to the other end, and of that packet.

    A packet of 1500 bytes, or less where the path is known to carry less.
    """
    with socket.socket(control.family, socket.SOCK_DGRAM) as sock:
        header = packet_bytes(sock, 0)
        size = LARGEST_PAYLOAD + 28
        with contextlib.suppress(OSError, KeyError):
            sock.connect(control.getpeername())
            size = min(size, sock.getsockopt(*_IP_MTU[control.family]))
    return size - header, size


def _greet(sock: socket.socket, control: socket.socket, token: bytes) -> None:
    """Show the token until the other end has something to say."""
    end = time.monotonic() + _GREETING_S
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock.send(token)
        if is_readable(control, _GREETING_EVERY_S):
            return
