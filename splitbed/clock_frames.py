"""Which of a run's frames say most of the peer's clock: a filter for the least delay.

A frame and its reply are a clock exchange whose messages are large and stand in queues. Whatever
they waited for, the inequalities of `splitbed.clock` hold: nothing is faster than the link's least
delays. Nothing more is taken off. A frame's bytes over the link's rate would be, if no shaper ever
let a burst through; they do.

To use every frame would cost more than it says. In each interval the one with the least way up and
the one with the least way down, queues included, are enough: between them the clock wanders by next
to nothing.
"""

from __future__ import annotations

from typing import Final

from splitbed.clock import is_possible
from splitbed.session import ClockExchange

INTERVAL_NS: Final = 500_000_000
"""In which the rate wanders by 10 us, and a frame or two are chosen."""


class TightFrames:
    """Chooses from frames that are handed over in the order in which they were answered."""

    def __init__(self, interval_ns: int = INTERVAL_NS) -> None:
        self._interval_ns = interval_ns
        self._until_ns: int | None = None
        self._up: ClockExchange | None = None
        self._down: ClockExchange | None = None
        self._least_up = self._least_down = 0.0
        self.rate = 0.0
        """By which the peer's clock is faster, as far as it is known. To choose well only."""

    def take(self, frame: ClockExchange) -> tuple[ClockExchange, ...]:
        """Those chosen from an interval that was over before this frame; mostly none.

        A frame with impossible stamps, and one whose peer does not say when it came (0), is left
        out.
        """
        if not frame.peer_received_ns or not is_possible(frame):
            return ()
        found: tuple[ClockExchange, ...] = ()
        if self._until_ns is None or frame.received_ns >= self._until_ns:
            found = self.rest()
            self._until_ns = frame.received_ns + self._interval_ns
        # Both but for the offset, and for the drift since an instant of the same interval.
        up = frame.peer_received_ns - frame.sent_ns - self.rate * (frame.sent_ns - self._until_ns)
        down = frame.received_ns - frame.peer_sent_ns
        down += self.rate * (frame.received_ns - self._until_ns)
        if self._up is None or up < self._least_up:
            self._up, self._least_up = frame, up
        if self._down is None or down < self._least_down:
            self._down, self._least_down = frame, down
        return found

    def rest(self) -> tuple[ClockExchange, ...]:
        """Those chosen from the interval that is not over."""
        up, down = self._up, self._down
        self._up = self._down = None
        if up is None or down is None:
            return ()
        return (up,) if up is down else (up, down)
