"""What a trace is like: its rates, its outages, how often it changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Literal

import msgspec

from netem.trace_steps import pieces
from splitbed.link import Change, Trace

_S = 1e9


class Range(msgspec.Struct, frozen=True):
    """Smallest and largest of something."""

    least: float
    most: float


class WaySummary(msgspec.Struct, frozen=True):
    """One direction of a trace. Shares of rates are shares of the time; rates in bit/s of IP."""

    mean_bps: float | None
    """None, as the others, where the trace says nothing of the rate."""
    p5_bps: int | None
    median_bps: int | None
    p95_bps: int | None
    outages: int
    """Times without any rate."""
    outage_s: float
    """Their length, all together."""
    longest_outage_s: float
    delay_ms: Range | None
    loss_pct: Range | None
    changes_per_s: float


class TraceSummary(msgspec.Struct, frozen=True):
    """Both directions; None: the trace says nothing of it."""

    name: str
    source: str
    digest: str
    duration_s: float
    up: WaySummary | None
    down: WaySummary | None


def summarised(trace: Trace) -> TraceSummary:
    """The figures of a trace."""
    return TraceSummary(
        name=trace.name,
        source=trace.source,
        digest=trace.digest,
        duration_s=trace.duration_ns / _S,
        up=_way(trace, "up"),
        down=_way(trace, "down"),
    )


def _way(trace: Trace, way: Literal["up", "down"]) -> WaySummary | None:
    side = pieces(trace, way)
    if side == ((0, Change()),):
        return None
    ends = [*(at_ns for at_ns, _ in side[1:]), trace.duration_ns]
    spans = [(end - at_ns, change) for (at_ns, change), end in zip(side, ends, strict=True)]
    rates = [(change.rate_bps, ns) for ns, change in spans if change.rate_bps is not None]
    dead = groupby(spans, key=lambda span: span[1].rate_bps == 0)
    outages_s = [sum(ns for ns, _ in group) / _S for is_dead, group in dead if is_dead]
    # It begins anew where it ends, and that is a change where the two differ.
    changes = sum(a != b for (_, a), (_, b) in pairwise([*side, side[0]]))
    return WaySummary(
        mean_bps=sum(bps * ns for bps, ns in rates) / sum(ns for _, ns in rates) if rates else None,
        p5_bps=_quantile(rates, 0.05),
        median_bps=_quantile(rates, 0.5),
        p95_bps=_quantile(rates, 0.95),
        outages=len(outages_s),
        outage_s=math.fsum(outages_s),
        longest_outage_s=max(outages_s, default=0.0),
        delay_ms=_range(spans, lambda change: change.delay_ns, 1e6),
        loss_pct=_range(spans, lambda change: change.loss_pct, 1.0),
        changes_per_s=changes * _S / trace.duration_ns,
    )


def _quantile(rates: list[tuple[int, int]], share: float) -> int | None:
    """The rate that is not exceeded for this share of the time."""
    left = share * sum(ns for _, ns in rates)
    for bps, ns in sorted(rates):
        left -= ns
        if left <= 0:
            return bps
    return None


def _range(
    spans: list[tuple[int, Change]], figure: Callable[[Change], float | None], one: float
) -> Range | None:
    found = [value / one for _, change in spans if (value := figure(change)) is not None]
    return Range(min(found), max(found)) if found else None
