"""Frames between submit and their row: each is landed, or given up, exactly once."""

from __future__ import annotations

import threading
import time

import msgspec

from splitbed.record import FrameRecord
from splitbed.tensor import Array


class Sent(msgspec.Struct, eq=False):
    """One frame between submit and finish."""

    row: FrameRecord
    due_ns: int
    local: dict[str, Array]
    """Outputs that the device has itself (everything ran here)."""
    deadline_s: float = 0.0
    """By the monotonic clock: no reply is waited for after it."""


class Flight:
    """At most `window` frames in flight, in order, each for at most `timeout_s` seconds.

    A place is taken with `wait`, and freed once the frame's row is written. Whoever takes a frame
    out (`land` for its reply, `overdue` for a give-up) writes that row; nobody else will.
    """

    def __init__(self, window: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._places = threading.Semaphore(window)
        self._sent: dict[int, Sent] = {}
        self._lock = threading.Lock()

    def wait(self) -> list[Sent]:
        """Take a place; where there will be none, what `overdue` gives, and no place is taken."""
        while True:
            if self._places.acquire(timeout=self._left_s()):
                return []
            late = self.overdue()
            if late:
                return late

    def add(self, sent: Sent) -> None:
        """A frame is about to be submitted, on a place that was taken for it."""
        sent.deadline_s = time.monotonic() + self._timeout_s
        with self._lock:
            self._sent[sent.row.frame_id] = sent

    def land(self, sent: Sent) -> bool:
        """Take one frame out; False where it was given up already."""
        with self._lock:
            return self._sent.pop(sent.row.frame_id, None) is not None

    def overdue(self) -> list[Sent]:
        """Every frame in flight, taken out, where the first of them waits for too long; else none.

        Replies come in order, so that none can come before the first one's.
        """
        with self._lock:
            first = next(iter(self._sent.values()), None)
            if first is None or first.deadline_s > time.monotonic():
                return []
            late = list(self._sent.values())
            self._sent.clear()
            return late

    def free(self) -> None:
        """The row of a frame that was taken out is written."""
        self._places.release()

    @property
    def empty(self) -> bool:
        """Whether no frame is in flight."""
        return not self._sent

    def _left_s(self) -> float | None:
        """Until the first frame's deadline; None without a limit, where no frame is in flight."""
        with self._lock:
            first = next(iter(self._sent.values()), None)
        return None if first is None else max(0.0, first.deadline_s - time.monotonic())
