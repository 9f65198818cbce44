"""Whether answers and uploads are there in time: a deadline, and TR 22.874's budgets.

[P.R.5.1-003] asks for an availability of 99.9 % of uploads, [P.R.5.1-004] for 99.999 % of results;
table 5.1.6.1-1 says what in time is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final, Literal

import msgspec
import numpy as np

from experiments.flow import Load
from experiments.statistics import exact_bounds
from splitbed.dependence import effective
from splitbed.record import FrameRecord

UPLOADED_PCT: Final = 99.9
ANSWERED_PCT: Final = 99.999

BUDGETS_MS: Final = (
    ("one-shot, security, photo", 1000.0, 100.0),
    ("video recognition", 33.0, 10.0),
    ("AR, driving, robotics", 5.0, 2.0),
)
"""TR 22.874 table 5.1.6.1-1: application, image recognition latency, uploading latency. Security is
person identification in surveillance; driving and robotics are the remote-controlled ones."""

Verdict = Literal["met", "missed", "cannot tell"]


class InTime(msgspec.Struct, frozen=True):
    """Frames within a time, against the share of them that is asked for."""

    budget_ms: float
    target_pct: float
    frames: int
    """All that were due: also those that failed, and those that were never sent."""
    in_time: int
    """For certain. What is neither, the bound of the two clocks' offset leaves open."""
    missed: int
    """For certain."""
    stretches: int
    """Runs of missed frames without one in time between them: one stall is one."""
    at_least_pct: float
    """Of all such frames, with 95 % confidence, should every open frame have missed."""
    at_most_pct: float
    """The same the other way, should every open frame have been in time."""
    verdict: Verdict
    """Missed: even `at_most_pct` is below the target. Met: as many of these frames were in time."""
    is_shown: bool
    """Even `at_least_pct` meets the target; few runs have frames enough for that."""


class Budget(msgspec.Struct, frozen=True):
    """What one kind of application leaves to a frame."""

    applications: str
    answered: InTime
    uploaded: InTime


class Availability(msgspec.Struct, frozen=True):
    """Frames in time."""

    deadline: InTime | None
    """By the run's own deadline, where it had one."""
    budgets: tuple[Budget, ...]
    """() for a load that is due all at once."""


def availability(
    rows: Sequence[FrameRecord], load: Load, uplinks: Mapping[int, tuple[int, int]] | None = None
) -> Availability:
    """Of measured rows in their order. `uplinks`: by frame, its way to the edge and the bound."""
    ways = uplinks or {}
    totals = [_answered_ns(row) for row in rows]
    deadline = load.deadline_ms
    if load.kind == "offline":
        return Availability(None, ())
    return Availability(
        None if deadline is None else in_time(totals, deadline, ANSWERED_PCT),
        tuple(
            Budget(
                applications,
                in_time(totals, answered_ms, ANSWERED_PCT),
                in_time(
                    [_uploaded_ns(row, ways.get(row.frame_id)) for row in rows],
                    uploaded_ms,
                    UPLOADED_PCT,
                ),
            )
            for applications, answered_ms, uploaded_ms in BUDGETS_MS
        ),
    )


def in_time(
    between_ns: Sequence[tuple[float, float]], budget_ms: float, target_pct: float
) -> InTime:
    """From the least and the most that each frame took.

    Confidence is Clopper and Pearson's, one-sided: exact also where nearly every frame is in time,
    where Wilson's interval is not. Frames that miss together count as fewer (`effective`).
    """
    least, most = np.asarray(between_ns, np.float64).T / 1e6
    sure, missed = most <= budget_ms, least > budget_ms
    at_least, _ = _confident_pct(sure)
    _, at_most = _confident_pct(~missed)
    verdict: Verdict = "cannot tell"
    if at_most < target_pct:
        verdict = "missed"
    elif 100 * sure.mean() >= target_pct:
        verdict = "met"
    return InTime(
        budget_ms=budget_ms,
        target_pct=target_pct,
        frames=len(sure),
        in_time=int(sure.sum()),
        missed=int(missed.sum()),
        stretches=sum(is_missed for is_missed, _ in groupby(missed.tolist())),
        at_least_pct=at_least,
        at_most_pct=at_most,
        verdict=verdict,
        is_shown=at_least >= target_pct,
    )


def frames_needed(target_pct: float) -> int:
    """Frames without a miss from which on the target is shown with 95 % confidence."""
    return math.ceil(math.log(0.05) / math.log(target_pct / 100))


def _confident_pct(is_so: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[float, float]:
    """Least and most of the share of all such frames, each with 95 % confidence."""
    count, against = len(is_so), int((~is_so).sum())
    if against in (0, count):
        return exact_bounds(count - against, count)
    alone = effective(is_so, 0)
    # Rounded so that each end gives the share more room.
    more = math.ceil(against * alone / count)
    fewer = max(1, math.floor(against * alone / count))
    return exact_bounds(alone - more, alone)[0], exact_bounds(alone - fewer, alone)[1]


def _answered_ns(row: FrameRecord) -> tuple[float, float]:
    took = row.total_ns if row.is_answered else math.inf
    return took, took


def _uploaded_ns(row: FrameRecord, way: tuple[int, int] | None) -> tuple[float, float]:
    """Between what times a frame's message was on its way to the edge; as its row says where
    nothing better is known.

    Without a common clock it is known at least that the way there took no longer than both ways.
    """
    if row.status == "dropped":
        return math.inf, math.inf
    if not row.rtt_ns:  # what failed may have been on its way, or not
        return 0.0, math.inf
    least, most = 0, row.link_ns
    if way is None and row.uplink_ns is not None:
        way = row.uplink_ns, row.uplink_error_ns or 0
    if way is not None:
        least, most = max(least, way[0] - way[1]), min(most, way[0] + way[1])
    return float(least), float(max(least, most))
