"""All rows of a codec bench together: each against the picture itself, and pooled over the cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from experiments.bench_rows import BreakEven, Row, break_even
from experiments.codec_bench import LeftOut, Measured
from experiments.cut_rule import RuleCut
from experiments.score import PooledScore, Score, TaskMetric, Terms
from splitbed.tensor import TensorSpec

MOST_LOSS: Final = 1.0
"""Points of accuracy that a codec may lose and still be named as usable."""
LEAST_AGREEMENT_PCT: Final = 98.0
"""Of its answers that must be the uncut model's."""

ANCHOR_CODECS: Final = (
    *(f"jpeg:{quality}" for quality in (10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95)),
    *("png", "raw"),
)
"""The picture instead of features, on the same pictures."""


class Against(msgspec.Struct, frozen=True):
    """A row against the smallest anchor that is no worse."""

    anchor: str
    """Its codec."""
    payload_bytes: float
    """Its median."""
    factor: float
    """Its bytes over the row's: below 1 coding the cut loses."""
    break_even: BreakEven
    """Of the row against the anchor, the network's own time left out."""


class ComparedRow(msgspec.Struct, frozen=True):
    """A row with what the picture would take."""

    row: Row
    at_equal_loss: Against | None
    """None without labels."""
    at_equal_agreement: Against | None


class CutReport(msgspec.Struct, frozen=True):
    """One cut with its codecs, smallest payload first."""

    name: str
    boundary: tuple[TensorSpec, ...]
    macs_pct: float
    taken_for: tuple[RuleCut, ...]
    """Why the rule took it; empty where a person named it."""
    rows: tuple[ComparedRow, ...]
    smallest: str | None
    """The codec with the fewest bytes within the limits of loss and agreement, if any."""
    smallest_tiles: str | None
    """Likewise of those for comparison, which no session can have."""
    smallest_same: str | None = None
    """The codec with the fewest bytes that leaves every answer as the uncut model's, if any."""


class Pooled(msgspec.Struct, frozen=True):
    """One codec at all cuts of the network."""

    codec: str
    cuts: int
    least_factor: float
    most_factor: float
    most_bits_per_element: float
    score: PooledScore


class BenchReport(msgspec.Struct, frozen=True):
    """What `splitbed codec bench --json` prints."""

    model: str
    model_sha256: str
    terms: Terms
    """What kind of answers the model gives, and what their figures are called."""
    pictures: int
    labelled: int
    folds: int
    calibration_pictures: tuple[int, ...]
    """Of each fold: those of the other folds."""
    warmup_frames: int
    """Coded before the times count, in each fold."""
    threads: int
    seed: int
    complete: bool
    """False where it was interrupted."""
    cuts: tuple[CutReport, ...]
    anchors: tuple[Row, ...]
    """The picture itself."""
    smallest_anchor: str | None
    """As `smallest` of a cut."""
    pooled: tuple[Pooled, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    versions: dict[str, Any]
    most_loss_points: float = MOST_LOSS
    least_agreement_pct: float = LEAST_AGREEMENT_PCT


def within_limits(score: Score) -> bool:
    """Whether answers are good enough for a codec to be named as usable."""
    loses = 0.0 if score.loss is None else score.loss.points
    return loses <= MOST_LOSS and score.agreement.pct >= LEAST_AGREEMENT_PCT


def smallest(rows: Iterable[Row]) -> str | None:
    """The codec of the usable row with the fewest bytes."""
    usable = [row for row in rows if within_limits(row.score)]
    return min(usable, key=lambda row: row.payload_bytes.value).codec if usable else None


def smallest_same(rows: Iterable[Row]) -> str | None:
    """The codec of the row with the fewest bytes that changes no answer."""
    same = [row for row in rows if row.score.agreement.pct == 100]
    return min(same, key=lambda row: row.payload_bytes.value).codec if same else None


def compared(row: Row, anchors: Sequence[Row]) -> ComparedRow:
    """A row against the anchors that lose no more, and against those that agree no less.

    A row that gains by luck is compared with anchors that lose nothing.
    """
    loss = row.score.loss
    points = 0.0 if loss is None else max(0.0, loss.points)
    agreement = row.score.agreement.pct
    return ComparedRow(
        row,
        None
        if loss is None
        else _against(row, anchors, lambda s: s.loss is not None and s.loss.points <= points),
        _against(row, anchors, lambda s: s.agreement.pct >= agreement),
    )


def _against(row: Row, anchors: Sequence[Row], good: Callable[[Score], bool]) -> Against | None:
    found = [anchor for anchor in anchors if good(anchor.score)]
    if not found:
        return None
    anchor = min(found, key=lambda anchor: anchor.payload_bytes.value)
    size, own = anchor.payload_bytes.value, row.payload_bytes.value
    extra_ns = 1e6 * (row.coding_ms - anchor.coding_ms)
    return Against(
        anchor=anchor.codec,
        payload_bytes=size,
        factor=size / max(1.0, own),
        break_even=break_even(size - own, extra_ns),
    )


def pooled(cuts: Mapping[str, Sequence[Measured]], metric: TaskMetric) -> tuple[Pooled, ...]:
    """Every codec that was measured at all of the cuts, over all of them."""
    by_codec: dict[str, list[Measured]] = {}
    for measured in cuts.values():
        for one in measured:
            by_codec.setdefault(one.row.codec, []).append(one)
    return tuple(
        Pooled(
            codec=text,
            cuts=len(found),
            least_factor=min(one.row.factor for one in found),
            most_factor=max(one.row.factor for one in found),
            most_bits_per_element=max(one.row.bits_per_element for one in found),
            score=metric.pooled([one.answers for one in found]),
        )
        for text, found in by_codec.items()
        if len(found) == len(cuts)
    )
