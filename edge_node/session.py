"""One device's session at the edge: decode, run the tail, reply."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from splitbed import codec
from splitbed.engine import Engine
from splitbed.errors import ProtocolViolation, SplitbedError
from splitbed.runnable import carry
from splitbed.session import CutAnswer, EdgeTimes, Frame, Reply, SessionSpec
from splitbed.task import PICTURE_CUT, RESULT_CUT, Answerer, Preprocessor, TaskSpec
from splitbed.tensor import Array


class EdgeSession:
    """Works on the frames of one agreed session, one at a time."""

    def __init__(
        self,
        spec: SessionSpec,
        session_id: int,
        engine: Engine | None,
        task: TaskSpec | None,
        answer: CutAnswer,
    ) -> None:
        self.spec = spec
        self.id = session_id
        self.outputs = () if spec.cut.name == RESULT_CUT else answer.outputs
        """What a `full` reply holds; nothing where the device has the result already."""
        self._engine = engine
        self._codecs = [
            codec.build(written, tensor)
            for written, tensor in zip(spec.codecs, spec.cut.boundary, strict=True)
        ]
        self._answerer: Answerer | None = None
        if task is not None and spec.reply == "result":
            self._answerer = Answerer(task, answer.outputs)
        self._wanted = tuple(spec.name for spec in answer.outputs)
        """Of the tail's outputs; of those that an answer does not need none is fetched."""
        if self._answerer is not None:
            self._wanted = self._answerer.reads
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
        now_ns = time.perf_counter_ns
        start_ns = decoded_ns = ran_ns = now_ns()
        payloads: tuple[Any, ...] = ()
        result, error = "", None
        try:
            boundary = self._decode(frame)
            decoded_ns = ran_ns = now_ns()
            outputs = self._run(boundary)
            ran_ns = now_ns()
            if self.spec.reply == "full":
                payloads = tuple(codec.raw_bytes(outputs[spec.name]) for spec in self.outputs)
            elif self._answerer is not None:
                result = msgspec.json.encode(self._answer(outputs)).decode()
        except SplitbedError as failure:
            error = failure
        end_ns = now_ns()
        times = EdgeTimes(
            received_ns=received_ns,
            edge_ns=end_ns - received_ns,
            queue_ns=start_ns - received_ns,
            decode_ns=decoded_ns - start_ns,
            tail_ns=ran_ns - decoded_ns,
            encode_ns=end_ns - ran_ns,
            batch=1,
        )
        return Reply(self.id, frame.frame_id, times, payloads, result, error)

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

    def _run(self, boundary: Mapping[str, Array]) -> dict[str, Array]:
        if self.spec.cut.name == RESULT_CUT:
            return dict(boundary)
        return carry(self._engine, boundary, self._wanted)

    def _answer(self, outputs: Mapping[str, Array]) -> dict[str, Any]:
        assert self._answerer is not None
        if self.spec.cut.name == RESULT_CUT:
            return self._answerer.answer_from_boundary(outputs)
        return self._answerer.answer(outputs)
