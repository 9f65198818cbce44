"""What a process uses while it works, sampled on a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Final

import psutil

from splitbed.errors import RecordError
from splitbed.record import NodeResources, Phase, ResourceSample
from splitbed.resources.meters import Meters, Snapshot, borrow, give_back
from splitbed.resources.process import rss_bytes
from splitbed.resources.system import busy_ns, busy_pct
from splitbed.session import Node

SOURCE: Final = "/proc or psutil (measured)"


class ResourceSampler:
    """Samples what this process and its machine use every `interval_s` seconds.

    Each sample goes to `sink`; `about` gets what holds for all of them, once at the start and once
    at the end. One of them that fails, or a meter that does, ends the sampling, never the run: the
    failure is kept in `error` and told to `lost`, once. Samplers of one process share their meters,
    so that an edge with many sessions reads them no more often than one with a single session.
    """

    def __init__(
        self,
        node: Node,
        run_id: str,
        sink: Callable[[ResourceSample], None],
        interval_s: float,
        *,
        about: Callable[[NodeResources], None] | None = None,
        phase: Phase = "frames",
        memory_bytes: dict[str, int] | None = None,
        lost: Callable[[RecordError], None] | None = None,
    ) -> None:
        self.error: RecordError | None = None
        self._node, self._run_id, self._sink, self._about = node, run_id, sink, about
        self._lost = lost
        self._interval_s = interval_s
        self._phase: Phase = phase
        self._next: Phase = phase
        self._memory_bytes = dict(memory_bytes or {})
        self._meters: Meters | None = None
        self._first: Snapshot | None = None
        self._woken = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="resources", daemon=True)

    def start(self) -> None:
        """Begin sampling: the first sample covers the time from here. Never raises."""
        try:
            self._meters = borrow(self._node)
            self._first = self._meters.read()
            self._thread.start()
        except Exception as error:  # a machine has more ways to refuse than we know
            self._end(error)

    def enter(self, phase: Phase) -> None:
        """Another phase begins: a sample ends the one before. Does not wait for it."""
        if phase != self._next:
            self._next = phase
            self._woken.set()

    def mark(self, name: str) -> None:
        """Keep the process's memory now under a name; the first time counts."""
        if name not in self._memory_bytes:
            with contextlib.suppress(OSError, psutil.Error):
                self._memory_bytes[name] = rss_bytes()

    def stop(self) -> None:
        """Take a last sample and end."""
        self._stopped = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _work(self) -> None:
        assert self._meters is not None
        try:
            self._tell(self._meters)
            self._sample(self._meters)
            self._tell(self._meters)
        except Exception as error:  # as in `start`
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        """Give the meters back, and keep and tell what ended the sampling early."""
        try:
            if self._meters is not None:
                give_back(self._node)
        except Exception as failure:
            error = error or failure
        if error is None:
            return
        if not isinstance(error, RecordError):
            error = RecordError(
                f"this machine's meters failed unexpectedly ({type(error).__name__}: {error}), "
                "please report it"
            )
        self.error = error
        if self._lost is not None:
            self._lost(error)

    def _tell(self, meters: Meters) -> None:
        if self._about is not None:
            start_ns = None if self._first is None else self._first.t_ns
            self._about(NodeResources(meters.sources(), dict(self._memory_bytes), start_ns))

    def _sample(self, meters: Meters) -> None:
        assert self._first is not None
        # Another session's sampler may have read just now: that is soon enough.
        age_ns = int(self._interval_s * 0.5e9)
        last = first = self._first
        done = False
        while not done:
            woken = self._woken.wait(self._interval_s)
            # Cleared before it is read what it was about: what is told meanwhile wakes again.
            self._woken.clear()
            done, phase = self._stopped, self._next
            now = meters.read(0 if woken or done else age_ns)
            interval_ns = now.t_ns - last.t_ns
            if interval_ns <= 0:
                continue
            used, before = now.process, last.process
            cpu_ns = used.cpu_ns - before.cpu_ns
            sample = ResourceSample(
                run_id=self._run_id,
                node=self._node,
                t_ns=now.t_ns - first.t_ns,
                interval_ns=interval_ns,
                process_cpu_ns=cpu_ns,
                process_cpu_pct=100 * cpu_ns / interval_ns,
                system_cpu_pct=busy_pct(last.system, now.system),
                rss_bytes=used.rss_bytes,
                threads=used.threads,
                source=SOURCE,
                phase=self._phase,
                system_cpu_ns=busy_ns(last.system, now.system),
                rss_peak_bytes=used.rss_peak_bytes,
                voluntary_switches=_passed(before.voluntary_switches, used.voluntary_switches),
                involuntary_switches=_passed(
                    before.involuntary_switches, used.involuntary_switches
                ),
                readings=now.readings,
            )
            last, self._phase = now, phase
            self._sink(sample)


def _passed(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
