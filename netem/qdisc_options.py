"""The kernel's option bytes for a token bucket and for netem (linux/pkt_sched.h)."""

from __future__ import annotations

import struct
from typing import Final

from netem.jitter import TABLE_SIZE, quantiles
from netem.tc import attribute
from splitbed.link import Direction

_TICK_NS: Final = 64
_LARGEST_U32: Final = 0xFFFFFFFF
_LARGEST_U16: Final = 0xFFFF
_ETHERNET: Final = 1
_CHILD_BYTES: Final = 1 << 20
"""Size of the queue that a token bucket is born with, and that netem takes the place of."""
_ORDERING_BYTES_S: Final = 50_000_000_000
"""A rate of netem's own, far above any link: with one, jitter and shrinking delays keep the order
of packets. It adds less than a nanosecond to a packet."""
_TABLE_BITS: Final = 12
"""A size table has no more than two to the power of this many cells."""
_TABLE_SCALE: Final = 8192
"""One standard deviation in a distribution table."""


def size_table(header_bytes: int, mtu_bytes: int) -> bytes:
    """TCA_STAB that counts packets without their header, as shares of a full one with its header.

    A packet of `mtu_bytes` and its header counts as that, one of half of it as half of that.
    """
    cell_log = max(0, mtu_bytes.bit_length() - _TABLE_BITS)
    sizes = [
        min(round((cell << cell_log) * (mtu_bytes + header_bytes) / mtu_bytes), _LARGEST_U16)
        for cell in range((mtu_bytes >> cell_log) + 1)
    ]
    spec = struct.pack("=BBhiIIII", cell_log, 0, 0, -header_bytes, _ETHERNET, 0, 0, len(sizes))
    return attribute(1, spec) + attribute(2, struct.pack(f"={len(sizes)}H", *sizes))


def bucket(rate_bps: int, burst_bytes: int) -> bytes:
    """Options of `tbf`: bits per second (of bytes as the size table leaves them) and its depth."""
    rate = rate_bps // 8
    spec = struct.pack("=BBHhHI", 0, _ETHERNET, 0, 0, 0, min(rate, _LARGEST_U32))
    options = attribute(1, spec + bytes(12) + struct.pack("=III", _CHILD_BYTES, 0, 0))
    if rate > _LARGEST_U32:
        options += attribute(4, struct.pack("=Q", rate))
    return options + attribute(6, struct.pack("=I", burst_bytes))


def netem(direction: Direction, limit_packets: int, seed: int) -> bytes:
    """Options of `netem`: all that a direction asks for but the rate.

    Everything is written each time: what a change leaves out, the kernel would keep. The seed is
    heard by kernels from 6.6 on; others draw their own.
    """
    ticks = [min(ns // _TICK_NS, _LARGEST_U32) for ns in (direction.delay_ns, direction.jitter_ns)]
    options = struct.pack(
        "=IIIIII",
        ticks[0],
        limit_packets,
        _share(direction.loss_pct),
        1 if direction.reorder_pct else 0,
        _share(direction.duplicate_pct),
        ticks[1],
    )
    options += attribute(1, struct.pack("=III", _share(direction.jitter_correlation_pct), 0, 0))
    if direction.jitter_ns:
        options += attribute(2, _table(direction.jitter_distribution))
    options += attribute(3, struct.pack("=II", _share(direction.reorder_pct), 0))
    options += attribute(4, struct.pack("=II", _share(direction.corrupt_pct), 0))
    burst = direction.burst_loss
    if burst is not None:
        shares = (burst.to_bad_pct, burst.to_good_pct, 100 - burst.bad_loss_pct)
        model = struct.pack("=IIII", *map(_share, (*shares, burst.good_loss_pct)))
        options += attribute(5, attribute(2, model))
    options += attribute(6, struct.pack("=IiIi", _LARGEST_U32, 0, 0, 0))
    options += attribute(8, struct.pack("=Q", _ORDERING_BYTES_S))
    options += attribute(10, struct.pack("=q", direction.delay_ns))
    options += attribute(11, struct.pack("=q", direction.jitter_ns))
    return options + attribute(14, struct.pack("=Q", seed))


def _share(pct: float) -> int:
    """A percentage as the kernel has it: a share of 2^32 - 1."""
    return round(pct / 100 * _LARGEST_U32)


def _table(name: str) -> bytes:
    """A distribution as netem draws from it: quantiles in units of 1/8192 standard deviation."""
    numbers = [round(value * _TABLE_SCALE) for value in quantiles(name)]
    return struct.pack(f"={TABLE_SIZE}h", *numbers)
