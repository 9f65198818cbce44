"""What no packet on a shaped link is faster than, which bounds what a clock exchange can hide."""

from __future__ import annotations

from typing import Final

from netem.jitter import quantiles
from splitbed.link import Direction, LinkFacts, LinkProfile, Trace, Way, changed

_KERNEL_GRAIN: Final = 1e-3
"""Standard deviations by which the kernel's table of a distribution may reach lower than ours."""


def least_delay_ns(direction: Direction) -> int:
    """One direction's: its delay, less the most that jitter takes off.

    0 where packets may skip the delay, which is netem's way of reordering.
    """
    if direction.reorder_pct:
        return 0
    jitter_ns = 0.0
    if direction.jitter_ns:
        lowest = min(quantiles(direction.jitter_distribution)) - _KERNEL_GRAIN
        jitter_ns = direction.jitter_ns * lowest
    return max(0, int(direction.delay_ns + jitter_ns))


def least_delays_ns(profile: LinkProfile, trace: Trace | None = None) -> tuple[int, int]:
    """Up and down, whatever the trace does: the profile holds before and after it."""

    def least_ns(way: Way) -> int:
        own = profile.direction(way)
        steps = trace.steps if trace is not None else ()
        changes = (step.up if way == "up" else step.down for step in steps)
        return min(least_delay_ns(one) for one in (own, *(changed(own, c) for c in changes)))

    return least_ns("up"), least_ns("down")


def told_ns(facts: LinkFacts | None) -> tuple[int, int]:
    """Up and down of a link that others made: of the profile that it says it has.

    Zeros where it does not say, where nothing shapes it, and where it replays a trace of its own.
    """
    if facts is None or facts.kind == "direct" or facts.trace:
        return 0, 0
    return least_delays_ns(facts.profile)
