"""How frames came and went: the load, answers a second, and whether a queue grew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from experiments.series import Interval, stream_mean
from experiments.statistics import Share, clustered_share
from splitbed.certificate import LinkCertificate
from splitbed.percentile import Floats
from splitbed.record import FrameRecord, RunManifest
from splitbed.student import student95

OPEN: Final = ("rate", "poisson")
"""Loads whose frames are due whether or not the ones before them are finished."""

_PARTS: Final = 20
_FEWEST_A_PART: Final = 3
_GROWS_MS: Final = 1.0
"""A second: what may be the clock's own; a load that is 0.1 % beyond capacity makes as much."""
_DROPS_PCT: Final = 1.0


class Load(msgspec.Struct, frozen=True):
    """How frames were made due."""

    kind: str
    """`single`, `closed`, `rate`, `poisson` or `offline`."""
    rate_fps: float | None = None
    window: int = 1
    deadline_ms: float | None = None
    late: str | None = None
    """`keep` or `drop`, with a deadline."""
    stopped_by: str = ""
    """What of its rule ended the run."""

    @property
    def is_open(self) -> bool:
        """Frames are due whether or not the ones before them are finished."""
        return self.kind in OPEN

    @property
    def setting(self) -> str:
        """What of it runs must share to be compared; "" where the window says all."""
        if not self.is_open:
            return "offline" if self.kind == "offline" else ""
        text = f"{self.rate_fps or 0:g} frames/s{' (Poisson)' if self.kind == 'poisson' else ''}"
        # What is kept changes no latency; what is dropped makes room for the others.
        return f"{text}, dropped after {self.deadline_ms:g} ms" if self.late == "drop" else text


class Flow(msgspec.Struct, frozen=True):
    """Frames a second, and what stood in their way."""

    answered_fps: Interval | None
    """From the gaps between answers; None for a single one. In closed loop it holds the reading of
    pictures, which is in no latency."""
    offered_fps: float | None
    """What fell due, in open loop; else as much is offered as is answered."""
    busiest: str
    """The stage that was busy longest; `uplink` and `downlink` at the certified rate."""
    busiest_pct: float
    """Of the measured time."""
    growth_ms_per_s: Interval | None
    """By how much a frame waits longer for each second that it is due later: the share by which the
    load is beyond capacity. None in closed loop, and for a run too short to say."""
    dropped: Share | None
    """Frames never sent, in open loop."""
    beyond_capacity: bool
    """The queue grew, or frames were dropped all along. Its latencies are those of its length."""


def load_of(manifest: RunManifest) -> Load:
    """The load of a run; by its window where the manifest is older than loads are."""
    window = int(manifest.config.get("window") or 1)
    older = {"kind": "single" if window == 1 else "closed", "window": window}
    return load_from(older | (manifest.load or {}))


def load_from(facts: Mapping[str, Any]) -> Load:
    """As a plan's `facts` tell it, or a manifest."""
    told = {
        name: value
        for name, value in facts.items()
        if name in Load.__struct_fields__ and value is not None
    }
    return msgspec.convert(told, Load)


def flow(rows: Sequence[FrameRecord], load: Load, certificate: LinkCertificate | None) -> Flow:
    """Of measured rows in their order, at least one of them answered."""
    answered = [row for row in rows if row.is_answered]
    busiest, busy_pct = _busiest(answered, certificate)
    dropped = growth = offered = None
    if load.is_open:
        due_ns = [row.intended_ns for row in rows]
        span_ns = max(due_ns) - min(due_ns)
        offered = (len(rows) - 1) * 1e9 / span_ns if span_ns else None
        growth = queue_growth(
            [(r.intended_ns, r.wait_ns) for r in rows if r.is_answered or r.status == "dropped"]
        )
        dropped = _dropped(rows)
    return Flow(
        answered_fps=_throughput(answered),
        offered_fps=offered,
        busiest=busiest,
        busiest_pct=busy_pct,
        growth_ms_per_s=growth,
        dropped=dropped,
        beyond_capacity=_grows(growth) or _drops_all_along(rows, dropped),
    )


