"""Our own datagrams: paced by the clock on one side, counted on the other.

A datagram is the exchange's token of sixteen bytes, a 64-bit big-endian number from 0 up, and zeros
to the length that was agreed. A greeting is the token alone; the end is the token and the largest
number alone. Whatever else arrives at the port counts for nothing.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from netem.stamps import NOTE_BYTES, noted_ns, stamp
from splitbed.link import Way

TOKEN_BYTES: Final = 16
LARGEST_PAYLOAD: Final = 1472
"""Of a datagram in an IPv4 packet of 1500 bytes."""

MOST_TOGETHER: Final = 44
"""Of the largest, in one segment of 64 kB."""

LONGEST_NS: Final = 30_000_000_000
"""Of one exchange, as planned."""

_HEAD: Final = struct.Struct("!16sQ")
_BUFFER_BYTES: Final = 16 << 20
_KEPT_BYTES: Final = 4096
"""What a datagram takes of the buffer, at most."""
_GRACE_NS: Final = 10_000_000_000
"""What a receiver waits beyond twice the plan's time; a tenth of it for a sender."""
_END_NUMBER: Final = (1 << 64) - 1
_END_EVERY_S: Final = 0.05
_ENDS: Final = 60
_WINDOW_NS: Final = 10_000_000
_FEWEST_IN_WINDOW: Final = 8
_LOOK_UP_S: Final = 0.005
_LONGEST_LOOK_UP_S: Final = 0.4
_CHECK_EVERY: Final = 64
_FORCE: Final = {"SO_RCVBUF": 33, "SO_SNDBUF": 32}
"""SO_RCVBUFFORCE and SO_SNDBUFFORCE of Linux."""
_UDP_SEGMENT: Final = 103
_CANNOT_CUT: Final = (errno.EIO, errno.EINVAL, errno.EMSGSIZE)
_SO_MEMINFO: Final = 55
_DROPS_AT: Final = 8


class DatagramPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One exchange, as the client asks for it."""

    way: Way
    count: Annotated[int, Meta(ge=1, le=1_000_000)]
    payload_bytes: Annotated[int, Meta(ge=_HEAD.size, le=LARGEST_PAYLOAD)]
    gap_ns: Annotated[float, Meta(ge=500, le=LONGEST_NS)]
    """From one datagram to the next."""
    burst_ns: Annotated[int, Meta(ge=500_000, le=100_000_000)]
    """The sender sends what is due every so long."""
    late_ns: Annotated[int, Meta(ge=500_000, le=1_000_000_000)]
    """How much a sender that was held up makes up for at once; beyond that its schedule moves."""
    lead_ns: Annotated[int, Meta(ge=0, le=LONGEST_NS)]
    """What arrives in this time after the first one is not timed: a queue has to fill first."""
    quiet_ns: Annotated[int, Meta(ge=0, le=5_000_000_000)]
    """After the last one was sent, the receiver waits until nothing came for so long."""
    together: Annotated[int, Meta(ge=1, le=MOST_TOGETHER)] = 1
    """How many the sender may hand to its kernel at once, which then cuts them apart.

    It saves a sender most of its time. But a queue that is not ours may lose all of them as one.
    """

    def __post_init__(self) -> None:
        if self.count * self.gap_ns > LONGEST_NS:
            raise ValueError("an exchange of datagrams lasts at most half a minute")


class Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the sender did."""

    count: int
    took_ns: int
    """From the first to the last."""
    held_up_ns: int
    """Most by which a datagram was late."""

    def bps(self, bits: int) -> float:
        """Bits per second, of packets of so many bits."""
        return (self.count - 1) * bits * 1e9 / max(1, self.took_ns)


class Arrived(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the receiver saw."""

    distinct: int
    duplicated: int
    reordered: int
    """After one with a higher number."""
    overflowed: int
    """Dropped because this socket's buffer was full (or its checksum wrong)."""
    window: int
    """Arrivals in a window, all of them; windows follow each other once the lead is over."""
    window_ns: int
    """How long a window took: the median. 0: there was none."""

    def bps(self, bits: int) -> float:
        """Bits per second of the median window, of packets of so many bits.

        Where the machine stands still for a moment, so does the link that it makes; the median is
        what the link carries as long as it goes.
        """
        return self.window * bits * 1e9 / self.window_ns if self.window_ns else 0.0


def open_socket(family: int) -> socket.socket:
    """A socket for datagrams that never blocks, with buffers as large as the system allows."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    for name, forced in _FORCE.items():
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
        except OSError:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), _BUFFER_BYTES)
    stamp(sock, True)
    sock.setblocking(False)
    return sock


def packet_bytes(sock: socket.socket, payload_bytes: int) -> int:
    """Size of the IP packet around a datagram: 8 bytes UDP, 20 bytes IPv4 or 40 bytes IPv6."""
    return payload_bytes + (48 if sock.family == socket.AF_INET6 else 28)


def together(sock: socket.socket, plan: DatagramPlan) -> int:
    """How many of a plan's datagrams this socket takes at once (Linux 4.18: UDP_SEGMENT)."""
    if plan.together > 1:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, plan.payload_bytes)
        except OSError:
            return 1
    return plan.together


