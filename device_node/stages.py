"""What the device does to one frame, stage by stage; nothing here knows of threads or of load."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from device_node.begun import Begun
from device_node.clock import EdgeClock
from device_node.head import Head
from splitbed import codec
from splitbed.errors import ProtocolViolation, SplitbedError
from splitbed.record import FrameRecord
from splitbed.runnable import carry
from splitbed.session import Reply, SessionAgreed, SessionSpec
from splitbed.task import PICTURE_CUT, RESULT_CUT, Answerer, Preprocessor, agreement
from splitbed.tensor import Array

Reference = Callable[[str], Mapping[str, Array] | None]


class Stages:
    """Each of `preprocess`, `head` and `encode` begins at a time given and returns when it ended.

    They raise what makes a frame fail. Each may run on a thread of its own, for one frame at once.
    """

    def __init__(
        self,
        head: Head,
        spec: SessionSpec,
        agreed: SessionAgreed,
        *,
        clock: EdgeClock,
        reference: Reference,
    ) -> None:
        answer, task = head.answer, head.task
        self._head, self._spec, self._agreed = head, spec, agreed
        self._clock, self._reference = clock, reference
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

    def preprocess(self, frame: Begun, start_ns: int) -> int:
        """The decoded picture becomes the head's input."""
        if frame.unreadable is not None:
            raise frame.unreadable
        picture = self._preprocessor.picture(frame.image)
        if self._spec.cut.name == PICTURE_CUT:
            frame.values = {PICTURE_CUT: picture}
        else:
            frame.values = {self._head.task.input: self._preprocessor.tensor(picture)}
        frame.image = None
        end_ns = time.perf_counter_ns()
        frame.preprocess_ns = end_ns - start_ns
        return end_ns

    def head(self, frame: Begun, start_ns: int) -> int:
        """The boundary, by running the head where there is one."""
        if self._spec.cut.name == RESULT_CUT:
            names = [spec.name for spec in self._head.answer.outputs]
            frame.local = carry(self._head.engine, frame.values, names)
            frame.values = self._answerer.boundary(frame.local)
        elif self._spec.cut.name != PICTURE_CUT:
            frame.values = carry(self._head.engine, frame.values, self._taken)
        end_ns = time.perf_counter_ns()
        frame.head_ns = end_ns - start_ns
        return end_ns

    def encode(self, frame: Begun, start_ns: int) -> int:
        """The boundary as payloads."""
        frame.payloads = tuple(working.encode_from(frame.values) for working in self._codecs)
        frame.values = {}
        end_ns = time.perf_counter_ns()
        frame.encode_ns = end_ns - start_ns
        return end_ns

    def described(self, frame: Begun) -> FrameRecord:
        """The row of a frame as far as it came."""
        return msgspec.structs.replace(
            frame.row,
            wait_ns=frame.wait_ns,
            preprocess_ns=frame.preprocess_ns,
            head_ns=frame.head_ns,
            encode_ns=frame.encode_ns,
            window_ns=frame.window_ns,
            queue_ns=frame.queue_ns,
            raw_bytes=self._raw_bytes if frame.encode_ns else 0,
            payload_bytes=sum(map(len, frame.payloads)),
        )

    def finish(self, frame: Begun, reply: Reply, start_ns: int) -> FrameRecord:
        """The reply becomes the frame's answer and row. `finish_ns` counts from `start_ns`."""
        outputs: dict[str, Array] = frame.local
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
        row = self._completed(frame, reply, start_ns, end_ns)
        if error is not None:
            return failed(row, error)
        wanted = self._reference(row.source) if outputs and result is not None else None
        if wanted is not None and result is not None:
            result["agreement"] = agreement(outputs, wanted)
        return msgspec.structs.replace(row, result=result)

    def _outputs(self, reply: Reply) -> dict[str, Array]:
        specs = self._agreed.outputs
        if len(reply.payloads) != len(specs):
            raise ProtocolViolation(
                f"a reply with {len(reply.payloads)} tensors came where {len(specs)} were agreed"
            )
        return {
            spec.name: codec.raw_array(payload, spec)
            for spec, payload in zip(specs, reply.payloads, strict=True)
        }

    def _completed(self, frame: Begun, reply: Reply, start_ns: int, end_ns: int) -> FrameRecord:
        times = reply.times
        self._clock.take(reply)
        ways = self._clock.one_ways(reply)
        return msgspec.structs.replace(
            frame.row,
            # Between its reply and the thread that finishes it, too, a frame waits.
            queue_ns=frame.queue_ns + start_ns - reply.complete_ns,
            rtt_ns=reply.complete_ns - reply.submitted_ns,
            edge_ns=times.edge_ns,
            edge_queue_ns=times.queue_ns,
            edge_decode_ns=times.decode_ns,
            edge_tail_ns=times.tail_ns,
            edge_encode_ns=times.encode_ns,
            edge_batch=times.batch,
            finish_ns=end_ns - start_ns,
            total_ns=end_ns - frame.due_ns,
            submitted_ns=reply.submitted_ns,
            edge_received_ns=times.received_ns,
            uplink_ns=ways.uplink_ns,
            uplink_error_ns=ways.uplink_error_ns,
            downlink_ns=ways.downlink_ns,
            downlink_error_ns=ways.downlink_error_ns,
            request_bytes=reply.request_bytes,
            reply_bytes=reply.reply_bytes,
        )


def failed(row: FrameRecord, error: SplitbedError) -> FrameRecord:
    """The row of a frame that failed."""
    return msgspec.structs.replace(row, status=f"failed:{error.kind}", error=str(error))