def queue_growth(waits_ns: Sequence[tuple[int, int]]) -> Interval | None:
    """Milliseconds that the wait grows by in each second, from (due, wait) of frames in order.

    The run is cut into twenty parts of equally many frames. The growth is that of the mean wait
    from each part to the next. A queue at its limit is a random walk, which climbs for a while by
    itself; the interval is that of the drift of such a walk, by Student's t over the steps. Means
    of parts of a walk step with a correlation of 1/4 (H. Working, Econometrica 28 (1960)), so that
    the variance of their mean is 1.5 times as large. For a queue that is stable it is too wide.
    None where a part would hold fewer than three frames.
    """
    if len(waits_ns) < _PARTS * _FEWEST_A_PART:
        return None
    both = np.asarray(waits_ns, np.float64)
    parts = [part.mean(axis=0) for part in np.array_split(both, _PARTS)]
    due_ns, wait_ns = np.stack(parts, axis=1)
    span_ns = float(due_ns[-1] - due_ns[0])
    if span_ns <= 0:
        return None
    steps = np.diff(wait_ns)
    middle = 1e3 * float(steps.sum()) / span_ns
    spread = float(np.std(steps, ddof=1)) * math.sqrt(1.5 * len(steps))
    half = 1e3 * student95(len(steps) - 1) * spread / span_ns
    return Interval(middle, middle - half, middle + half)


def _throughput(answered: Sequence[FrameRecord]) -> Interval | None:
    done_ns = np.sort([row.intended_ns + row.total_ns for row in answered])
    if len(done_ns) < 2 or done_ns[-1] == done_ns[0]:
        return None
    gap = stream_mean([float(ns) for ns in np.diff(done_ns)])
    longest, shortest = gap.high, gap.low
    return Interval(
        1e9 / gap.value,
        None if longest is None else 1e9 / longest,
        None if shortest is None or shortest <= 0 else 1e9 / shortest,
    )


def _busiest(
    answered: Sequence[FrameRecord], certificate: LinkCertificate | None
) -> tuple[str, float]:
    work: dict[str, Callable[[FrameRecord], float]] = {
        "preprocess": lambda row: row.preprocess_ns,
        "head": lambda row: row.head_ns,
        "encode": lambda row: row.encode_ns,
        "decode": lambda row: row.edge_decode_ns,
        # A batch runs once for all of its frames.
        "tail": lambda row: row.edge_tail_ns / max(1, row.edge_batch),
        "reply encode": lambda row: row.edge_encode_ns,
        "finish": lambda row: row.finish_ns,
    }
    if certificate is not None:
        up_bps, down_bps = certificate.payload_bps("up"), certificate.payload_bps("down")
        work["uplink"] = lambda row: row.request_bytes * 8e9 / up_bps
        work["downlink"] = lambda row: row.reply_bytes * 8e9 / down_bps
    begun_ns = min(row.intended_ns + row.wait_ns for row in answered)
    ended_ns = max(row.intended_ns + row.total_ns for row in answered)
    took = {stage: sum(map(of, answered)) for stage, of in work.items()}
    stage = max(took, key=took.__getitem__)
    return stage, 100 * took[stage] / max(1, ended_ns - begun_ns)


def _dropped(rows: Sequence[FrameRecord]) -> Share:
    parts = _parts_dropped(rows)
    return clustered_share([int(p.sum()) for p in parts], [len(p) for p in parts])


def _parts_dropped(rows: Sequence[FrameRecord]) -> list[Floats]:
    is_dropped = np.array([row.status == "dropped" for row in rows], np.float64)
    return np.array_split(is_dropped, min(_PARTS, len(rows)))


def _grows(growth: Interval | None) -> bool:
    return growth is not None and growth.low is not None and growth.low > _GROWS_MS


def _drops_all_along(rows: Sequence[FrameRecord], dropped: Share | None) -> bool:
    """Not one stall, but in half of the run's parts at least."""
    if dropped is None or dropped.low_pct <= _DROPS_PCT:
        return False
    parts = _parts_dropped(rows)
    return 2 * sum(bool(part.any()) for part in parts) >= len(parts)
