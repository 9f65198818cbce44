"""The edge's clock, kept track of through a run.

By exchanges while nothing is in flight, and where something always is by the frames themselves.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from splitbed.clock import (
    ClockFacts,
    ClockOffset,
    ClockTrack,
    LeastDelays,
    OneWays,
    basis_of,
    one_ways,
)
from splitbed.clock_frames import TightFrames
from splitbed.errors import TransportError, UsageError
from splitbed.run_folder import RowWriter
from splitbed.session import ClockExchange, Reply
from splitbed.transport import Transport
from splitbed.transport.face import PROBE_TIMEOUT_S

_BURST: Final = 9
_SHORT_BURST: Final = 3
_BURST_NS: Final = 1_000_000_000
"""A burst over a slow link ends after this, but for its first few exchanges."""

_MARGIN_NS: Final = 2_000_000
"""An exchange before a due time must be over by so much, even if it takes twice as long as any of
the last ones."""

_REMEMBERED: Final = 16
_PATIENCE: Final = 10
"""After an exchange that failed, this many intervals pass without one."""


class EdgeClock:
    """Exchanges with one edge. Each is a row, written at once; of frames, their rows tell.

    `idle` is called between frames by whoever submits them; `take` and `one_ways` by any thread.
    """

    def __init__(
        self,
        transport: Transport,
        writer: RowWriter,
        delays: LeastDelays,
        every_s: float,
        patience_s: float = PROBE_TIMEOUT_S,
    ) -> None:
        """No exchange takes longer than `patience_s`."""
        self._patience_s = min(patience_s, PROBE_TIMEOUT_S)
        self._transport, self._writer, self._delays = transport, writer, delays
        self._every_ns = int(every_s * 1e9)
        # The first that stands is believed: the last takes no assumption about the link.
        self._tracks = [ClockTrack(delays)] if delays.are_known else []
        self._tracks.append(ClockTrack())
        self._frames = TightFrames()
        self._adding = threading.Lock()
        self._trips_ns: deque[int] = deque(maxlen=_REMEMBERED)
        self._next_ns = 0
        self.failed = 0
        """Exchanges that did not come about."""

    def burst(self) -> None:
        """Several exchanges, before the first frame; raises what `Transport.probe` does."""
        start_ns = time.perf_counter_ns()
        for done in range(_BURST):
            if done >= _SHORT_BURST and time.perf_counter_ns() - start_ns > _BURST_NS:
                break
            self._exchange()

    def last_burst(self) -> None:
        """Several exchanges after the last frame, so that every frame lies between exchanges."""
        try:
            self.burst()
        except TransportError:  # every frame has its answer: the run is whole without them
            self.failed += 1
        with self._adding:
            self._add_frames(self._frames.rest())

    def idle(self, gap_ns: int | None = None) -> None:
        """Nothing is in flight, and no frame due for `gap_ns` (None: until this returns).

        Makes an exchange where the last one is old enough, and the gap long enough for it.
        """
        now_ns = time.perf_counter_ns()
        if not self._every_ns or now_ns < self._next_ns:
            return
        longest_ns = 2 * max(self._trips_ns, default=0) + _MARGIN_NS
        if gap_ns is not None and gap_ns < longest_ns:
            return
        limit_s = math.inf if gap_ns is None else (gap_ns - _MARGIN_NS) / 1e9
        try:
            self._exchange(limit_s)
        except TransportError:  # what is wrong with the edge, the next frame says better
            self.failed += 1
            self._next_ns = time.perf_counter_ns() + _PATIENCE * self._every_ns

    def at(self, own_ns: int) -> ClockOffset | None:
        """The offset at a time of this node's clock, by the exchanges until now."""
        return self._track.at(own_ns)

    def take(self, reply: Reply) -> None:
        """A frame was answered: whatever it waited for, its time stamps bound the clock.

        Of each second the one or two frames that bound it best are used, once it is over.
        """
        came_ns = reply.times.received_ns
        went_ns = came_ns + reply.times.edge_ns
        stamps = ClockExchange(reply.submitted_ns, came_ns, went_ns, reply.complete_ns)
        with self._adding:
            chosen = self._frames.take(stamps)
            if chosen:
                self._add_frames(chosen)

    def one_ways(self, reply: Reply) -> OneWays:
        """The two ways of a frame, as far as the clock is known by now."""
        return one_ways(
            self.at,
            reply.submitted_ns,
            reply.complete_ns,
            reply.times.received_ns,
            reply.times.edge_ns,
        )

    def facts(self) -> ClockFacts:
        """What is known now."""
        track, now = self._track, self.at(time.perf_counter_ns())
        drift = track.drift
        return ClockFacts(
            basis=basis_of(track),
            least_up_ns=self._delays.up_ns,
            least_down_ns=self._delays.down_ns,
            exchanges=track.exchanges,
            failed=self.failed,
            offset_ns=None if now is None else now.offset_ns,
            error_ns=None if now is None else now.error_ns,
            drift_ppm=None if drift is None else drift.ppm,
            drift_error_ppm=None if drift is None else drift.error_ppm,
            frames=track.frames,
        )

    @property
    def _track(self) -> ClockTrack:
        return next((t for t in self._tracks if not t.contradicted), self._tracks[-1])

    def _exchange(self, limit_s: float = math.inf) -> None:
        found = self._transport.probe(min(self._patience_s, limit_s))
        self._trips_ns.append(found.received_ns - found.sent_ns)
        self._next_ns = found.received_ns + self._every_ns
        self._writer.write(found)
        with self._adding:
            for track in self._tracks:
                track.add(found)

    def _add_frames(self, chosen: Iterable[ClockExchange]) -> None:
        for stamps in chosen:
            for track in self._tracks:
                track.add_frame(stamps)
        drift = self._track.drift
        self._frames.rate = 0.0 if drift is None else drift.ppm / 1e6


def least_delays(text: str) -> LeastDelays:
    """`UP,DOWN` in milliseconds, as on a command line; UsageError for anything else."""
    if not text:
        return LeastDelays()
    try:
        up_ms, down_ms = map(float, text.split(","))
    except ValueError:
        up_ms = down_ms = math.nan
    if not (0 <= up_ms <= 60_000 and 0 <= down_ms <= 60_000):
        raise UsageError(
            f"--link-delay-ms {text[:100]}: write UP,DOWN in milliseconds up to 60000, as in 20,20"
        )
    return LeastDelays(int(up_ms * 1e6), int(down_ms * 1e6))
