"""What a process uses while it works, sampled on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import psutil

from splitbed.errors import RecordError
from splitbed.record import ResourceSample
from splitbed.session import Node

SOURCE: Final = f"psutil {psutil.__version__} (measured)"


class ResourceSampler:
    """Samples CPU time, memory and threads of this process every `interval_s` seconds.

    Each sample goes to `sink`. A sink that fails ends the sampling, never the run: the failure is
    kept in `error`.
    """

    def __init__(
        self, node: Node, run_id: str, sink: Callable[[ResourceSample], None], interval_s: float
    ) -> None:
        self.error: RecordError | None = None
        self._node, self._run_id, self._sink = node, run_id, sink
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="resources", daemon=True)

    def start(self) -> None:
        """Begin sampling."""
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _work(self) -> None:
        process = psutil.Process()
        start_ns = last_ns = time.perf_counter_ns()
        last_cpu_ns = time.process_time_ns()
        last_times = psutil.cpu_times()
        done = False
        while not done:
            done = self._stop.wait(self._interval_s)
            now_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
            interval_ns = now_ns - last_ns
            if interval_ns <= 0:
                continue
            times = psutil.cpu_times()
            with process.oneshot():
                sample = ResourceSample(
                    run_id=self._run_id,
                    node=self._node,
                    t_ns=now_ns - start_ns,
                    interval_ns=interval_ns,
                    process_cpu_ns=cpu_ns - last_cpu_ns,
                    process_cpu_pct=100 * (cpu_ns - last_cpu_ns) / interval_ns,
                    system_cpu_pct=_busy_pct(last_times, times),
                    rss_bytes=process.memory_info().rss,
                    threads=process.num_threads(),
                    source=SOURCE,
                )
            last_ns, last_cpu_ns, last_times = now_ns, cpu_ns, times
            try:
                self._sink(sample)
            except RecordError as error:
                self.error = error
                return


def _busy_pct(before: Any, after: Any) -> float:
    """Share of all cores' time between two readings that was not idle, in percent.

    Kept within 0 and 100: a kernel may take back time that it had booked as waiting for a disk, and
    what is left of differences of large sums may lie a rounding below zero.
    """
    passed = {name: getattr(after, name) - getattr(before, name) for name in after._fields}
    # A guest's time is part of `user` and `nice` already (proc(5)).
    spent = sum(passed.values()) - passed.get("guest", 0) - passed.get("guest_nice", 0)
    idle = passed["idle"] + passed.get("iowait", 0)
    return min(100.0, max(0.0, 100 * (1 - idle / spent))) if spent > 0 else 0.0
