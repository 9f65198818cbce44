"""The device's way to an edge over gRPC."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from splitbed.transport.grpc_settings import (
    FAILURE_TRAILER,
    MESSAGE_BYTES,
    SERVICE,
    SESSION_HEADER,
    WINDOW_HEADER,
    options,
)

# isort: split
import grpc
import msgspec

from splitbed.errors import (
    EdgeUnreachable,
    FrameTimeout,
    Overloaded,
    ProtocolViolation,
    SplitbedError,
    TransportError,
    Unauthorised,
)
from splitbed.session import (
    Buffer,
    ClockExchange,
    CutAnswer,
    CutQuestion,
    Frame,
    Reply,
    SessionAgreed,
    SessionSpec,
)
from splitbed.transport.credentials import channel_credentials, token_metadata, why_no_edge
from splitbed.transport.face import PROBE_TIMEOUT_S, Session
from splitbed.wire import conversion
from splitbed.wire import split_pb2 as pb
from splitbed.wire.framing import decode_reply, frame_parts
from splitbed.wire.pieces import cut_frame, too_large

M = TypeVar("M")

_CALL_TIMEOUT_S: Final = 120.0
"""For calls other than frames: describing a cut may cut a large model."""
_OPEN_TIMEOUT_S: Final = 1800.0
"""For opening a session: TensorRT builds for minutes. Keepalive notices an edge that is gone."""
_HERALD_S: Final = 0.0005
"""Longer than an edge takes to wake up for a probe."""
_CLOSE_TIMEOUT_S: Final = 2.0
"""For each of the two steps of closing a session: nobody waits for an edge that hangs."""


class GrpcTransport:
    """One channel to one edge.

    `tls_ca` is a file with the certificate that the edge's certificate must be signed by; without
    it the connection is not encrypted. `token` is sent with every call.
    """

    def __init__(
        self,
        address: str,
        *,
        tls_ca: Path | None = None,
        token: str = "",
        connect_timeout_s: float = 5.0,
        message_bytes: int = MESSAGE_BYTES,
    ) -> None:
        self._address = address
        self.message_bytes = message_bytes
        """No frame's message may be larger."""
        self._metadata = token_metadata(token)
        self._closed = False
        if tls_ca is None:
            self._channel = grpc.insecure_channel(address, options(message_bytes))
        else:
            credentials = channel_credentials(tls_ca)
            self._channel = grpc.secure_channel(address, credentials, options(message_bytes))
        try:
            grpc.channel_ready_future(self._channel).result(timeout=connect_timeout_s)
        except grpc.FutureTimeoutError as error:
            self._channel.close()
            raise EdgeUnreachable(why_no_edge(address, tls_ca, connect_timeout_s)) from error

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        """See Transport."""
        message = conversion.question_message(question)
        return conversion.answer_of(self._call("DescribeCut", message, pb.CutAnswer))

    def part_chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        """See Transport."""
        method = self._open_channel().unary_stream(
            f"/{SERVICE}/FetchPart", pb.PartRequest.SerializeToString, _plain
        )
        request = pb.PartRequest(sha256=sha256, offset=offset)
        try:
            for data in method(request, metadata=self._metadata):
                chunk = conversion.parse(pb.PartChunk, data)
                if chunk.offset != offset:
                    raise ProtocolViolation(
                        f"the edge sent the part from byte {chunk.offset}, not from {offset}"
                    )
                offset += len(chunk.content)
                yield chunk.content
        except grpc.RpcError as error:
            raise translated(error, self._address) from error

    def open(self, spec: SessionSpec) -> Session:
        """See Transport."""
        message = conversion.spec_message(spec)
        agreed = conversion.agreed_of(
            self._call("OpenSession", message, pb.SessionAgreed, _OPEN_TIMEOUT_S)
        )
        return _GrpcSession(self, agreed, spec.window)

    def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> ClockExchange:
        """See Transport."""
        method = self._open_channel().unary_unary(
            f"/{SERVICE}/Probe", pb.ProbeRequest.SerializeToString, _plain
        )
        # A herald goes ahead: threads and processors on the way that slept through an idle link
        # wake up for it, and not for the one that counts.
        herald = method.future(pb.ProbeRequest(), timeout=timeout_s, metadata=self._metadata)
        time.sleep(_HERALD_S)
        sent_ns = time.perf_counter_ns()
        request = pb.ProbeRequest(sent_ns=sent_ns)
        try:
            data = method(request, timeout=timeout_s, metadata=self._metadata)
            received_ns = time.perf_counter_ns()
        except grpc.RpcError as error:
            raise translated(error, self._address) from error
        finally:
            herald.cancel()  # it has come back long ago, or will not
        return conversion.exchange_of(sent_ns, conversion.parse(pb.ProbeReply, data), received_ns)

    def close(self) -> None:
        """See Transport."""
        self._closed = True
        self._channel.close()

    def close_session(self, session_id: int) -> None:
        """Let the edge free a session."""
        message = pb.SessionClosed(session_id=session_id)
        self._call("CloseSession", message, pb.SessionClosed, _CLOSE_TIMEOUT_S)

    def frames(self, requests: Iterator[bytes], session_id: int, window: int) -> Any:
        """The bidirectional stream of encoded frames."""
        method = self._open_channel().stream_stream(f"/{SERVICE}/Frames", _plain, _plain)
        headers = ((SESSION_HEADER, str(session_id)), (WINDOW_HEADER, str(window)))
        return method(requests, metadata=(*self._metadata, *headers))

    def translated(self, error: grpc.RpcError) -> SplitbedError:
        """A gRPC error as one of ours."""
        return translated(error, self._address)

    def _open_channel(self) -> grpc.Channel:
        if self._closed:
            raise EdgeUnreachable("this transport is closed")
        return self._channel

    def _call(
        self, name: str, message: Any, answer: type[M], timeout_s: float = _CALL_TIMEOUT_S
    ) -> M:
        method = self._open_channel().unary_unary(
            f"/{SERVICE}/{name}", type(message).SerializeToString, _plain
        )
        try:
            data = method(message, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise translated(error, self._address) from error
        return conversion.parse(answer, data)  # type: ignore[type-var]


class _GrpcSession:
    """Frames go out through a queue; a thread takes replies in and completes the futures."""

    def __init__(self, transport: GrpcTransport, agreed: SessionAgreed, window: int) -> None:
        self.agreed = agreed
        self._transport = transport
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._pending: collections.deque[tuple[int, int, int, Future[Reply]]] = collections.deque()
        self._failure: SplitbedError | None = None
        self._lock = threading.Lock()
        self._closed = self._given_up = False
        requests: Callable[[], bytes | None] = self._requests.get
        self._call = transport.frames(iter(requests, None), agreed.session_id, window)
        self._thread = threading.Thread(target=self._receive, name="replies", daemon=True)
        self._thread.start()

    def submit(self, frame_id: int, payloads: tuple[Buffer, ...]) -> Future[Reply]:
        future: Future[Reply] = Future()
        submitted_ns = time.perf_counter_ns()
        parts = frame_parts(Frame(self.agreed.session_id, frame_id, payloads))
        whole_bytes = sum(map(len, parts))
        if whole_bytes > self._transport.message_bytes:
            future.set_exception(too_large(whole_bytes))
            return future
        messages = cut_frame(parts)
        size = sum(sum(map(len, message)) for message in messages)
        with self._lock:
            if self._failure is not None or self._closed:
                future.set_exception(self._failure or EdgeUnreachable("this session is closed"))
                return future
            self._pending.append((frame_id, submitted_ns, size, future))
        for message in messages:
            self._requests.put(b"".join(message))
        return future

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._requests.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)
        self._given_up = self._thread.is_alive()  # replies are still due, and do not come
        self._call.cancel()
        self._thread.join(_CLOSE_TIMEOUT_S)
        # An edge that hangs or is gone ends the session with its stream; there is nobody to tell.
        if not self._given_up and not isinstance(self._failure, EdgeUnreachable):
            with contextlib.suppress(TransportError):
                self._transport.close_session(self.agreed.session_id)

    def _receive(self) -> None:
        try:
            for message in self._call:
                complete_ns = time.perf_counter_ns()
                reply = decode_reply(message)
                with self._lock:
                    if not self._pending:
                        raise ProtocolViolation("the edge sent a reply that nobody waits for")
                    frame_id, submitted_ns, size, future = self._pending.popleft()
                if reply.frame_id != frame_id:
                    future.set_exception(_out_of_order(frame_id, reply))
                    raise _out_of_order(frame_id, reply)
                reply = msgspec.structs.replace(
                    reply,
                    request_bytes=size,
                    reply_bytes=len(message),
                    submitted_ns=submitted_ns,
                    complete_ns=complete_ns,
                )
                if not future.cancelled():
                    future.set_result(reply)
            if self._closed:
                self._fail_pending(EdgeUnreachable("the session was closed"))
            else:
                self._fail(EdgeUnreachable("the edge ended the stream of frames"))
        except grpc.RpcError as error:
            self._fail(self._transport.translated(error))
        except SplitbedError as error:
            self._fail(error)

    def _fail(self, error: SplitbedError) -> None:
        if self._given_up:  # our own cancelling, and no failure of the edge's
            error = EdgeUnreachable("the session was closed before the reply came")
        with self._lock:
            self._failure = error
        self._fail_pending(error)

    def _fail_pending(self, error: SplitbedError) -> None:
        with self._lock:
            pending = list(self._pending)
            self._pending.clear()
        for *_, future in pending:
            if not future.cancelled():
                future.set_exception(error)


def _out_of_order(frame_id: int, reply: Reply) -> ProtocolViolation:
    return ProtocolViolation(f"the reply to frame {reply.frame_id} came where {frame_id} was due")


def _plain(data: bytes) -> bytes:
    return data


def translated(error: grpc.RpcError, address: str) -> SplitbedError:
    """A gRPC failure as one of ours: the edge's own words where it sent some."""
    for item in error.trailing_metadata() or ():
        if item.key == FAILURE_TRAILER and isinstance(item.value, bytes):
            return conversion.failure_of(item.value)
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.UNAVAILABLE:
        return EdgeUnreachable(
            f"the connection to the edge at {address} was lost: is it still running? ({details})"
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return FrameTimeout(f"the edge at {address} did not answer in time")
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return Unauthorised(details)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(
            f"a message is larger than a node allows: raise --message-mib on both ({details})"
        )
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return ProtocolViolation(f"what answers at {address} is no splitbed edge ({details})")
    if code == grpc.StatusCode.CANCELLED:
        return EdgeUnreachable(f"the stream to the edge at {address} was cancelled")
    return TransportError(f"gRPC failed with {code.name} at {address}: {details}")
