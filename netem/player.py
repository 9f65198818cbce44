"""Plays a trace on the two directions of a relay."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right

from netem.drift import Drift
from netem.schedule import Schedule
from netem.shaper import Shaper
from netem.trace_steps import pieces
from splitbed.errors import LinkError
from splitbed.link import LinkProfile, Replay, Trace


class Player:
    """A trace over a profile, and whether it is being replayed."""

    def __init__(self, profile: LinkProfile, trace: Trace, up: Shaper, down: Shaper) -> None:
        for step in trace.steps:
            for word, change in (("uplink", step.up), ("downlink", step.down)):
                if change.loss_pct:
                    raise LinkError(
                        f"the trace {trace.name} asks for loss on the {word} from second "
                        f"{step.at_ns / 1e9:g} on, which a relay of TCP connections cannot make: "
                        "use the kernel backend, or a trace without loss"
                    )
        self.trace = trace
        self._digest = trace.digest  # takes a while, which bytes under way must not wait for
        self._shapers = up, down
        self._usual = Schedule(profile.up), Schedule(profile.down)
        self._traced = (
            Schedule(profile.up, pieces(trace, "up"), trace.duration_ns),
            Schedule(profile.down, pieces(trace, "down"), trace.duration_ns),
        )
        self._lock = threading.Lock()
        self._began_ns: int | None = None
        self._drift = Drift()

    @property
    def peak_up_bps(self) -> float | None:
        """Largest payload rate of the uplink, in bit/s; None where it is left alone at times."""
        peaks_bps = [schedule.peak_bps for schedule in (self._usual[0], self._traced[0])]
        return None if None in peaks_bps else max(filter(None, peaks_bps))

    def replay(self, begin: bool) -> Replay | None:
        """Begin the trace anew, or go back to the profile; what came of the replay until now."""
        with self._lock:
            now_ns = time.perf_counter_ns()
            found = self._report(now_ns)
            self._began_ns, self._drift = now_ns if begin else None, Drift()
            if begin or found:
                schedules = self._traced if begin else self._usual
                for shaper, schedule in zip(self._shapers, schedules, strict=True):
                    shaper.drift = self._drift if begin else None
                    shaper.follow(schedule, now_ns)
            return found

    def _report(self, now_ns: int) -> Replay | None:
        if self._began_ns is None:
            return None
        trace, elapsed_ns = self.trace, now_ns - self._began_ns
        rounds, rest_ns = divmod(elapsed_ns, trace.duration_ns)
        return Replay(
            trace=trace.name,
            digest=self._digest,
            elapsed_ns=elapsed_ns,
            changes=rounds * len(trace.steps)
            + bisect_right(trace.steps, rest_ns, key=lambda step: step.at_ns),
            drift_p50_ns=self._drift.p50_ns,
            drift_max_ns=self._drift.max_ns,
        )
