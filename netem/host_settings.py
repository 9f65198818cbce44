"""TCP settings of a namespace that stands for a host; what was set, for the record.

Chosen by measurement (METHODOLOGY.md, "What TCP needs on a long path"). On two real machines the
same lines go through `sysctl`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from netem.qdisc import PACKET_BYTES, queue_packets, waiting_packets
from splitbed.errors import LinkError
from splitbed.link import LinkProfile, Trace

_TCP: Final = Path("/proc/sys/net/ipv4")
_LEAST_BYTES: Final = 65_536
_SHARE_OF_QUEUE: Final = 0.8
_SHARE_AT_ONCE: Final = 0.9
_LARGEST_BYTES: Final = 256 << 20
_UNBOUND_BYTES: Final = 32 << 20
"""Buffers where no rate is asked for."""


def for_link(profile: LinkProfile, trace: Trace | None) -> dict[str, str]:
    """Settings for both hosts of a link.

    A receiver's buffer is twice the window that it offers. The window is the bandwidth-delay
    product and most of the queue: one connection fills the link, and never overflows the queue,
    whose losses would cost it a third of its window in the middle of a frame. Nor is it more than
    the queue takes at once, what travels included: after a pause, all of it comes in one burst.
    """
    rates = [profile.up.rate_bps, profile.down.rate_bps]
    for step in trace.steps if trace is not None else ():
        rates += [step.up.rate_bps, step.down.rate_bps]
    known = [rate for rate in rates if rate]
    size = _UNBOUND_BYTES
    if known and None not in rates[:2]:
        rate_bps = max(known)
        ways = [
            msgspec.structs.replace(way, rate_bps=rate_bps) for way in (profile.up, profile.down)
        ]
        waiting = PACKET_BYTES * min(
            waiting_packets(rate_bps, way.queue_ns, profile.rtt_ns) for way in ways
        )
        whole = PACKET_BYTES * min(queue_packets(way, profile.rtt_ns) for way in ways)
        under_way = rate_bps / 8 * profile.rtt_ns / 1e9
        window = max(under_way, min(under_way + _SHARE_OF_QUEUE * waiting, _SHARE_AT_ONCE * whole))
        size = min(max(int(2 * window), _LEAST_BYTES), _LARGEST_BYTES)
    return {
        # A frame after a pause must find the window that the frame before it had opened.
        "tcp_slow_start_after_idle": "0",
        # The probe's connection must leave nothing behind for that of the frames.
        "tcp_no_metrics_save": "1",
        "tcp_rmem": f"4096 {min(131_072, size)} {size}",
        "tcp_wmem": f"4096 131072 {max(2 * size, 4 << 20)}",
    }


def apply(settings: dict[str, str]) -> dict[str, str]:
    """Set them in the current network namespace; what they are then."""
    found = {}
    for name, value in settings.items():
        try:
            (_TCP / name).write_text(value, encoding="ascii")
            found[name] = " ".join((_TCP / name).read_text(encoding="ascii").split())
        except OSError as error:
            raise LinkError(f"cannot set {_TCP / name}: {error.strerror}") from error
    return found
