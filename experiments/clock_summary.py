"""The two nodes' clocks and the two ways of a run's frames, with hindsight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from splitbed.clock import (
    BOUND_SHARE,
    Basis,
    ClockFacts,
    LeastDelays,
    OneWays,
    basis_of,
    history_of,
    one_ways,
)
from splitbed.clock_frames import TightFrames
from splitbed.dependence import memory
from splitbed.latency import stream_percentile
from splitbed.percentile import Percentile
from splitbed.record import FrameRecord, RunManifest
from splitbed.run_folder import RunFolder, read_rows
from splitbed.session import ClockExchange


class OneWay(msgspec.Struct, frozen=True):
    """One direction's time of the frames for which it is known well enough.

    Where that is not all of them it is the slow ones: `known_pct` belongs to every figure.
    """

    known_pct: float
    p50_ms: Percentile | None
    """None where it is known of no frame."""
    error_ms: float | None
    """Bound of the error, median."""


class ClockSummary(msgspec.Struct, frozen=True):
    """The edge's clock against the device's. Bounds, not deviations."""

    basis: Basis
    least_up_ms: float
    least_down_ms: float
    exchanges: int
    frames: int
    """Whose stamps were used as an exchange's are."""
    offset_ms: float | None
    """At the run's last frame."""
    error_ms: float | None
    """Bound of the offset's error at the frames, median."""
    drift_ppm: float | None
    drift_error_ppm: float | None
    up: OneWay
    down: OneWay


class Hindsight:
    """The edge's clock as all exchanges of a run tell it, and the frames that tell most of it."""

    def __init__(
        self,
        facts: ClockFacts,
        exchanges: Sequence[ClockExchange],
        rows: Iterable[FrameRecord] = (),
    ) -> None:
        self.facts, self.exchanges = facts, len(exchanges)
        frames = tight_frames(rows, (facts.drift_ppm or 0.0) / 1e6)
        self.frames = len(frames)
        delays = LeastDelays(facts.least_up_ns, facts.least_down_ns)
        self.history = history_of([*exchanges, *frames], delays)

    def ways(self, row: FrameRecord, share: float = BOUND_SHARE) -> OneWays:
        """A frame's two ways (`one_ways`), of which a row that was never sent has none."""
        if not row.submitted_ns or not row.rtt_ns:
            return OneWays()
        complete_ns = row.submitted_ns + row.rtt_ns
        return one_ways(
            self.history.at,
            row.submitted_ns,
            complete_ns,
            row.edge_received_ns,
            row.edge_ns,
            share,
        )

    def uplinks(self, rows: Sequence[FrameRecord]) -> dict[int, tuple[int, int]]:
        """By frame, the way to the edge and its bound, however large."""
        found = {row.frame_id: _up(self.ways(row, math.inf)) for row in rows}
        return {frame: way for frame, way in found.items() if way is not None}


def stamps_of(row: FrameRecord) -> ClockExchange:
    """A frame that was answered, as an exchange."""
    went_ns, complete_ns = row.edge_received_ns + row.edge_ns, row.submitted_ns + row.rtt_ns
    return ClockExchange(row.submitted_ns, row.edge_received_ns, went_ns, complete_ns)


def tight_frames(rows: Iterable[FrameRecord], rate: float = 0.0) -> list[ClockExchange]:
    """What the frames that say most of the edge's clock show of it (`TightFrames`)."""
    stamps = [stamps_of(row) for row in rows if row.submitted_ns and row.rtt_ns]
    stamps.sort(key=lambda one: one.received_ns)
    tight = TightFrames()
    tight.rate = rate
    found = [chosen for one in stamps for chosen in tight.take(one)]
    return [*found, *tight.rest()]


def hindsight(
    files: RunFolder, manifest: RunManifest, rows: Iterable[FrameRecord] = ()
) -> Hindsight | None:
    """None for a run that kept no exchanges. `rows` are its frames', warm-up's too."""
    exchanges = list(read_rows(files.clock(), ClockExchange))
    if manifest.clock is None or not exchanges:
        return None
    return Hindsight(msgspec.convert(manifest.clock, ClockFacts), exchanges, rows)


def clock_summary(known: Hindsight | None, rows: Sequence[FrameRecord]) -> ClockSummary | None:
    """None where nothing is known, or rows hold no time stamps."""
    rows = [row for row in rows if row.submitted_ns]
    if known is None or not rows:
        return None
    facts, history = known.facts, known.history
    offsets = [found for row in rows if (found := history.at(row.submitted_ns)) is not None]
    ways = [known.ways(row) for row in rows]
    return ClockSummary(
        basis=basis_of(history),
        least_up_ms=facts.least_up_ns / 1e6,
        least_down_ms=facts.least_down_ns / 1e6,
        exchanges=known.exchanges,
        frames=known.frames,
        offset_ms=offsets[-1].offset_ns / 1e6 if offsets else None,
        error_ms=median(found.error_ns for found in offsets) / 1e6 if offsets else None,
        drift_ppm=facts.drift_ppm,
        drift_error_ppm=facts.drift_error_ppm,
        up=_one_way([_up(way) for way in ways]),
        down=_one_way([_down(way) for way in ways]),
    )


def clock_text(found: ClockSummary) -> str:
    """One clause for a terminal."""
    counted = f"{found.exchanges} exchanges and {found.frames} frames"
    if found.offset_ms is None or found.error_ms is None:
        return f"not known: the {counted} fit no steady clock (was one of the clocks set?)"
    basis = "by half the round trip"
    if found.basis == "link delays":
        basis = f"given {found.least_up_ms:g} ms up and {found.least_down_ms:g} down at least"
    drift = ""
    if found.drift_ppm is not None:
        drift = f", drift {found.drift_ppm:+.1f} (within {found.drift_error_ppm:.1f}) ppm"
    return (
        f"edge's less device's {found.offset_ms:.3f} ms within {found.error_ms:.3f}{drift}; "
        f"{counted}, {basis}"
    )


def ways_text(found: ClockSummary) -> str:
    """Both ways' medians as a clause; "" where neither is known."""
    parts = [
        f"{word} p50 {way.p50_ms.value:.2f} ms within {way.error_ms:.2f} "
        f"({way.known_pct:.0f} % of frames)"
        for word, way in (("up", found.up), ("down", found.down))
        if way.p50_ms is not None
    ]
    return ", ".join(parts)


def _one_way(found: Sequence[tuple[int, int] | None]) -> OneWay:
    known = [item for item in found if item is not None]
    if not known:
        return OneWay(0.0, None, None)
    ways_ms = [way_ns / 1e6 for way_ns, _ in known]
    return OneWay(
        known_pct=100 * len(known) / len(found),
        p50_ms=stream_percentile(ways_ms, 0.5, memory(ways_ms)),
        error_ms=median(error_ns for _, error_ns in known) / 1e6,
    )


def _up(ways: OneWays) -> tuple[int, int] | None:
    if ways.uplink_ns is None or ways.uplink_error_ns is None:
        return None
    return ways.uplink_ns, ways.uplink_error_ns


def _down(ways: OneWays) -> tuple[int, int] | None:
    if ways.downlink_ns is None or ways.downlink_error_ns is None:
        return None
    return ways.downlink_ns, ways.downlink_error_ns
