"""Which of a run's frames say most of the peer's clock: a filter for the least delay.

A frame and its reply are a clock exchange whose messages are large and stand in queues. Whatever
they waited for, the inequalities of `splitbed.clock` hold: nothing is faster than the link's least
delays. Nothing more is taken off. Its bytes over the link's rate could be, if no link ever let a
burst through at more than its rate; shapers do, by design.

To use every frame would cost more than it says. Of each interval the one with the least way up and
the one with the least way down, queues included, are enough: within it the clock's rate changes
next to nothing.
"""

from __future__ import annotations

import math
from typing import Final

from splitbed.clock import is_possible
from splitbed.session import ClockExchange

INTERVAL_NS: Final = 1_000_000_000
"""In which the rate wanders by 20 us, and a frame or two are chosen."""


class TightFrames:
    """Chooses from frames that are handed over in the order in which they were answered."""

    def __init__(self, interval_ns: int = INTERVAL_NS) -> None:
        self._interval_ns, self._until_ns = interval_ns, 0
        self._up: ClockExchange | None = None
        self._down: ClockExchange | None = None
        self._least_up = self._least_down = math.inf
        self.rate = 0.0
        """By which the peer's clock is faster, as far as it is known. To choose well only."""

    def take(self, frame: ClockExchange) -> tuple[ClockExchange, ...]:
        """Those chosen from an interval that was over before this frame; mostly none.

        A frame with impossible stamps, and one whose peer does not say when it came (0), is left
        out.
        """
        found: tuple[ClockExchange, ...] = ()
        if frame.received_ns >= self._until_ns:
            found = self.rest()
            self._until_ns = frame.received_ns + self._interval_ns
        # Both but for the offset, and for what clocks drift from there to an instant close by.
        up = frame.peer_received_ns - frame.sent_ns - self.rate * (frame.sent_ns - self._until_ns)
        since_ns = frame.received_ns - self._until_ns
        down = frame.received_ns - frame.peer_sent_ns + self.rate * since_ns
        if up >= self._least_up and down >= self._least_down:
            return found
        if not frame.peer_received_ns or not is_possible(frame):
            return found
        if up < self._least_up:
            self._up, self._least_up = frame, up
        if down < self._least_down:
            self._down, self._least_down = frame, down
        return found

    def rest(self) -> tuple[ClockExchange, ...]:
        """Those chosen from the interval that is not over."""
        up, down = self._up, self._down
        self._up = self._down = None
        self._least_up = self._least_down = math.inf
        if up is None or down is None:
            return ()
        return (up,) if up is down else (up, down)
