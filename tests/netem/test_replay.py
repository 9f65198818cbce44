"""A trace on real queues: what each of its seconds carries."""

from __future__ import annotations

from splitbed.link import Change, Direction, LinkProfile, Step, Trace
from tests.benchmarks.replay import PACKET_BYTES, KernelHosts, table

SECOND_NS = 1_000_000_000
MS = 1_000_000
MBPS = (20, 5, 0, 12, 40, 2)
PROFILE = LinkProfile("base", Direction(20_000_000, 10 * MS), Direction(20_000_000, 10 * MS))
TRIES = 4
FEW_BYTES = 4 * PACKET_BYTES
"""A bucket is filled by each change, and a change comes a millisecond or two late."""


def test_every_second_carries_what_the_trace_says() -> None:
    steps = tuple(
        Step(second * SECOND_NS, up=Change(rate_bps=mbps * 1_000_000))
        for second, mbps in enumerate(MBPS)
    )
    trace = Trace("steps", steps, len(MBPS) * SECOND_NS)
    for _ in range(TRIES):  # this machine does other things as well
        seconds = [
            (row["trace_bytes"], row["carried_bytes"])
            for row in table(trace, PROFILE, KernelHosts)["rows"]
        ]
        missed = [
            (number, wanted, got)
            for number, (wanted, got) in enumerate(seconds)
            if abs(got - wanted) > max(0.05 * wanted, FEW_BYTES)
        ]
        if not missed:
            break
    assert missed == []
    assert [wanted > 200_000 for wanted, _ in seconds] == [mbps > 0 for mbps in MBPS]
