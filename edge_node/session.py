"""One device's session at the edge: decode, run the tail, reply."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edge_node.turns import Job, Lane
from splitbed import codec
from splitbed.errors import ProtocolViolation, SplitbedError
from splitbed.session import CutAnswer, EdgeTimes, Frame, Reply, SessionSpec
from splitbed.task import PICTURE_CUT, RESULT_CUT, Answerer, Preprocessor, TaskSpec
from splitbed.tensor import Array

Boundary = Mapping[str, Array]


class Underway:
    """A frame that was decoded and waits for its tail; `finish` gives its reply, once."""

    __slots__ = (
        "_finish",
        "boundary",
        "decoded_ns",
        "error",
        "frame_id",
        "job",
        "received_ns",
        "start_ns",
    )

    def __init__(
        self, finish: Callable[[Underway], Reply], frame_id: int, received_ns: int
    ) -> None:
        self._finish, self.frame_id, self.received_ns = finish, frame_id, received_ns
        self.start_ns = self.decoded_ns = time.perf_counter_ns()
        self.boundary: Boundary = {}
        self.job: Job | None = None
        """None where nothing is left to run, or the frame failed."""
        self.error: SplitbedError | None = None

    def finish(self) -> Reply:
        """See `splitbed.transport.Work`."""
        return self._finish(self)


class EdgeSession:
    """Works on the frames of one agreed session. Several threads may, on a frame each."""

    def __init__(
        self,
        spec: SessionSpec,
        session_id: int,
        lane: Lane | None,
        task: TaskSpec | None,
        answer: CutAnswer,
    ) -> None:
        self.spec = spec
        self.id = session_id
        self.outputs = () if spec.cut.name == RESULT_CUT else answer.outputs
        """What a `full` reply holds; nothing where the device has the result already."""
        self._lock = threading.Lock()
        self._inside = 0
        self._codecs = [
            codec.build(written, tensor)
            for written, tensor in zip(spec.codecs, spec.cut.boundary, strict=True)
        ]
        self._answerer: Answerer | None = None
        if task is not None and spec.reply == "result":
            self._answerer = Answerer(task, answer.outputs)
        self._lane = lane
        if lane is not None and self._answerer is not None:
            lane.wanted = self._answerer.reads
        self._preprocessor: Preprocessor | None = None
        self._picture_input = ""
        if spec.cut.name == PICTURE_CUT and task is not None:
            self._picture_input = task.input
            dtype = next(i.dtype for i in answer.inputs if i.name == task.input)
            self._preprocessor = Preprocessor(task, dtype)

    @property
    def max_frame_bytes(self) -> int:
        """No frame of this session carries more payload."""
        return sum(c.max_bytes for c in self._codecs)

    def process(self, frame: Frame, received_ns: int) -> Reply:
        """The reply to one frame; its `error` says why a frame failed."""
        run = None if self._lane is None else self._lane.run
        return self._finish(self._begun(frame, received_ns, run))

    def start(self, frame: Frame, received_ns: int) -> Underway:
        """Decode one frame, and let its tail run when its turn comes."""
        run = None if self._lane is None else self._lane.offer
        return self._begun(frame, received_ns, run)

    def close(self) -> None:
        """Frames that wait for their turn fail; the others are finished."""
        if self._lane is not None:
            self._lane.close()

    def _begun(
        self, frame: Frame, received_ns: int, run: Callable[[Boundary], Job] | None
    ) -> Underway:
        with self._lock:
            if self._inside == self.spec.window:
                raise ProtocolViolation(
                    f"more frames came at once than the {self.spec.window} of the session's window"
                )
            self._inside += 1
        underway = Underway(self._finish, frame.frame_id, received_ns)
        try:
            underway.boundary = self._decode(frame)
            underway.decoded_ns = time.perf_counter_ns()
            if run is not None:
                underway.job = run(underway.boundary)
        except SplitbedError as failure:
            underway.error = failure
        except BaseException:
            self._leave()
            raise
        return underway

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1

    def _finish(self, underway: Underway) -> Reply:
        payloads: tuple[Any, ...] = ()
        result, error, job = "", underway.error, underway.job
        tail_ns, begun_ns = 0, time.perf_counter_ns()
        try:
            made: Boundary = {}
            if job is not None:
                try:
                    made = job.wait()
                finally:
                    tail_ns, begun_ns = job.ended_ns - job.started_ns, time.perf_counter_ns()
            if error is None and self.spec.reply == "full":
                payloads = tuple(
                    codec.raw_bytes(_value(spec.name, made, underway.boundary))
                    for spec in self.outputs
                )
            elif error is None and self._answerer is not None:
                result = msgspec.json.encode(self._answer(made, underway.boundary)).decode()
        except SplitbedError as failure:
            error = failure
        finally:
            self._leave()
        end_ns = time.perf_counter_ns()
        decode_ns, encode_ns = underway.decoded_ns - underway.start_ns, end_ns - begun_ns
        edge_ns = end_ns - underway.received_ns
        times = EdgeTimes(
            received_ns=underway.received_ns,
            edge_ns=edge_ns,
            # Before decoding, before the tail, and before encoding: all that is no work.
            queue_ns=edge_ns - decode_ns - tail_ns - encode_ns,
            decode_ns=decode_ns,
            tail_ns=tail_ns,
            encode_ns=encode_ns,
            batch=1 if job is None else job.batch,
        )
        return Reply(self.id, underway.frame_id, times, payloads, result, error)

    def _decode(self, frame: Frame) -> dict[str, Array]:
        if len(frame.payloads) != len(self._codecs):
            raise ProtocolViolation(
                f"a frame with {len(frame.payloads)} payloads came where the boundary has "
                f"{len(self._codecs)} tensors"
            )
        values = {
            working.spec.name: working.decode(payload)
            for working, payload in zip(self._codecs, frame.payloads, strict=True)
        }
        if self._preprocessor is not None:
            return {self._picture_input: self._preprocessor.tensor(values[PICTURE_CUT])}
        return values

    def _answer(self, made: Boundary, boundary: Boundary) -> dict[str, Any]:
        assert self._answerer is not None
        if self.spec.cut.name == RESULT_CUT:
            return self._answerer.answer_from_boundary(boundary)
        outputs = {name: _value(name, made, boundary) for name in self._answerer.reads}
        return self._answerer.answer(outputs)


def _value(name: str, made: Boundary, boundary: Boundary) -> Array:
    """An output, made by the tail or handed through from what crossed."""
    return made[name] if name in made else boundary[name]
