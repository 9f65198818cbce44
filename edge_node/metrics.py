"""What an edge counts, in Prometheus' terms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_node.account import Balance
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
        self.lost_rows = 0
        """Audit rows that could not be written."""
        self.refusals = 0
        """Sessions that were refused."""
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

    def watch(self, balances: Callable[[], Sequence[Balance]]) -> None:
        """Show the accounts of the sessions that are open whenever somebody looks."""
        self._registry.register(_Sessions(balances))

    def sessions(self, count: int) -> None:
        """How many are open now."""
        self._sessions.set(count)

    def refused(self, kind: str) -> None:
        """One session was refused."""
        self._refused.labels(kind).inc()
        with self._lock:
            self.refusals += 1

    def lost_row(self) -> int:
        """One audit row could not be written; how many that makes."""
        self._lost.inc()
        with self._lock:
            self.lost_rows += 1
            return self.lost_rows

    def text(self) -> bytes:
        """Everything, for a scraper."""
        return generate_latest(self._registry)


class _Sessions(Collector):
    """One sample for each open session; what was closed leaves no label behind."""

    def __init__(self, balances: Callable[[], Sequence[Balance]]) -> None:
        self._balances = balances

    def describe(self) -> list[Metric]:
        """Nothing: its names need no look at the sessions."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family, read off the accounts at this instant."""
        labels = ("session", "run", "model")
        frames = CounterMetricFamily(
            "splitbed_session_frames", "Frames answered", labels=(*labels, "outcome")
        )
        sizes = CounterMetricFamily(
            "splitbed_session_bytes", "Bytes of messages", labels=(*labels, "direction")
        )
        tails = CounterMetricFamily(
            "splitbed_session_tail_seconds", "Time of tails, shared runs shared", labels=labels
        )
        queue = CounterMetricFamily(
            "splitbed_session_queue_seconds", "Time that frames waited", labels=labels
        )
        batch = GaugeMetricFamily(
            "splitbed_session_batch_mean", "Frames that shared a run, on average", labels=labels
        )
        for one in self._balances():
            of = (str(one.number), one.spec.run_id, one.spec.model)
            frames.add_metric((*of, "ok"), one.frames - one.failed)
            frames.add_metric((*of, "failed"), one.failed)
            sizes.add_metric((*of, "up"), one.up_bytes)
            sizes.add_metric((*of, "down"), one.down_bytes)
            tails.add_metric(of, one.tail_ns / 1e9)
            queue.add_metric(of, one.queue_ns / 1e9)
            batch.add_metric(of, one.batch_sum / one.frames if one.frames else 0)
        yield from (frames, sizes, tails, queue, batch)
