"""What one session has had of its edge so far."""

from __future__ import annotations

import threading
import time

import msgspec

from splitbed.session import Reply, SessionSpec


class Balance(msgspec.Struct, frozen=True):
    """An account at one instant. Times are sums over the frames, in nanoseconds."""

    number: int
    """Of the session, counted from the edge's start; its id is nobody else's business."""
    spec: SessionSpec
    provider: str
    open_s: float
    frames: int
    """Answered, failed ones included."""
    failed: int
    up_bytes: int
    down_bytes: int
    queue_ns: int
    tail_ns: int
    """Of tails; where frames shared a run, each has its share."""
    batch_sum: int
    """Sum of the batch sizes: over `frames` it is the mean."""
    batch_most: int
    why_single: str
    """Why its frames are not batched, where the edge batches."""


class Account:
    """Counts for one session; written by its stream, read by the pages."""

    def __init__(self, number: int, spec: SessionSpec, provider: str, why_single: str) -> None:
        self._number, self._spec = number, spec
        self._provider, self._why_single = provider, why_single
        self._opened_s = time.monotonic()
        self._lock = threading.Lock()
        self._frames = self._failed = self._up_bytes = self._down_bytes = 0
        self._queue_ns = self._tail_ns = self._batch_sum = self._batch_most = 0

    def add(self, reply: Reply, request_bytes: int, reply_bytes: int) -> None:
        """One frame was answered."""
        times = reply.times
        with self._lock:
            self._frames += 1
            self._failed += reply.error is not None
            self._up_bytes += request_bytes
            self._down_bytes += reply_bytes
            self._queue_ns += times.queue_ns
            self._tail_ns += times.tail_ns // times.batch
            self._batch_sum += times.batch
            self._batch_most = max(self._batch_most, times.batch)

    def balance(self) -> Balance:
        """As it stands now."""
        with self._lock:
            return Balance(
                number=self._number,
                spec=self._spec,
                provider=self._provider,
                open_s=time.monotonic() - self._opened_s,
                frames=self._frames,
                failed=self._failed,
                up_bytes=self._up_bytes,
                down_bytes=self._down_bytes,
                queue_ns=self._queue_ns,
                tail_ns=self._tail_ns,
                batch_sum=self._batch_sum,
                batch_most=self._batch_most,
                why_single=self._why_single,
            )
