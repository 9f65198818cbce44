"""When a run has seen enough."""

from __future__ import annotations

from array import array
from typing import Final, Literal

import numpy as np

from splitbed.latency import is_known
from splitbed.load import LoadPlan

StoppedBy = Literal[
    "frames", "min-s", "until", "max-frames", "max-s", "interrupted", "failed", "running"
]

_EVERY_FRAMES: Final = 32
_EVERY_SHARE: Final = 0.05
"""The interval is computed again when this part, and so many frames, came to the sample: the cost
of sorting stays far below that of the frames."""


class Stopping:
    """Decides frame by frame whether one more is begun. One thread asks, one tells.

    A percentile is known when the interval that the report will print is narrow enough: by the same
    rule, of the same frames (`splitbed.latency`).
    """

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._latencies_ms = array("d")
        self._next_check = _EVERY_FRAMES
        self._narrow_ns: int | None = None
        self.stopped_by: StoppedBy = "running"

    def saw(self, latency_ms: float | None) -> None:
        """One measured frame has its row; None for one without an answer."""
        if self._plan.until is not None and latency_ms is not None:
            self._latencies_ms.append(latency_ms)

    def look(self, now_ns: int) -> None:
        """Compute the interval where enough frames came since the last time.

        `now_ns` counts from the start of the load. Never called while a frame waits for the caller.
        """
        target, count = self._plan.until, len(self._latencies_ms)
        if target is None or self._narrow_ns is not None or count < self._next_check:
            return
        self._next_check = count + max(_EVERY_FRAMES, int(_EVERY_SHARE * count))
        # A slice is a copy: the other thread goes on appending.
        if is_known(np.frombuffer(self._latencies_ms[:count], np.float64), target):
            self._narrow_ns = now_ns

    def ends(self, begun: int, at_ns: int) -> bool:
        """Whether no further frame is begun after `begun` measured ones, the next one at `at_ns`.

        `at_ns` is when it is due, or in a closed loop now, from the start of the load. In an open
        loop frames that were due before the rule was met are begun all the same.
        """
        plan = self._plan
        if plan.max_frames is not None and begun >= plan.max_frames:
            self.stopped_by = "max-frames"
        elif plan.max_s is not None and at_ns >= plan.max_s * 1e9:
            self.stopped_by = "max-s"
        elif (
            begun < plan.frames
            or (plan.min_s is not None and at_ns < plan.min_s * 1e9)
            or (plan.until is not None and (self._narrow_ns is None or at_ns < self._narrow_ns))
        ):
            return False
        elif plan.until is not None:
            self.stopped_by = "until"
        else:
            self.stopped_by = "frames" if plan.min_s is None else "min-s"
        return True
