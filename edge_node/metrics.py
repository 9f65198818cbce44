"""What an edge counts, in Prometheus' terms."""

from __future__ import annotations

import threading
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from splitbed.session import Reply

_SECONDS: Final = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
_STAGES: Final = ("queue", "decode", "tail", "encode")


class Metrics:
    """Counters of one edge; `text` is Prometheus' exposition format."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._frames = Counter(
            "splitbed_frames", "Frames worked on", ("model", "status"), registry=registry
        )
        self._bytes = Counter(
            "splitbed_bytes",
            "Bytes of messages: frames up, replies down",
            ("model", "direction"),
            registry=registry,
        )
        self._stages = Histogram(
            "splitbed_stage_seconds",
            "Time of one frame at the edge, by stage",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._sessions = Gauge("splitbed_sessions_open", "Sessions open", registry=registry)
        self._refused = Counter(
            "splitbed_sessions_refused", "Sessions refused", ("kind",), registry=registry
        )
        self._lost = Counter("splitbed_audit_rows_lost", "Rows not written", registry=registry)
        self._lock = threading.Lock()
        self._lost_rows = 0
        self.frames = 0
        """Frames worked on, failed ones included."""

    def frame(self, model: str, reply: Reply, request_bytes: int, reply_bytes: int) -> None:
        """One frame is done."""
        status = "ok" if reply.error is None else reply.error.kind
        self._frames.labels(model, status).inc()
        self._bytes.labels(model, "up").inc(request_bytes)
        self._bytes.labels(model, "down").inc(reply_bytes)
        times = reply.times
        for stage, ns in zip(
            _STAGES,
            (times.queue_ns, times.decode_ns, times.tail_ns, times.encode_ns),
            strict=True,
        ):
            self._stages.labels(model, stage).observe(ns / 1e9)
        with self._lock:
            self.frames += 1

    def sessions(self, count: int) -> None:
        """How many are open now."""
        self._sessions.set(count)

    def refused(self, kind: str) -> None:
        """One session was refused."""
        self._refused.labels(kind).inc()

    def lost_row(self) -> int:
        """One audit row could not be written; how many that makes."""
        self._lost.inc()
        with self._lock:
            self._lost_rows += 1
            return self._lost_rows

    def text(self) -> bytes:
        """Everything, for a scraper."""
        return generate_latest(self._registry)
