"""What a measurement spends its time on, and how its datagrams are paced. Arithmetic only."""

from __future__ import annotations

from typing import Final

import msgspec

from netem.datagrams import LONGEST_NS, MOST_TOGETHER, DatagramPlan
from splitbed.link import PAYLOAD_SHARE, Direction, LinkKind, LinkProfile, Way

_FASTEST_LOSS_BPS: Final = 100e6
"""More packets a second say no more of a loss, and need a processor."""
_UNKNOWN_BPS: Final = 50e6
_MOST_PACKETS: Final = 20_000
_FEWEST_PACKETS: Final = 20
_SMALL_NS: Final = 1_000_000
_LARGE_NS: Final = 4_000_000
_CATCH_UP_NS: Final = 100_000_000
_OVERLOAD: Final = 1.1
_LEAD_NS: Final = 120_000_000
_ENOUGH_PACKETS: Final = 4000


class DatagramSize(msgspec.Struct, frozen=True):
    """A datagram that fills a packet of the path, and how long to wait for a late one."""

    payload_bytes: int
    packet_bytes: int
    quiet_ns: int


def allotted_s(profile: LinkProfile, kind: LinkKind, seconds: float) -> dict[str, float]:
    """Seconds for `trips`, and for `transfer up`, `loss up`, `rate up` and so on.

    What is not measured has no entry: datagrams through a relay, and a rate by datagrams where
    nothing happens to single packets.
    """
    parts = {"trips": 6.0 if profile.up.jitter_ns or profile.down.jitter_ns else 3.0}
    for way, direction in (("up", profile.up), ("down", profile.down)):
        if kind == "relay" or not direction.packet_effects:
            parts[f"transfer {way}"] = 3.0
            parts[f"loss {way}"] = 2.0
        else:
            parts[f"transfer {way}"] = 2.0
            parts[f"loss {way}"] = 5.0
            if direction.rate_bps is not None:
                parts[f"rate {way}"] = 2.0
    if kind == "relay":
        parts = {name: part for name, part in parts.items() if not name.startswith("loss")}
    whole = sum(parts.values())
    return {name: seconds * part / whole for name, part in parts.items()}


def quiet_ns(rtt_ns: int) -> int:
    """How long to wait for late datagrams once the sender has said over TCP that it is done."""
    return min(2_000_000_000, 200_000_000 + rtt_ns // 2)


def loss_plan(
    way: Way, direction: Direction, goodput_bps: float, size: DatagramSize, seconds: float
) -> DatagramPlan:
    """Datagrams at half the rate in small bursts, so that no queue drops anything.

    The rate is the profile's, or what TCP found where that is less: a link that is not what it
    should be is not to be overloaded. Where packets are lost on purpose, TCP finds less than there
    is and is not asked.
    """
    found_bps = max(1000.0, 1.1 * goodput_bps / PAYLOAD_SHARE)
    rate_bps = direction.rate_bps or (_UNKNOWN_BPS if direction.packet_effects else found_bps)
    if not direction.packet_effects:
        rate_bps = min(rate_bps, found_bps)
    gap_ns = size.packet_bytes * 8e9 / min(rate_bps / 2, _FASTEST_LOSS_BPS)
    count = min(_MOST_PACKETS, max(_FEWEST_PACKETS, int(seconds * 1e9 / gap_ns)))
    return _plan(way, count, gap_ns, size, burst_ns=_SMALL_NS, late_ns=2 * _SMALL_NS, lead_ns=0)


def rate_plan(way: Way, direction: Direction, size: DatagramSize, seconds: float) -> DatagramPlan:
    """Datagrams at 1.1 times the rate, and what is lost of them, timed once they have to queue.

    A token bucket passes at once what it saved up, which is over when the lead is.
    """
    assert direction.rate_bps is not None
    passed = max(0.1, 1 - direction.mean_loss_pct / 100)
    taken_ns = size.packet_bytes * 8e9 / direction.rate_bps
    duration_ns = min(seconds * 1e9, _ENOUGH_PACKETS * taken_ns)
    duration_ns = max(duration_ns, 2 * _LEAD_NS + _FEWEST_PACKETS * taken_ns)
    gap_ns = taken_ns * passed / _OVERLOAD
    return _plan(
        way,
        max(_FEWEST_PACKETS, int(duration_ns / gap_ns)),
        gap_ns,
        size,
        burst_ns=_LARGE_NS,
        late_ns=_CATCH_UP_NS,
        lead_ns=int(max(_LEAD_NS, duration_ns / 4)),
        together=MOST_TOGETHER,
    )


def _plan(
    way: Way,
    count: int,
    gap_ns: float,
    size: DatagramSize,
    *,
    burst_ns: int,
    late_ns: int,
    lead_ns: int,
    together: int = 1,
) -> DatagramPlan:
    gap_ns = min(max(gap_ns, 500), LONGEST_NS / _FEWEST_PACKETS)
    return DatagramPlan(
        way=way,
        count=min(count, int(LONGEST_NS / gap_ns)),
        payload_bytes=size.payload_bytes,
        gap_ns=gap_ns,
        burst_ns=burst_ns,
        late_ns=late_ns,
        lead_ns=min(lead_ns, LONGEST_NS),
        quiet_ns=size.quiet_ns,
        together=together,
    )
