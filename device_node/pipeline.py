"""The device's stages on threads of their own, several frames at once, in order.

    read -> preprocess (due) -> head -> encode, window, submit -> .. reply .. -> finish

Between two stages there is room for one frame, and behind `submit` for those of the window, so
that no more than `window` + 8 frames exist at once and a slow stage holds up those before it. A
frame's waits between stages are its `queue_ns`. Stages that are over sooner than a thread wakes up
share one (`device_node.station`).
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from device_node.arrivals import due_times
from device_node.begun import Begun
from device_node.flight import Flight
from device_node.ledger import Ledger
from device_node.source import Camera
from device_node.stages import Stages, failed
from device_node.station import Station
from device_node.stopping import Stopping
from splitbed.errors import PictureUnreadable, SplitbedError, TransportError
from splitbed.load import LoadPlan
from splitbed.transport import Session

_POLL_S: Final = 0.05
_LEAD_NS: Final = 10_000_000
"""From the end of warm-up to the start of an open loop: its first pictures are read by then."""
_LOOK_NS: Final = 4_000_000
"""How often somebody looks whether the frames in flight are over, where that is of use."""
_FINE_NS: Final = 1_000_000
_SPIN_NS: Final = 80_000
"""Linux wakes a sleeper up to 50 us late by default: so much is waited for awake."""

Stage = Callable[[Begun, int], int]
"""Works on a frame from a time on; when it ended."""


class Pipeline:
    """Carries out one load. Whatever happens, `run` ends with every thread, and a row a frame."""

    def __init__(
        self,
        plan: LoadPlan,
        stages: Stages,
        session: Session,
        timeout_s: float,
        ledger: Ledger,
        stopping: Stopping,
        start_ns: int,
        idle: Callable[[int | None], None],
    ) -> None:
        self._plan, self._stages, self._session = plan, stages, session
        self._flight = Flight(plan.window, timeout_s)
        self._ledger, self._stopping = ledger, stopping
        self._idle = idle
        self._start_ns = self.load_ns = start_ns
        """`load_ns`: when the load began, warm-up over, by the monotonic clock."""
        self._stop = threading.Event()
        self._landed: queue.SimpleQueue[Begun | None] = queue.SimpleQueue()

    def run(
        self,
        make: Callable[[int], Begun],
        warmup: int,
        stop: threading.Event,
        progress: Callable[[int], None],
    ) -> None:
        """Begin frames until the rule is met, a person stops it, or the run ends early."""
        send = Station(self._through(self._send), None)
        head = Station(self._through(self._stages.head), send)
        preprocess = Station(self._through(self._due), head)
        threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (
                ("read", lambda: self._read(make, warmup, preprocess)),
                ("preprocess", preprocess.work),
                ("head", head.work),
                ("send", send.work),
                ("finish", self._finish),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads[:-1]):
                self._watch(threads[-2], stop)
                progress(self._ledger.kept)
        finally:
            self._stop.set()
            while any(thread.is_alive() for thread in threads[:-1]):
                self._watch(threads[-2], stop)
            while self._ledger.kept < self._ledger.begun:  # until those in flight have their rows
                self._watch(None, stop)
            self._landed.put(None)
            threads[-1].join()
            progress(self._ledger.kept)

    def _watch(self, last: threading.Thread | None, stop: threading.Event) -> None:
        """What somebody has to look after now and then, and once more when `last` has ended."""
        if last is not None and last.is_alive():
            last.join(_POLL_S)
        else:
            time.sleep(_FINE_NS / 1e9)
        self._give_up(self._flight.overdue())
        if stop.is_set() or self._ledger.ended_early is not None:
            self._stop.set()
        self._stopping.look(time.perf_counter_ns() - self.load_ns)

    def _read(self, make: Callable[[int], Begun], warmup: int, outlet: Station) -> None:
        """Frames with their pictures, a little ahead of time."""
        camera = Camera()
        try:
            for frame in self._source(make, warmup):
                now_ns = time.perf_counter_ns()
                if not (frame.due_ns and self._ledger.overtaken(frame, now_ns)):
                    try:
                        frame.image = camera.read(frame.path)
                    except PictureUnreadable as error:
                        frame.unreadable = error
                outlet.bring(frame)
        except Exception as error:  # a mistake of ours
            self._ledger.crash = self._ledger.crash or error
        finally:
            outlet.end()

    def _source(self, make: Callable[[int], Begun], warmup: int) -> Iterator[Begun]:
        for number in range(warmup):
            if self._stop.is_set():
                return
            yield make(number)
        schedule = due_times(self._plan) if self._plan.is_open else None
        if schedule is not None:
            while self._ledger.kept < warmup and not self._stop.is_set():
                self._stop.wait(_FINE_NS / 1e9)
        self.load_ns = time.perf_counter_ns() + (0 if schedule is None else _LEAD_NS)
        for begun in itertools.count():
            now_ns = time.perf_counter_ns() - self.load_ns
            due_ns = now_ns if schedule is None else next(schedule)
            if self._stop.is_set() or self._stopping.ends(begun, due_ns):
                return
            frame = make(warmup + begun)
            if schedule is not None:
                frame.due_ns = self.load_ns + due_ns
            yield frame

    def _due(self, frame: Begun, start_ns: int) -> int:
        """Wait until a frame is due, and begin it."""
        due_ns = frame.due_ns
        if due_ns:
            self._use_gap(due_ns)
            start_ns = _wait_until(due_ns, self._stop)
            if start_ns < due_ns:
                raise _NotBegun
        else:
            due_ns = frame.due_ns = start_ns
        frame.queue_ns = 0
        frame.wait_ns = start_ns - due_ns
        frame.row = msgspec.structs.replace(
            frame.row, intended_ns=due_ns - self._start_ns, wait_ns=frame.wait_ns
        )
        self._ledger.begin()
        if self._ledger.overtaken(frame, start_ns):
            raise _Overtaken
        return self._stages.preprocess(frame, start_ns)

    def _use_gap(self, due_ns: int) -> None:
        """Before a frame is due, once nothing is in flight any more, if that comes to be."""
        while (left_ns := due_ns - time.perf_counter_ns()) > _FINE_NS + _LOOK_NS:
            if self._ledger.is_quiet:
                self._ledger.guard(self._idle, left_ns)
                return
            if self._stop.wait(_LOOK_NS / 1e9):
                return

    def _send(self, frame: Begun, start_ns: int) -> int:
        """Encode, wait for a place in the window, submit."""
        encoded_ns = self._stages.encode(frame, start_ns)
        late = self._flight.wait()
        if late:
            self._give_up(late)
            self._ledger.abandon(frame)
            return 0
        free_ns = time.perf_counter_ns()
        frame.window_ns = free_ns - encoded_ns
        if self._ledger.overtaken(frame, free_ns):
            self._flight.free()
            raise _Overtaken
        self._flight.add(frame)
        try:
            frame.reply = self._session.submit(frame.row.frame_id, frame.payloads)
            frame.row = self._stages.described(frame)
        except Exception:
            if not self._flight.land(frame):
                return 0
            self._flight.free()
            raise
        frame.payloads = ()
        frame.reply.add_done_callback(lambda _: self._land(frame))
        return 0

    def _through(self, stage: Stage) -> Callable[[Begun], bool]:
        def carry(frame: Begun) -> bool:
            try:
                return self._pass(frame, stage)
            except Exception as error:  # a mistake of ours, in the account of another one
                self._ledger.crash = self._ledger.crash or error
                return False

        return carry

    def _pass(self, frame: Begun, stage: Stage) -> bool:
        """Through one stage; False where a frame's way ends, with its row if it was begun."""
        start_ns = time.perf_counter_ns()
        begun = frame.mark_ns > 0
        frame.queue_ns += start_ns - frame.mark_ns
        try:
            if self._ledger.ended_early is not None or (not begun and self._stop.is_set()):
                raise _NotBegun
            if begun and self._ledger.overtaken(frame, start_ns):
                raise _Overtaken
            frame.mark_ns = stage(frame, start_ns)
        except _NotBegun:
            if begun:
                self._ledger.abandon(frame)
        except _Overtaken:
            described = self._stages.described(frame)
            self._ledger.keep(msgspec.structs.replace(described, status="dropped"))
        except SplitbedError as error:
            self._ledger.keep(failed(frame.row, error))
        except Exception as error:
            self._ledger.crashed(frame, error)
        else:
            return True
        return False

    def _give_up(self, late: list[Begun]) -> None:
        self._ledger.give_up(late)
        for _ in late:
            self._flight.free()

    def _land(self, frame: Begun) -> None:
        """A frame's reply is there, or will not come; the next reply is not held up."""
        if self._flight.land(frame):
            self._landed.put(frame)

    def _finish(self) -> None:
        """The thread that makes rows of replies."""
        while (frame := self._landed.get()) is not None:
            start_ns = time.perf_counter_ns()
            self._flight.free()
            try:
                self._account(frame, start_ns)
            except Exception as error:  # a mistake of ours, in the account of another one
                self._ledger.crash = self._ledger.crash or error

    def _account(self, frame: Begun, start_ns: int) -> None:
        assert frame.reply is not None
        try:
            row = self._stages.finish(frame, frame.reply.result(), start_ns)
        except TransportError as lost:
            self._ledger.lost(frame, lost)
        except Exception as error:
            self._ledger.crashed(frame, error)
        else:
            self._ledger.keep(row)


class _NotBegun(Exception):
    """The run ended before a frame's work began, or the next part of it."""


class _Overtaken(Exception):
    """A frame's deadline has passed."""


def _wait_until(due_ns: int, stop: threading.Event) -> int:
    """Wait for a time of the monotonic clock; the time now, before it where the run was stopped."""
    while (left_ns := due_ns - time.perf_counter_ns()) > _FINE_NS:
        if stop.wait((left_ns - _FINE_NS) / 1e9):
            return min(time.perf_counter_ns(), due_ns - 1)
    while (left_ns := due_ns - (now_ns := time.perf_counter_ns())) > 0:
        time.sleep(max(0, left_ns - _SPIN_NS) / 1e9)
    return now_ns
