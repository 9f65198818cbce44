"""Requests to the kernel's traffic control, over one rtnetlink socket.

pyroute2 makes interfaces, addresses and filters here, and lists what is there. Queueing disciplines
are set by this module: their options need attributes that pyroute2 does not write (distribution
tables, Gilbert-Elliott loss, 64-bit rates, size tables), and a trace needs changes that take
microseconds. Formats: linux/rtnetlink.h, linux/pkt_sched.h.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

_HEADER: Final = struct.Struct("=IHHII")
_MESSAGE: Final = struct.Struct("=BxxxiIII")
_ATTRIBUTE: Final = struct.Struct("=HH")

_NLMSG_ERROR: Final = 2
_RTM_NEWQDISC: Final = 36
_RTM_DELQDISC: Final = 37
_REQUEST_ACK: Final = 0x1 | 0x4
_REPLACE_CREATE: Final = 0x100 | 0x400
_ACK_HAS_ATTRIBUTES: Final = 0x200
_ACK_CAPPED: Final = 0x100
_ERROR_TEXT: Final = 1

_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_ANSWER_BYTES: Final = 65536

ROOT: Final = 0xFFFFFFFF
"""Parent of the queueing discipline through which an interface sends."""


def attribute(number: int, data: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    size = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(size, number) + data + bytes(-size % 4)


class TrafficControl:
    """A socket to the network namespace in which it is made.

    What the kernel refuses raises OSError, with the kernel's own words as its text.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> TrafficControl:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def replace(
        self, index: int, parent: int, handle: int, kind: str, options: bytes, sizes: bytes = b""
    ) -> None:
        """Put a queueing discipline in its place; one of the same handle there is changed.

        `sizes` is a size table (TCA_STAB). A change without it would take the old one away.
        """
        body = attribute(1, kind.encode() + b"\0") + attribute(2, options)
        if sizes:
            body += attribute(8, sizes)
        self._request(_RTM_NEWQDISC, _REPLACE_CREATE, index, parent, handle, body)

    def delete(self, index: int, parent: int) -> None:
        """Take a queueing discipline away, with all below it."""
        self._request(_RTM_DELQDISC, 0, index, parent, 0, b"")

    def _request(
        self, kind: int, flags: int, index: int, parent: int, handle: int, body: bytes
    ) -> None:
        self._sequence += 1
        message = _MESSAGE.pack(socket.AF_UNSPEC, index, handle, parent, 0) + body
        size = _HEADER.size + len(message)
        head = _HEADER.pack(size, kind, _REQUEST_ACK | flags, self._sequence, 0)
        self._socket.send(head + message)
        while True:
            answer = self._socket.recv(_ANSWER_BYTES)
            size, kind, flags, sequence, _ = _HEADER.unpack_from(answer)
            if kind == _NLMSG_ERROR and sequence == self._sequence:
                break
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if code:
            raise OSError(code, _words(answer[:size], flags) or os.strerror(code))


def _words(answer: bytes, flags: int) -> str:
    """The sentence that a newer kernel adds to its refusal."""
    if not flags & _ACK_HAS_ATTRIBUTES:
        return ""
    at = _HEADER.size + 4  # the error code, then the header of the request that failed
    length: int = struct.unpack_from("=I", answer, at)[0]
    at += _HEADER.size if flags & _ACK_CAPPED else length
    while at + _ATTRIBUTE.size <= len(answer):
        size, number = _ATTRIBUTE.unpack_from(answer, at)
        if number == _ERROR_TEXT:
            return answer[at + _ATTRIBUTE.size : at + size].rstrip(b"\0").decode(errors="replace")
        at += max(size + (-size % 4), _ATTRIBUTE.size)
    return ""
