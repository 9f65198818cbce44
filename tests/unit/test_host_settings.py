"""TCP settings that fit a link."""

from __future__ import annotations

import pytest

from netem.host_settings import for_link
from netem.qdisc import queue_packets
from splitbed.link import Change, Direction, LinkProfile, Step, Trace

MS = 1_000_000


def both(rate_bps: int | None, delay_ms: int, queue_ns: int | None = None) -> LinkProfile:
    way = Direction(rate_bps, delay_ms * MS, queue_ns=queue_ns)
    return LinkProfile("both", way, way)


def window_bytes(profile: LinkProfile, trace: Trace | None = None) -> float:
    """What a receiver's buffer of that size offers."""
    return int(for_link(profile, trace)["tcp_rmem"].split()[2]) / 2


@pytest.mark.parametrize(("mbps", "delay_ms"), [(10, 30), (100, 20), (100, 150), (200, 5)])
def test_a_window_fills_the_link_and_fits_into_the_queue_at_once(mbps: int, delay_ms: int) -> None:
    profile = both(mbps * 1_000_000, delay_ms)
    window = window_bytes(profile)
    assert window > 1.1 * profile.rtt_ns / 1e9 * mbps * 1e6 / 8
    assert window <= 0.91 * 1500 * queue_packets(profile.up, profile.rtt_ns)


def test_a_short_queue_does_not_keep_the_link_from_being_full() -> None:
    profile = both(100_000_000, 20, queue_ns=2 * MS)
    assert window_bytes(profile) == 100e6 / 8 * 0.04


def test_a_trace_that_is_faster_gets_larger_buffers() -> None:
    trace = Trace("t", (Step(0, up=Change(rate_bps=50_000_000)),), 100 * MS)
    assert window_bytes(both(10_000_000, 30), trace) == window_bytes(both(50_000_000, 30))


def test_without_a_rate_they_are_large() -> None:
    assert window_bytes(both(None, 30)) == 16 << 20
