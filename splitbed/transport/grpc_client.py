"""The device's way to an edge over gRPC."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
    ClockExchange,
    CutAnswer,
    CutQuestion,
    SessionSpec,
)
from splitbed.transport.credentials import channel_credentials, token_metadata, why_no_edge
from splitbed.transport.face import PROBE_TIMEOUT_S, Session
from splitbed.transport.grpc_session import CLOSE_TIMEOUT_S, GrpcSession
from splitbed.wire import conversion
from splitbed.wire import split_pb2 as pb

M = TypeVar("M")

_CALL_TIMEOUT_S: Final = 120.0
"""For calls other than frames: describing a cut may cut a large model."""
_OPEN_TIMEOUT_S: Final = 1800.0
"""For opening a session: TensorRT builds for minutes. Keepalive notices an edge that is gone."""
_HERALD_S: Final = 0.0005
"""Longer than an edge takes to wake up for a probe."""


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
        return GrpcSession(self, agreed, spec.window)

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
        self._call("CloseSession", message, pb.SessionClosed, CLOSE_TIMEOUT_S)

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