def send_paced(
    send: Callable[[memoryview], object], token: bytes, plan: DatagramPlan, at_once: int = 1
) -> Sent:
    """Send as planned, by the clock, up to so many `at_once`.

    Ends early where the system takes datagrams more slowly than twice the plan's time.
    """
    packets = memoryview(bytearray(at_once * plan.payload_bytes))
    start_ns = last_ns = now_ns = time.perf_counter_ns()
    end_ns = start_ns + int(2 * plan.count * plan.gap_ns) + _GRACE_NS // 10
    due_ns, held_up_ns, sent = float(start_ns), 0.0, 0
    while now_ns < end_ns:
        held_up_ns = max(held_up_ns, now_ns - due_ns)
        due_ns = max(due_ns, now_ns - plan.late_ns)
        ready = min(plan.count - sent, 1 + int((now_ns - due_ns) // plan.gap_ns))
        while ready > 0:
            group = min(ready, at_once)
            for place in range(group):
                _HEAD.pack_into(packets, place * plan.payload_bytes, token, sent + place)
            taken = _taken(send, packets[: group * plan.payload_bytes])
            if taken is None:  # a device that cannot: one by one from here on
                at_once = 1
                continue
            if not taken:
                break
            sent, ready, last_ns = sent + group, ready - group, now_ns
            due_ns += group * plan.gap_ns
        if sent == plan.count:
            break
        time.sleep(max(plan.burst_ns, due_ns - time.perf_counter_ns()) / 1e9)
        now_ns = time.perf_counter_ns()
    return Sent(sent, last_ns - start_ns, int(held_up_ns))


def send_end(
    send: Callable[[bytes], object], token: bytes, is_heard: Callable[[float], bool]
) -> None:
    """Say that this was all, again and again until it is heard, or three seconds are over.

    It is said over TCP as well. But where losses come in bursts, which last for so many packets, a
    connection on which nothing else is going on may wait long for its turn to get through.
    """
    for _ in range(_ENDS):
        with contextlib.suppress(BlockingIOError, ConnectionError):
            send(_HEAD.pack(token, _END_NUMBER))
        if is_heard(_END_EVERY_S):
            return


def _taken(send: Callable[[memoryview], object], packets: memoryview) -> bool | None:
    """Whether the system took them: not while its buffer is full; None: never so many at once."""
    try:
        send(packets)
    except BlockingIOError:
        return False
    except ConnectionError:
        # An answer to an earlier one, that nobody listens there. The counts will tell.
        pass
    except OSError as error:
        if len(packets) > LARGEST_PAYLOAD and error.errno in _CANNOT_CUT:
            return None
        raise
    return True


def collect(
    sock: socket.socket, token: bytes, plan: DatagramPlan, ended: Callable[[float], bool]
) -> Arrived:
    """Count this exchange's datagrams until the sender has ended and nothing more comes.

    `ended` waits so many seconds at most for the sender's word. When a datagram arrived is told by
    the kernel: how late it is read does not matter. So what the buffer holds is left there, because
    reading takes time that a sender on the same processor needs.
    """
    held = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _KEPT_BYTES
    patience_s = min(_LONGEST_LOOK_UP_S, 0.8 * held * plan.gap_ns / 1e9)
    seen, buffer = bytearray(plan.count), bytearray(LARGEST_PAYLOAD + 1)
    window = max(_FEWEST_IN_WINDOW, round(_WINDOW_NS / plan.gap_ns))
    distinct = duplicated = reordered = timed = unchecked = 0
    highest = -1
    lead_ends_ns = ended_ns = 0
    marks: list[int] = []
    drops = _drops(sock)
    last_ns = now_ns = time.perf_counter_ns()
    give_up_ns = now_ns + int(2 * plan.count * plan.gap_ns) + _GRACE_NS
    while now_ns < give_up_ns:
        try:
            size, notes, _, _ = sock.recvmsg_into([buffer], NOTE_BYTES)
            unchecked += 1
        except (BlockingIOError, ConnectionError):
            size, unchecked = 0, _CHECK_EVERY
        if unchecked == _CHECK_EVERY:
            # Also where datagrams, or a stranger's, come without a pause.
            if ended_ns:
                time.sleep(0 if size else _LOOK_UP_S)
            elif ended(0 if size else patience_s):
                ended_ns = time.perf_counter_ns()
            now_ns, unchecked = time.perf_counter_ns(), 0
            if ended_ns and not size and now_ns - max(last_ns, ended_ns) > plan.quiet_ns:
                break
        its_token, number = _HEAD.unpack_from(buffer)
        if size == _HEAD.size and its_token == token and number == _END_NUMBER:
            ended_ns = ended_ns or now_ns
        if size != plan.payload_bytes or its_token != token or number >= plan.count:
            continue
        last_ns = now_ns
        if seen[number]:
            duplicated += 1
        else:
            seen[number] = 1
            distinct += 1
            reordered += number < highest
            highest = max(highest, number)
        arrived_ns = noted_ns(notes) or time.time_ns()
        lead_ends_ns = lead_ends_ns or arrived_ns + plan.lead_ns
        if arrived_ns >= lead_ends_ns:
            if timed % window == 0:
                marks.append(arrived_ns)
            timed += 1
    spans = [later - earlier for earlier, later in pairwise(marks)]
    overflowed = _drops(sock) - drops
    median_ns = round(median(spans)) if spans else 0
    return Arrived(distinct, duplicated, reordered, overflowed, window, median_ns)


def _drops(sock: socket.socket) -> int:
    """Datagrams that this socket dropped since it was made; 0 where the system does not tell."""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    except OSError:
        return 0
    words = struct.unpack(f"={len(found) // 4}I", found)
    return words[_DROPS_AT] if len(words) > _DROPS_AT else 0
