"""Frames between submit and their row: each is landed, or given up, exactly once."""

from __future__ import annotations

import threading
import time

from device_node.begun import Begun


class Flight:
    """At most `window` frames in flight, in order, each for at most `timeout_s` seconds.

    A place is taken with `wait`, and freed with `free`. Whoever takes a frame out (`land` for its
    reply, `overdue` for a give-up) sees to its row; nobody else will.
    """

    def __init__(self, window: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._places = threading.Semaphore(window)
        self._sent: dict[int, Begun] = {}
        self._lock = threading.Lock()

    def wait(self) -> list[Begun]:
        """Take a place; where there will be none, what `overdue` gives, and no place is taken."""
        while True:
            if self._places.acquire(timeout=self._left_s()):
                return []
            late = self.overdue()
            if late:
                return late

    def add(self, frame: Begun) -> None:
        """A frame is about to be submitted, on a place that was taken for it."""
        frame.deadline_s = time.monotonic() + self._timeout_s
        with self._lock:
            self._sent[frame.row.frame_id] = frame

    def land(self, frame: Begun) -> bool:
        """Take one frame out; False where it was given up already."""
        with self._lock:
            return self._sent.pop(frame.row.frame_id, None) is not None

    def overdue(self) -> list[Begun]:
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
        """A frame that was taken out no longer counts."""
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
