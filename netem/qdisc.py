"""One direction of a link as queueing disciplines of the kernel.

    tbf 5b1c:       no rate to speak of; cuts segments into packets
      tbf 5b1d:     the rate, applied as packets leave, so that a change acts on what is queued
        netem 5b1e: delay, jitter, loss and the rest, and the queue itself

Linux hands segments of up to 64 kB to the queues, whatever an interface's offloads are, and a
sender's segments arrive whole over a virtual wire. Loss and queue would take each for one packet.
Holding senders to single packets (`gso_max_segs`) does it too, but only for senders on this host.

netem has a rate of its own, which spaces packets by their departure at the time they come: a change
would not act before the queue of the old rate is empty. At 100 ms of queue, a trace that falls from
50 to 1 Mbit/s carried 7.7 Mbit in the second after; a token bucket carries 1.

A rate counts IP bytes. The kernel counts link headers as well, and takes them off by a size table
at the root only, which packets out of a segment have not seen. So the rate is given for full
packets with their header, and the table makes every whole packet as much larger as a header makes a
full one. The last packet of a segment, usually not full, counts up to 14 bytes too much.

Formats: linux/pkt_sched.h.
"""

from __future__ import annotations

import contextlib
import math
import socket
from typing import Final

import msgspec

from netem import qdisc_options
from netem.tc import ROOT, TrafficControl
from splitbed.errors import LinkError
from splitbed.link import Direction

CUTTER: Final = 0x5B1C0000
BUCKET: Final = 0x5B1D0000
NETEM: Final = 0x5B1E0000
HANDLES: Final = frozenset({CUTTER, BUCKET, NETEM})
"""Handles by which our own queueing disciplines are known."""

PACKET_BYTES: Final = 1500
ETHERNET_BYTES: Final = 14
_UNLIMITED_BPS: Final = 400_000_000_000
ASSUMED_BPS: Final = 10_000_000_000
"""Rate for which a queue is sized where none is asked for."""
_LEAST_BPS: Final = 8
_LEAST_WAITING: Final = 50
_BURST_NS: Final = 1_000_000
_LARGEST_LIMIT: Final = 2_000_000_000
_LARGEST_BURST: Final = 16 << 20
_WAKING_FRAME: Final = bytes(12) + b"\x88\xb5" + bytes(46)


class Port(msgspec.Struct, frozen=True):
    """An interface through which one direction of a link is sent."""

    name: str
    index: int
    mtu_bytes: int = PACKET_BYTES
    header_bytes: int = ETHERNET_BYTES
    """What the kernel counts of a packet before its IP header."""

    @property
    def framed_bytes(self) -> int:
        """A full packet with its header."""
        return self.mtu_bytes + self.header_bytes


def queue_packets(direction: Direction, rtt_ns: int) -> int:
    """Length of netem's queue, in packets of 1500 bytes.

    It holds what travels and what waits for the rate:

        travelling = rate x (delay + 3 jitter) / 12000 bits
        waiting    = rate x (queue_ns, or the round trip) / 12000 bits, at least 50 packets

    One bandwidth-delay product of waiting room keeps a single TCP flow at the full rate when it
    halves its window (Villamizar and Song, "High performance TCP in ANSNET", 1994), and no more
    than a round trip of delay is added when it is full. netem's own default of 1000 packets drops
    at 1 Gbit/s and 10 ms already, and is 12 s of queue at 1 Mbit/s.
    """
    packet_bits = 8 * PACKET_BYTES
    rate_bps = direction.rate_bps or ASSUMED_BPS
    travelling = rate_bps * (direction.delay_ns + 3 * direction.jitter_ns) / 1e9 / packet_bits
    waiting = waiting_packets(rate_bps, direction.queue_ns, rtt_ns)
    return min(math.ceil(travelling + waiting), _LARGEST_LIMIT)


def waiting_packets(rate_bps: int, queue_ns: int | None, rtt_ns: int) -> float:
    """The part of `queue_packets` that waits for the rate."""
    if queue_ns is not None:
        return max(1.0, rate_bps * queue_ns / 1e9 / 8 / PACKET_BYTES)
    return max(_LEAST_WAITING, rate_bps * rtt_ns / 1e9 / 8 / PACKET_BYTES)


def burst_bytes(rate_bps: int, mtu_bytes: int) -> int:
    """Size of the token bucket: one packet with its header, and a millisecond of the rate.

    A timer that fires late by less than that loses no capacity.
    """
    burst = mtu_bytes + ETHERNET_BYTES + int(rate_bps / 8 * _BURST_NS / 1e9)
    return min(burst, _LARGEST_BURST)


def granted_bits(rate_bps: int) -> float:
    """What a change to this rate lets through at once, where packets wait.

    The kernel fills the bucket whenever it is changed; half a packet was in it, on average.
    """
    return 8 * (burst_bytes(rate_bps, PACKET_BYTES) - PACKET_BYTES / 2)


class Queue:
    """One direction on one port; in a socket of the port's network namespace."""

    def __init__(
        self, control: TrafficControl, port: Port, seed: int = 0, is_new: bool = True
    ) -> None:
        self._control, self._port, self._seed = control, port, seed
        self._rate_bps = _UNLIMITED_BPS if is_new else 0
        """What the bucket has now; 0: not known."""
        self._is_there = False

    def put(self, direction: Direction, limit: int) -> None:
        """Install the direction, or change it there without losing what is queued.

        `limit` is the length of its queue, as `queue_packets` has it.
        """
        port = self._port
        cutting = qdisc_options.bucket(_UNLIMITED_BPS, port.framed_bytes)
        sizes = qdisc_options.size_table(port.header_bytes, port.mtu_bytes)
        self._control.replace(port.index, ROOT, CUTTER, "tbf", cutting, sizes)
        self.put_rate(direction.rate_bps)
        options = qdisc_options.netem(direction, limit, self._seed)
        self._control.replace(port.index, BUCKET | 1, NETEM, "netem", options)

    def put_rate(self, rate_bps: int | None) -> None:
        """Change the rate alone. None is no limit, zero as one byte a second."""
        port = self._port
        rate = _UNLIMITED_BPS if rate_bps is None else max(rate_bps, _LEAST_BPS)
        if rate == self._rate_bps and self._is_there:
            return  # a change would fill the bucket
        framed = rate * port.framed_bytes // port.mtu_bytes
        options = qdisc_options.bucket(framed, burst_bytes(rate, port.mtu_bytes))
        self._control.replace(port.index, CUTTER | 1, BUCKET, "tbf", options)
        if rate > self._rate_bps:
            self._wake()
        self._rate_bps, self._is_there = rate, True

    def _wake(self) -> None:
        """Let the bucket look at its queue again: it sleeps until the old rate would let one pass.

        Any packet does it. This one is of an Ethernet type for local experiments (IEEE 802), which
        nobody answers.
        """
        with contextlib.suppress(OSError), _raw_socket() as raw:
            raw.bind((self._port.name, 0))
            raw.send(_WAKING_FRAME)


def must_wake() -> None:
    """Raise LinkError where this process may not wake a queue whose rate rises again."""
    try:
        _raw_socket().close()
    except OSError as error:
        raise LinkError(
            f"a trace cannot be replayed by this process ({error.strerror}): a queue that stood "
            "still is woken by a packet of its own, which takes CAP_NET_RAW; or use --backend relay"
        ) from error


def _raw_socket() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
