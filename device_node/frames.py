"""The frame loop: due, preprocess, head, encode, window, submit, finish, one row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from device_node.begun import Begun
from device_node.clock import EdgeClock
from device_node.head import Head
from device_node.ledger import Ledger
from device_node.pipeline import Pipeline
from device_node.stages import Stages, failed
from device_node.stopping import Stopping
from splitbed.errors import PictureUnreadable, SplitbedError, TransportError
from splitbed.load import LoadPlan
from splitbed.record import FrameRecord
from splitbed.run_folder import RowWriter
from splitbed.session import SessionSpec
from splitbed.task import read_picture
from splitbed.tensor import Array
from splitbed.transport import Session


class FrameLoop:
    """Measures frames over one open session. One row is written for every frame begun.

    One frame after another, all on the calling thread, where no more than one is to be in flight;
    else stage by stage on threads of their own (`device_node.pipeline`).
    """

    def __init__(
        self,
        head: Head,
        spec: SessionSpec,
        session: Session,
        writer: RowWriter,
        *,
        plan: LoadPlan,
        timeout_s: float,
        clock: EdgeClock,
        reference: Callable[[str], Mapping[str, Array] | None],
    ) -> None:
        """`clock.idle` is called where nothing is in flight. What it raises ends the run."""
        self._spec, self._session, self._plan = spec, session, plan
        self._timeout_s = timeout_s
        self._stopping = Stopping(plan)
        self._start_ns = self._load_ns = time.perf_counter_ns()
        self._stages = Stages(
            head,
            spec,
            session.agreed,
            clock=clock,
            reference=reference,
        )
        self._idle = clock.idle
        self.ledger = Ledger(plan, writer, self._stopping, timeout_s)

    def run(
        self,
        pictures: Sequence[Path],
        warmup: int,
        stop: threading.Event,
        progress: Callable[[int], None],
    ) -> None:
        """Measure; raises what ends a run early (a lost edge, a full disk), rows kept.

        Warm-up frames come first, one after another or --window at once; the load, its schedule
        and its rule for stopping, begins when they are over.
        """
        try:
            if self._plan.is_serial:
                self._serially(pictures, warmup, stop, progress)
            else:
                pipeline = Pipeline(
                    self._plan,
                    self._stages,
                    self._session,
                    self._timeout_s,
                    self.ledger,
                    self._stopping,
                    self._start_ns,
                    self._idle,
                )
                try:
                    pipeline.run(self._frames(pictures, warmup), warmup, stop, progress)
                finally:
                    self._load_ns = pipeline.load_ns
        finally:
            if self.ledger.ended_early is not None or self._stopping.stopped_by == "running":
                self._stopping.stopped_by = "interrupted" if stop.is_set() else "failed"
        ended_by = self.ledger.ended_early
        if ended_by is not None:
            raise ended_by

    def load_facts(self, warmup: int) -> dict[str, Any]:
        """The load as it was carried out, for the manifest.

        `frames` is the number of frames that work began on, `clock_ns` when the run began, by this
        node's monotonic clock, `start_ns` when the load began, from then, and `elapsed_ns` how
        long it took until the last row.
        """
        return self._plan.facts() | {
            "stopped_by": self._stopping.stopped_by,
            "frames": max(0, self.ledger.begun - warmup),
            "clock_ns": self._start_ns,
            "start_ns": self._load_ns - self._start_ns,
            "elapsed_ns": max(0, self.ledger.last_ns - self._load_ns),
        }

    def _frames(self, pictures: Sequence[Path], warmup: int) -> Callable[[int], Begun]:
        def frame(number: int) -> Begun:
            path = pictures[number % len(pictures)]
            row = FrameRecord(
                run_id=self._spec.run_id,
                session_id=self._session.agreed.session_id,
                frame_id=number,
                warmup=number < warmup,
                status="ok",
                source=path.name,
            )
            return Begun(row, path)

        return frame

    def _serially(
        self,
        pictures: Sequence[Path],
        warmup: int,
        stop: threading.Event,
        progress: Callable[[int], None],
    ) -> None:
        make, number = self._frames(pictures, warmup), 0
        while not stop.is_set() and not self._is_over():
            if number >= warmup:
                now_ns = time.perf_counter_ns()
                if number == warmup:
                    self._load_ns = now_ns
                self._stopping.look(now_ns - self._load_ns)
                if self._stopping.ends(number - warmup, now_ns - self._load_ns):
                    break
            self.ledger.guard(self._idle, None)
            if self._is_over():
                break
            frame = make(number)
            try:
                # It is over before a frame is due, and in no figure.
                frame.image = read_picture(frame.path)
            except PictureUnreadable as error:
                frame.unreadable = error
            self.ledger.begin()
            try:
                self._one(frame)
            except Exception as error:
                self.ledger.crashed(frame, error)
            number += 1
            progress(number)

    def _is_over(self) -> bool:
        return self.ledger.ended_early is not None

    def _one(self, frame: Begun) -> None:
        stages, ledger = self._stages, self.ledger
        now_ns = frame.due_ns = time.perf_counter_ns()
        frame.row = msgspec.structs.replace(frame.row, intended_ns=now_ns - self._start_ns)
        try:
            now_ns = stages.preprocess(frame, now_ns)
            now_ns = stages.head(frame, now_ns)
            now_ns = stages.encode(frame, now_ns)
        except SplitbedError as error:
            ledger.keep(failed(frame.row, error))
            return
        if ledger.overtaken(frame, now_ns):
            ledger.keep(msgspec.structs.replace(stages.described(frame), status="dropped"))
            return
        future = self._session.submit(frame.row.frame_id, frame.payloads)
        frame.row = stages.described(frame)
        try:
            reply = future.result(self._timeout_s)
        except TimeoutError:
            ledger.give_up([frame])
        except TransportError as lost:
            ledger.lost(frame, lost)
        else:
            ledger.keep(stages.finish(frame, reply, reply.complete_ns))
