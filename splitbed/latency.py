"""What is known of the latency of frames: one rule, for `--until` and for what a report prints.

A frame has a latency if it has an answer, be it late. One that was dropped or failed has none, and
is counted where it belongs, among those that were due and not in time: a percentile that took it
for infinitely slow would say less of the frames that were answered, and nothing new of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitbed.dependence import memory, stream_ranks
from splitbed.load import Target
from splitbed.percentile import Floats, Percentile, enclosed
from splitbed.record import FrameRecord


def latency_ms(row: FrameRecord) -> float | None:
    """From when the frame was due until its answer was there; None without one."""
    return row.total_ns / 1e6 if row.is_answered else None


def stream_percentile(samples: Sequence[float] | Floats, share: float, alike: int) -> Percentile:
    """The `share` quantile of samples in their order, `alike` being their `memory`.

    The interval is that of `percentile`, by the binomial distribution, for so many independent
    samples as tell as much as these: their number over the factor by which likeness widens the
    variance of the count of samples at or below the quantile. Without a memory it is `percentile`'s
    own. Taken for independent, frames that waited together would be known far too early.
    """
    values = np.asarray(samples, np.float64)
    if len(values) == 0:
        raise ValueError("no samples")
    ordered = np.sort(values)
    value = float(np.quantile(ordered, share))
    return enclosed(ordered, value, *stream_ranks(values, value, share, alike))


def is_known(latencies_ms: Sequence[float] | Floats, target: Target) -> bool:
    """Whether the percentile that a report prints of these frames, in their order, is narrow."""
    if len(latencies_ms) == 0:
        return False
    found = stream_percentile(latencies_ms, target.share, memory(latencies_ms))
    return found.is_within(target.within)
