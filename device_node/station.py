"""Stages on threads of their own, and how frames come from one to the next."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Final

from device_node.begun import Begun

QUICK_NS: Final = 500_000
"""A stage that takes less does not keep its thread awake: two changes of threads take as long."""


class Line:
    """From one stage to the next, with room for one frame; None is the end.

    Of two queues that Python has in C: `queue.Queue` takes 2 us where this takes 0.3, and as it
    holds Python's lock meanwhile it holds up the other stages.
    """

    def __init__(self) -> None:
        self._frames: queue.SimpleQueue[Begun | None] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._room.put(None)

    def put(self, frame: Begun | None) -> None:
        """Hand one over; waits for room."""
        self._room.get()
        self._frames.put(frame)

    def get(self) -> Begun | None:
        """Take one; waits for it."""
        frame = self._frames.get()
        self._room.put(None)
        return frame


class Station:
    """A stage on a thread of its own, with room for one frame before it, in the frames' order.

    Where its last frame was over sooner than a thread wakes up, and its thread has nothing to do,
    whoever brings a frame carries it through and on: small frames would cost more to hand over than
    all their stages. One thread at a time brings frames.
    """

    def __init__(self, carry: Callable[[Begun], bool], following: Station | None) -> None:
        self._carry, self._following = carry, following
        self._line = Line()
        self._quick = False
        self._brought = self._done = 0
        """Frames for the thread, and those that it has carried through and brought on."""

    def bring(self, frame: Begun) -> None:
        """The next frame; waits for room, or until it is through."""
        if self._quick and self._brought == self._done:
            self._take(frame)
        else:
            self._brought += 1
            self._line.put(frame)

    def end(self) -> None:
        """No further frame comes."""
        self._line.put(None)

    def work(self) -> None:
        """What its thread does."""
        while (frame := self._line.get()) is not None:
            self._take(frame)
            self._done += 1
        if self._following is not None:
            self._following.end()

    def _take(self, frame: Begun) -> None:
        start_ns = time.perf_counter_ns()
        goes_on = self._carry(frame)
        self._quick = time.perf_counter_ns() - start_ns < QUICK_NS
        if goes_on and self._following is not None:
            self._following.bring(frame)
