"""The frame loop: due, preprocess, head, encode, window, submit, finish, one row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from device_node.head import Head
from splitbed import codec
from splitbed.clock import ClockOffset
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

_DRIFT: Final = 100e-6
"""Clocks may part by this much of the time since their offset was taken (100 ppm, twice what
crystals are specified at)."""

_BOUND_SHARE: Final = 0.1
"""A one-way time is given where its error bound is at most this share of it."""

Reference = Mapping[str, Mapping[str, Array]]


class _Sent(msgspec.Struct):
    """One frame between submit and finish."""

    row: FrameRecord
    due_ns: int
    local: dict[str, Array]
    """Outputs that the device has itself (everything ran here)."""


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
        offset: ClockOffset | None,
        reference: Callable[[str], Mapping[str, Array] | None],
    ) -> None:
        answer, task = head.answer, head.task
        self._head, self._spec, self._session, self._writer = head, spec, session, writer
        self._timeout_s, self._offset, self._reference = timeout_s, offset, reference
        dtype = next(i.dtype for i in answer.inputs if i.name == task.input)
        self._preprocessor = Preprocessor(task, dtype)
        self._answerer = Answerer(task, answer.outputs)
        self._codecs = [
            codec.build(written, tensor)
            for written, tensor in zip(spec.codecs, spec.cut.boundary, strict=True)
        ]
        self._boundary = [tensor.name for tensor in spec.cut.boundary]
        self._raw_bytes = spec.cut.nbytes
        self._slots = threading.Semaphore(spec.window)
        self._start_ns = time.perf_counter_ns()
        self._fatal: SplitbedError | None = None
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
        for number in range(warmup + frames):
            if stop.is_set() or self._fatal is not None:
                break
            path = pictures[number % len(pictures)]
            row = FrameRecord(
                run_id=self._spec.run_id,
                session_id=self._session.agreed.session_id,
                frame_id=number,
                warmup=number < warmup,
                status="ok",
                source=path.name,
            )
            try:
                # Reading and decoding the file stands for a camera: it is over before a frame is
                # due, and in no figure.
                image = read_picture(path)
            except PictureUnreadable as error:
                self._keep(_failed(row, error))
                continue
            self._one(row, image)
            progress(number + 1)
        for _ in range(self._spec.window):  # until every frame in flight is finished
            if not self._slots.acquire(timeout=self._timeout_s):
                break
        if self._fatal is not None:
            raise self._fatal

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
                    boundary = carry(self._head.engine, feeds, self._boundary)
            ran_ns = now_ns()
            payloads: tuple[Buffer, ...] = tuple(
                working.encode(boundary[working.spec.name]) for working in self._codecs
            )
            encoded_ns = now_ns()
        except SplitbedError as error:
            self._keep(_failed(row, error))
            return
        if not self._slots.acquire(timeout=self._timeout_s):
            self._fatal = self._fatal or self._late()
            self._keep(_failed(row, self._late()))
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
        sent = _Sent(row, due_ns, local)
        future = self._session.submit(row.frame_id, payloads)
        if self._spec.window > 1:
            future.add_done_callback(lambda done: self._finish(sent, done))
            return
        self._finish(sent, future)

    def _finish(self, sent: _Sent, future: Future[Reply]) -> None:
        try:
            reply = future.result(timeout=self._timeout_s)
        except FutureTimeout:
            self._end(_failed(sent.row, self._late()), self._late())
            return
        except TransportError as lost:
            self._end(_failed(sent.row, lost), lost)
            return
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
            self._release(_failed(row, error))
            return
        wanted = self._reference(row.source) if outputs and result is not None else None
        if wanted is not None and result is not None:
            result["agreement"] = agreement(outputs, wanted)
        self._release(msgspec.structs.replace(row, result=result))

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

    def _completed(self, sent: _Sent, reply: Reply, end_ns: int) -> FrameRecord:
        times = reply.times
        uplink_ns = error_ns = None
        if self._offset is not None:
            one_way_ns = self._offset.one_way_ns(reply.submitted_ns, times.received_ns)
            age_ns = reply.submitted_ns - self._start_ns
            bound_ns = self._offset.error_ns + int(_DRIFT * max(0, age_ns))
            if one_way_ns > 0 and bound_ns <= _BOUND_SHARE * one_way_ns:
                uplink_ns, error_ns = one_way_ns, bound_ns
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
            uplink_ns=uplink_ns,
            uplink_error_ns=error_ns,
            request_bytes=reply.request_bytes,
            reply_bytes=reply.reply_bytes,
        )

    def _late(self) -> FrameTimeout:
        return FrameTimeout(
            f"no reply came within {self._timeout_s:g} s: the link may be too slow for this cut; "
            "allow more with --timeout-s, or code the cut"
        )

    def _release(self, row: FrameRecord) -> None:
        self._keep(row)
        self._slots.release()

    def _end(self, row: FrameRecord, error: SplitbedError) -> None:
        """A frame failed in a way after which no further frame can go through."""
        self._fatal = self._fatal or error
        self._release(row)

    def _keep(self, row: FrameRecord) -> None:
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


def open_reference(path: Path | None) -> Callable[[str], Mapping[str, Array] | None]:
    """Outputs of the uncut model by picture, from a file with keys `PICTURE/OUTPUT`."""
    if path is None:
        return lambda _: None
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read the reference {path}: {error}") from error
    keys: dict[str, list[str]] = {}
    for key in archive.files:
        keys.setdefault(key.partition("/")[0], []).append(key)

    def find(source: str) -> Mapping[str, Array] | None:
        if source not in keys:
            return None
        return {key.partition("/")[2]: archive[key] for key in keys[source]}

    return find
