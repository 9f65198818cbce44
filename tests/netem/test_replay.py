"""A trace on real queues: what each of its seconds carries."""

from __future__ import annotations

from splitbed.link import Change, Direction, LinkProfile, Step, Trace
from tests.benchmarks.replay import KernelHosts, table

SECOND_NS = 1_000_000_000
MS = 1_000_000
MBPS = (20, 5, 0, 12, 40, 2)
PROFILE = LinkProfile("base", Direction(20_000_000, 10 * MS), Direction(20_000_000, 10 * MS))
TRIES = 4


def test_every_second_carries_what_the_trace_says() -> None:
    """Within 5 % or a packet, or what passes in 2 ms, by which the ends of a second are known."""
    steps = tuple(
        Step(second * SECOND_NS, up=Change(rate_bps=mbps * 1_000_000))
        for second, mbps in enumerate(MBPS)
    )
    trace = Trace("steps", steps, len(MBPS) * SECOND_NS)
    for _ in range(TRIES):  # this machine does other things as well
        rows = table(trace, PROFILE, KernelHosts)["rows"]
        if not (missed := [row for row in rows if row["verdict"] == "MISSED"]):
            break
    assert missed == []
    assert [row["carried_bytes"] > 200_000 for row in rows] == [mbps > 0 for mbps in MBPS]
