"""Traces put together: made of one direction's rates, joined of two, cut to a piece."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

from splitbed.errors import UsageError
from splitbed.link import Change, Step, Trace

Way = Literal["up", "down", "both"]
"""The directions that a series of rates is meant for."""

LONGEST_NS: Final = 24 * 3600 * 1_000_000_000
MOST_STEPS: Final = 500_000
"""Both bound what a file or a written form can ask of memory."""

FASTEST_BPS: Final = 10**12

Pieces = tuple[tuple[int, Change], ...]
"""One direction of a trace: from which nanosecond on, and what."""


def made_of_rates(
    name: str, source: str, rates: Iterable[tuple[int, int]], duration_ns: int, way: Way
) -> Trace:
    """A trace of rates: nanosecond since its start and bit/s from then on, by rising time."""
    steps = (_one_step(name, at_ns, bps, way) for at_ns, bps in rates)
    return made_of_steps(name, source, steps, duration_ns)


def _one_step(name: str, at_ns: int, bps: int, way: Way) -> Step:
    if bps > FASTEST_BPS:
        raise UsageError(
            f"the trace {name} has a rate of {bps / 1e9:,.0f} Gbit/s at second {at_ns / 1e9:g}; "
            f"the largest possible is {FASTEST_BPS / 1e9:g}"
        )
    change, usual = Change(bps), Change()
    return Step(at_ns, usual if way == "down" else change, usual if way == "up" else change)


def made_of_steps(name: str, source: str, steps: Iterable[Step], duration_ns: int) -> Trace:
    """A trace of steps by rising time; a step that changes nothing is left out.

    Raises UsageError where it is too long or has too many steps.
    """
    if duration_ns > LONGEST_NS:
        raise UsageError(
            f"the trace {name} lasts {duration_ns / 1e9:,.0f} s; the longest that can be replayed "
            f"is {LONGEST_NS // 10**9} s"
        )
    kept: list[Step] = []
    for step in steps:
        if kept and (kept[-1].up, kept[-1].down) == (step.up, step.down):
            continue
        kept.append(step)
        if len(kept) > MOST_STEPS:
            raise UsageError(
                f"the trace {name} changes more than {MOST_STEPS} times: cut a piece out of it, or "
                "put its changes further apart"
            )
    return Trace(name, tuple(kept), duration_ns, source)


def pieces(trace: Trace, way: Literal["up", "down"]) -> Pieces:
    """One direction of it, without the steps that change only the other."""
    found: list[tuple[int, Change]] = []
    for step in trace.steps:
        change = step.up if way == "up" else step.down
        if not found or found[-1][1] != change:
            found.append((step.at_ns, change))
    return tuple(found)


def joined(name: str, up: Trace, down: Trace) -> Trace:
    """The uplink of one trace and the downlink of another; the shorter begins anew meanwhile."""
    duration_ns = max(up.duration_ns, down.duration_ns)
    sides = pieces(up, "up"), pieces(down, "down")
    count = sum(
        len(side) * -(-duration_ns // trace.duration_ns)
        for side, trace in zip(sides, (up, down), strict=True)
        if len(side) > 1
    )
    if count > 2 * MOST_STEPS:
        raise UsageError(
            f"the trace {name} joins one of {up.duration_ns / 1e9:g} s with one of "
            f"{down.duration_ns / 1e9:g} s, which begins anew too often: cut the longer one"
        )
    ups = dict(_repeated(sides[0], up.duration_ns, duration_ns))
    downs = dict(_repeated(sides[1], down.duration_ns, duration_ns))
    return made_of_steps(
        name, "; ".join(dict.fromkeys((up.source, down.source))), _merged(ups, downs), duration_ns
    )


def _repeated(side: Pieces, period_ns: int, until_ns: int) -> Iterator[tuple[int, Change]]:
    if len(side) == 1:
        yield side[0]
        return
    for begin_ns in range(0, until_ns, period_ns):
        for at_ns, change in side:
            if begin_ns + at_ns < until_ns:
                yield begin_ns + at_ns, change


def _merged(ups: dict[int, Change], downs: dict[int, Change]) -> Iterator[Step]:
    up, down = ups[0], downs[0]
    for at_ns in sorted({*ups, *downs}):
        up, down = ups.get(at_ns, up), downs.get(at_ns, down)
        yield Step(at_ns, up, down)


def cut(trace: Trace, start_ns: int, end_ns: int) -> Trace:
    """The piece from `start_ns` to `end_ns` of its own time, as a trace that begins at 0."""
    if not 0 <= start_ns < end_ns <= trace.duration_ns:
        raise UsageError(
            f"the trace {trace.name} lasts {trace.duration_ns / 1e9:g} s: "
            f"{start_ns / 1e9:g}..{end_ns / 1e9:g} is no piece of it"
        )
    first = bisect_right(trace.steps, start_ns, key=lambda step: step.at_ns) - 1
    steps = (
        Step(max(0, step.at_ns - start_ns), step.up, step.down)
        for step in trace.steps[first:]
        if step.at_ns < end_ns
    )
    where = f"{start_ns / 1e9:g}..{end_ns / 1e9:g} s of {trace.source or trace.name}"
    return made_of_steps(trace.name, where, steps, end_ns - start_ns)


def lasting(times_ns: Sequence[int]) -> int:
    """How long a trace lasts whose last row says no end: that row as long as the one before."""
    return 2 * times_ns[-1] - times_ns[-2]
