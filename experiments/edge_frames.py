"""Which of an edge's resource samples are of measured frames: an edge is not told of warm-up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from splitbed.record import EdgeFrameRecord, FrameRecord, ResourceSample


class EdgeFrames(msgspec.Struct, frozen=True):
    """Samples of phase `frames`, and the frames that fell into them."""

    samples: list[ResourceSample]
    """All samples; those with warm-up frames in them are of phase `warmup`, where that is known."""
    frames: int
    counted: str
    """What these frames are, and how that is known."""


def edge_frames(
    samples: Sequence[ResourceSample],
    start_ns: int | None,
    rows: Iterable[EdgeFrameRecord],
    device_rows: Iterable[FrameRecord],
) -> EdgeFrames:
    """Take the warm-up out of the samples of one edge, by what the device's rows say of it.

    `start_ns` is the edge's clock at the start of its sampler. The device's rows hold the instants
    of the same clock at which each frame reached the edge, as its replies told: nothing is asked of
    the offset of two clocks. A sample is of measured frames if it began when the first of them was
    there and the last of warm-up had left. A frame counts where its middle lies, for one may be
    under way when a sample begins. Where there is no such sample, warm-up stays in both the samples
    and the count, and `counted` says why.
    """
    entered = list(samples)
    middles_ns = [row.received_ns + row.edge_ns // 2 for row in rows]
    stamped = [row for row in device_rows if row.edge_received_ns]
    arrived_ns = [row.edge_received_ns for row in stamped if not row.warmup]
    warm_ns = [row.edge_received_ns + row.edge_ns for row in stamped if row.warmup]
    if start_ns is None:
        why = "these samples do not say when they began"
    elif not arrived_ns:
        why = "no row of the device says when a measured frame came"
    else:
        since_ns = max([min(arrived_ns), *warm_ns]) - start_ns
        entered = [
            msgspec.structs.replace(sample, phase="warmup")
            if sample.phase == "frames" and sample.t_ns - sample.interval_ns < since_ns
            else sample
            for sample in samples
        ]
        begun_ns = [s.t_ns - s.interval_ns for s in entered if s.phase == "frames"]
        if begun_ns:
            return EdgeFrames(
                entered,
                sum(middle_ns - start_ns >= min(begun_ns) for middle_ns in middles_ns),
                "warm-up left out by the device's rows",
            )
        why = "no sample began after it"
    # A sample ends the rest when the first reply is sent: that frame is in none of the others.
    return EdgeFrames(list(samples), max(0, len(middles_ns) - 1), f"warm-up among them: {why}")
