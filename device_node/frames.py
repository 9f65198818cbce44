"""The frame loop: due, preprocess, head, encode, window, submit, finish, one row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import msgspec

from device_node.clock import EdgeClock
from device_node.flight import Flight, Sent
from device_node.head import Head
from splitbed import codec
from splitbed.errors import (
    FrameTimeout,
    PictureUnreadable,
    ProtocolViolation,
    RecordError,
    SplitbedError,
    TransportError,
)
from splitbed.record import FrameRecord
from splitbed.run_folder import RowWriter
from splitbed.runnable import carry
from splitbed.session import Buffer, Reply, SessionSpec
from splitbed.task import PICTURE_CUT, RESULT_CUT, Answerer, Preprocessor, agreement, read_picture
from splitbed.tensor import Array
from splitbed.transport import Session

Reference = Mapping[str, Mapping[str, Array]]


class FrameLoop:
    """Measures frames over one open session. One row is written for every frame begun."""

    def __init__(
        self,
        head: Head,
        spec: SessionSpec,
        session: Session,
        writer: RowWriter,
        *,
        timeout_s: float,
        clock: EdgeClock,
        reference: Callable[[str], Mapping[str, Array] | None],
    ) -> None:
        answer, task = head.answer, head.task
        self._head, self._spec, self._session, self._writer = head, spec, session, writer
        self._timeout_s, self._clock, self._reference = timeout_s, clock, reference
        dtype = next(i.dtype for i in answer.inputs if i.name == task.input)
        self._preprocessor = Preprocessor(task, dtype)
        self._answerer = Answerer(task, answer.outputs)
        self._codecs = [
            codec.build(written, tensor)
            for written, tensor in zip(head.codecs, spec.cut.boundary, strict=True)
        ]
        self._taken = [name for working in self._codecs for name in working.taken]
        # A learned codec's code is coded already: what would cross without it is the model's own.
        plain = spec.cut if answer.first is None or spec.pair is None else answer.first.cut
        self._raw_bytes = plain.nbytes
        self._flight = Flight(spec.window, timeout_s)
        self._start_ns = time.perf_counter_ns()
        self._lock = threading.Lock()  # frames are finished by the thread that takes replies in
        self._fatal: SplitbedError | None = None
        self._crash: Exception | None = None
        self.ok = 0
        """Measured frames that went well, warm-up not counted."""
        self.failed: list[str] = []
        """The sentence of every frame that did not."""

    def run(
        self,
        pictures: Sequence[Path],
        warmup: int,
        frames: int,
        stop: threading.Event,
        progress: Callable[[int], None],
    ) -> None:
        """Measure; raises what ends a run early (a lost edge, a full disk), rows kept."""
        try:
            for number in range(warmup + frames):
                self._give_up(self._flight.overdue())
                if stop.is_set() or self._fatal is not None or self._crash is not None:
                    break
                if self._flight.empty:
                    self._clock.idle()
                self._begin(number, pictures[number % len(pictures)], number < warmup)
                progress(number + 1)
        finally:
            for _ in range(self._spec.window):  # until every frame in flight has its row
                while late := self._flight.wait():
                    self._give_up(late)
        ended_by = self._crash or self._fatal
        if ended_by is not None:
            raise ended_by

    def _begin(self, number: int, path: Path, warmup: bool) -> None:
        row = FrameRecord(
            run_id=self._spec.run_id,
            session_id=self._session.agreed.session_id,
            frame_id=number,
            warmup=warmup,
            status="ok",
            source=path.name,
        )
        try:
            # Reading and decoding the file stands for a camera: it is over before a frame is due,
            # and in no figure.
            image = read_picture(path)
        except PictureUnreadable as error:
            self._keep(_failed(row, error))
            return
        self._one(row, image)

    def _one(self, row: FrameRecord, image: Any) -> None:
        now_ns = time.perf_counter_ns
        due_ns = start_ns = now_ns()
        row = msgspec.structs.replace(row, intended_ns=due_ns - self._start_ns)
        local: dict[str, Array] = {}
        try:
            picture = self._preprocessor.picture(image)
            boundary: Mapping[str, Array]
            if self._spec.cut.name == PICTURE_CUT:
                prepared_ns = now_ns()
                boundary = {PICTURE_CUT: picture}
            else:
                feeds = {self._head.task.input: self._preprocessor.tensor(picture)}
                prepared_ns = now_ns()
                if self._spec.cut.name == RESULT_CUT:
                    names = [spec.name for spec in self._head.answer.outputs]
                    local = carry(self._head.engine, feeds, names)
                    boundary = self._answerer.boundary(local)
                else:
                    boundary = carry(self._head.engine, feeds, self._taken)
            ran_ns = now_ns()
            payloads: tuple[Buffer, ...] = tuple(
                working.encode_from(boundary) for working in self._codecs
            )
            encoded_ns = now_ns()
        except SplitbedError as error:
            self._keep(_failed(row, error))
            return
        late = self._flight.wait()
        if late:
            self._give_up(late)
            self._keep(_failed(row, self._behind(late[0])))
            return
        free_ns = now_ns()
        row = msgspec.structs.replace(
            row,
            wait_ns=start_ns - due_ns,
            preprocess_ns=prepared_ns - start_ns,
            head_ns=ran_ns - prepared_ns,
            encode_ns=encoded_ns - ran_ns,
            window_ns=free_ns - encoded_ns,
            raw_bytes=self._raw_bytes,
            payload_bytes=sum(map(len, payloads)),
        )
        sent = Sent(row, due_ns, local)
        self._flight.add(sent)
        future = self._session.submit(row.frame_id, payloads)
        if self._spec.window > 1:
            future.add_done_callback(lambda done: self._land(sent, done))
            return
        try:
            future.exception(self._timeout_s)
        except FutureTimeout:
            self._flight.land(sent)
            self._give_up([sent])
            return
        self._land(sent, future)

    def _land(self, sent: Sent, future: Future[Reply]) -> None:
        """Write the row of a frame whose future is done, unless it was given up before."""
        if not self._flight.land(sent):
            return
        try:
            self._keep(self._finished(sent, future))
        except Exception as error:  # a mistake of ours, on a thread that nobody listens to
            self._crash = self._crash or error
            self._keep(_failed(sent.row, SplitbedError(f"{type(error).__name__}: {error}")))
        finally:
            self._flight.free()

    def _finished(self, sent: Sent, future: Future[Reply]) -> FrameRecord:
        try:
            reply = future.result()
        except TransportError as lost:  # after which no further frame can go through
            self._fatal = self._fatal or lost
            return _failed(sent.row, lost)
        outputs: dict[str, Array] = sent.local
        result: dict[str, Any] | None = None
        error: SplitbedError | None = reply.error
        try:
            if error is None and reply.result_json:
                result = msgspec.json.decode(reply.result_json, type=dict[str, Any])
            elif error is None:
                outputs = outputs or self._outputs(reply)
                result = self._answerer.answer(outputs)
        except msgspec.MsgspecError as unreadable:
            error = ProtocolViolation(f"the edge's result cannot be read: {unreadable}")
        except SplitbedError as failure:
            error = failure
        end_ns = time.perf_counter_ns()
        # The measured frame ends here; what follows is bookkeeping.
        row = self._completed(sent, reply, end_ns)
        if error is not None:
            return _failed(row, error)
        wanted = self._reference(row.source) if outputs and result is not None else None
        if wanted is not None and result is not None:
            result["agreement"] = agreement(outputs, wanted)
        return msgspec.structs.replace(row, result=result)

    def _outputs(self, reply: Reply) -> dict[str, Array]:
        specs = self._session.agreed.outputs
        if len(reply.payloads) != len(specs):
            raise ProtocolViolation(
                f"a reply with {len(reply.payloads)} tensors came where {len(specs)} were agreed"
            )
        return {
            spec.name: codec.raw_array(payload, spec)
            for spec, payload in zip(specs, reply.payloads, strict=True)
        }

    def _completed(self, sent: Sent, reply: Reply, end_ns: int) -> FrameRecord:
        times = reply.times
        ways = self._clock.one_ways(reply)
        return msgspec.structs.replace(
            sent.row,
            rtt_ns=reply.complete_ns - reply.submitted_ns,
            edge_ns=times.edge_ns,
            edge_queue_ns=times.queue_ns,
            edge_decode_ns=times.decode_ns,
            edge_tail_ns=times.tail_ns,
            edge_encode_ns=times.encode_ns,
            edge_batch=times.batch,
            finish_ns=end_ns - reply.complete_ns,
            total_ns=end_ns - sent.due_ns,
            submitted_ns=reply.submitted_ns,
            edge_received_ns=times.received_ns,
            uplink_ns=ways.uplink_ns,
            uplink_error_ns=ways.uplink_error_ns,
            downlink_ns=ways.downlink_ns,
            downlink_error_ns=ways.downlink_error_ns,
            request_bytes=reply.request_bytes,
            reply_bytes=reply.reply_bytes,
        )

    def _give_up(self, late: list[Sent]) -> None:
        """Write the rows of frames that were taken out because the first is overdue."""
        for sent in late:
            error = self._late(sent) if sent is late[0] else self._behind(late[0])
            self._fatal = self._fatal or error
            self._keep(_failed(sent.row, error))
            self._flight.free()

    def _late(self, sent: Sent) -> FrameTimeout:
        return FrameTimeout(
            f"the edge did not answer frame {sent.row.frame_id} within {self._timeout_s:g} s: it "
            "may hang, or the link may be too slow for this cut; allow more with --timeout-s, or "
            "code the cut"
        )

    def _behind(self, first: Sent) -> FrameTimeout:
        return FrameTimeout(
            f"given up behind frame {first.row.frame_id}, which the edge did not answer within "
            f"{self._timeout_s:g} s"
        )

    def _keep(self, row: FrameRecord) -> None:
        with self._lock:
            if row.status != "ok":
                self.failed.append(row.error)
            elif not row.warmup:
                self.ok += 1
            try:
                self._writer.write(row)
            except RecordError as error:
                self._fatal = error


def _failed(row: FrameRecord, error: SplitbedError) -> FrameRecord:
    return msgspec.structs.replace(row, status=f"failed:{error.kind}", error=str(error))
