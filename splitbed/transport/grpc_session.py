"""The frames of one open session over gRPC, from the device's side."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, Protocol

import grpc
import msgspec

from splitbed.errors import EdgeUnreachable, ProtocolViolation, SplitbedError, TransportError
from splitbed.session import Buffer, Frame, Reply, SessionAgreed
from splitbed.transport.face import Session
from splitbed.transport.patience import Patience
from splitbed.wire.framing import decode_reply, frame_parts
from splitbed.wire.pieces import cut_frame, too_large

CLOSE_TIMEOUT_S: Final = 2.0
"""For each of the two steps of closing a session: nobody waits for an edge that hangs."""


class Way(Protocol):
    """What a session needs of its transport."""

    message_bytes: int
    """No frame's message may be larger."""

    def frames(self, requests: Iterator[bytes], session_id: int, window: int) -> Any:
        """The bidirectional stream of encoded frames."""

    def translated(self, error: grpc.RpcError) -> SplitbedError:
        """A gRPC error as one of ours."""

    def close_session(self, session_id: int) -> None:
        """Let the edge free a session."""


class GrpcSession(Session):
    """Frames go out through a queue. A thread takes replies in and completes the futures, but for
    `exchange`, which takes its reply in itself: a change of threads is 0.1 ms of a round trip.
    """

    def __init__(self, way: Way, agreed: SessionAgreed, window: int) -> None:
        self._agreed, self._way = agreed, way
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._pending: collections.deque[_Sent] = collections.deque()
        self._failure: SplitbedError | None = None
        self._lock = threading.Lock()
        self._closed = self._given_up = False
        requests: Callable[[], bytes | None] = self._requests.get
        self._call = way.frames(iter(requests, None), agreed.session_id, window)
        self._thread: threading.Thread | None = None
        """Takes in replies, from the first `submit` on."""
        self._patience: Patience | None = None
        """For `exchange`, from the first one on."""

    @property
    def agreed(self) -> SessionAgreed:
        """See Session."""
        return self._agreed

    def submit(self, frame_id: int, payloads: tuple[Buffer, ...]) -> Future[Reply]:
        """See Session."""
        future: Future[Reply] = Future()
        try:
            self._send(frame_id, payloads, future)
        except SplitbedError as error:
            future.set_exception(error)
            return future
        if self._thread is None:
            self._take_in()
        return future

    def exchange(self, frame_id: int, payloads: tuple[Buffer, ...], timeout_s: float) -> Reply:
        """See Session."""
        if self._thread is not None:
            return super().exchange(frame_id, payloads, timeout_s)
        if self._patience is None:
            self._patience = Patience(self._call.cancel)
        with self._patience.at_most(timeout_s):
            self._send(frame_id, payloads, None)
            try:
                message = next(self._call)
                reply, _ = self._completed(message, time.perf_counter_ns())
            except (StopIteration, grpc.RpcError, SplitbedError) as error:
                self._failure = self._ended_by(error)
                raise self._failure from error
            return reply

    def close(self) -> None:
        """See Session."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._patience is not None:
            self._patience.end()
        self._requests.put(None)
        thread = self._thread or self._take_in()  # until the edge has ended the stream
        thread.join(CLOSE_TIMEOUT_S)
        self._given_up = thread.is_alive()  # replies are still due, and do not come
        self._call.cancel()
        thread.join(CLOSE_TIMEOUT_S)
        # An edge that hangs or is gone ends the session with its stream; there is nobody to tell.
        if not self._given_up and not isinstance(self._failure, EdgeUnreachable):
            with contextlib.suppress(TransportError):
                self._way.close_session(self.agreed.session_id)

    def _send(
        self, frame_id: int, payloads: tuple[Buffer, ...], future: Future[Reply] | None
    ) -> None:
        """Put a frame on its way, or raise why it cannot go."""
        submitted_ns = time.perf_counter_ns()
        parts = frame_parts(Frame(self.agreed.session_id, frame_id, payloads))
        whole_bytes = sum(map(len, parts))
        if whole_bytes > self._way.message_bytes:
            raise too_large(whole_bytes)
        messages = cut_frame(parts)
        size = sum(len(part) for message in messages for part in message)
        with self._lock:
            if self._failure is not None or self._closed:
                raise self._failure or EdgeUnreachable("this session is closed")
            self._pending.append(_Sent(frame_id, submitted_ns, size, future))
        for message in messages:
            self._requests.put(b"".join(message))

    def _completed(self, message: bytes, complete_ns: int) -> tuple[Reply, Future[Reply] | None]:
        """A reply's message, and the future of the frame that it answers."""
        reply = decode_reply(message)
        with self._lock:
            if not self._pending:
                raise ProtocolViolation("the edge sent a reply that nobody waits for")
            sent = self._pending.popleft()
        if reply.frame_id != sent.frame_id:
            error = ProtocolViolation(
                f"the reply to frame {reply.frame_id} came where {sent.frame_id} was due"
            )
            if sent.future is not None:
                sent.future.set_exception(error)
            raise error
        reply = msgspec.structs.replace(
            reply,
            request_bytes=sent.request_bytes,
            reply_bytes=len(message),
            submitted_ns=sent.submitted_ns,
            complete_ns=complete_ns,
        )
        return reply, sent.future

    def _take_in(self) -> threading.Thread:
        self._thread = threading.Thread(target=self._receive, name="replies", daemon=True)
        self._thread.start()
        return self._thread

    def _receive(self) -> None:
        try:
            while True:
                reply, future = self._completed(next(self._call), time.perf_counter_ns())
                if future is not None and not future.cancelled():
                    future.set_result(reply)
        except (StopIteration, grpc.RpcError, SplitbedError) as error:
            failure = self._ended_by(error)
            with self._lock:
                if not (self._closed and isinstance(error, StopIteration)):
                    self._failure = failure
        self._fail_pending(failure)

    def _ended_by(self, error: Exception) -> SplitbedError:
        """What ended the stream, as one of ours."""
        if self._given_up:  # our own cancelling, and no failure of the edge's
            return EdgeUnreachable("the session was closed before the reply came")
        if isinstance(error, SplitbedError):
            return error
        if isinstance(error, grpc.RpcError):
            return self._way.translated(error)
        if self._closed:
            return EdgeUnreachable("the session was closed")
        return EdgeUnreachable("the edge ended the stream of frames")

    def _fail_pending(self, error: SplitbedError) -> None:
        with self._lock:
            pending = list(self._pending)
            self._pending.clear()
        for sent in pending:
            if sent.future is not None and not sent.future.cancelled():
                sent.future.set_exception(error)


class _Sent(NamedTuple):
    """A frame that waits for its reply."""

    frame_id: int
    submitted_ns: int
    request_bytes: int
    """Of all its messages."""
    future: Future[Reply] | None
    """None where the sender takes the reply in itself."""
