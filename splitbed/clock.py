"""The offset between two nodes' clocks, with its error bound. Pure arithmetic, no I/O.

With the request sent at t0 and answered at t3 (own clock), received at t1 and answered at t2
(peer's clock), and unknown one-way delays a and b of which only the sum is known:

    t1 = t0 + offset + a        t3 = t2 - offset + b        a + b = (t3 - t0) - (t2 - t1)

The estimate ((t1 - t0) + (t2 - t3)) / 2 is off by (a - b) / 2, and as neither delay is negative
that is at most (a + b) / 2: half the round trip, whatever the asymmetry (Mills, RFC 5905 s. 8).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from splitbed.session import ClockExchange


class ClockOffset(msgspec.Struct, frozen=True):
    """`peer clock = own clock + offset_ns`, true within `error_ns` either way."""

    offset_ns: int
    error_ns: int

    def one_way_ns(self, sent_ns: int, peer_received_ns: int) -> int:
        """Time from `sent_ns` (own clock) to `peer_received_ns` (peer's), within `error_ns`."""
        return peer_received_ns - self.offset_ns - sent_ns


def offset_of(exchange: ClockExchange) -> ClockOffset:
    """The offset that one exchange shows."""
    there_ns = exchange.peer_received_ns - exchange.sent_ns
    back_ns = exchange.peer_sent_ns - exchange.received_ns
    path_ns = there_ns - back_ns
    # Rounded up: a bound must not lose its last half nanosecond.
    return ClockOffset(offset_ns=(there_ns + back_ns) // 2, error_ns=path_ns // 2 + 1)


def best_offset(exchanges: Iterable[ClockExchange]) -> ClockOffset | None:
    """The offset with the smallest bound: the exchange that queued least. None without any."""
    possible = (
        e
        for e in exchanges
        if e.received_ns - e.sent_ns >= e.peer_sent_ns - e.peer_received_ns >= 0
    )
    return min(map(offset_of, possible), key=lambda found: found.error_ns, default=None)
