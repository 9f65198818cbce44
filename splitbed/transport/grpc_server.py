"""An edge's gRPC server in front of a Peer."""

from __future__ import annotations

import hmac
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NoReturn

from splitbed.transport.grpc_settings import (
    FAILURE_TRAILER,
    MESSAGE_BYTES,
    SERVICE,
    SESSION_HEADER,
    TOKEN_HEADER,
    WINDOW_HEADER,
    options,
)

# isort: split
import grpc

from splitbed.address import host_and_port
from splitbed.errors import (
    EdgeUnreachable,
    Overloaded,
    SplitbedError,
    TransportError,
    Unauthorised,
)
from splitbed.transport.credentials import server_credentials
from splitbed.transport.face import Peer
from splitbed.transport.stream import FrameStream
from splitbed.wire import conversion
from splitbed.wire import split_pb2 as pb

_STATUS: Final = {
    "unauthorised": grpc.StatusCode.UNAUTHENTICATED,
    "unreachable": grpc.StatusCode.UNAVAILABLE,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "out-of-memory": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "model-unknown": grpc.StatusCode.NOT_FOUND,
    "cut-unknown": grpc.StatusCode.NOT_FOUND,
    "engine": grpc.StatusCode.INTERNAL,
    "error": grpc.StatusCode.INTERNAL,
}
"""Status by kind of failure; INVALID_ARGUMENT for every other kind."""

_MOST_DIGITS: Final = 20  # of a 64-bit number
_SENTENCE_CHARACTERS: Final = 1500  # HTTP/2 headers are limited to 8 KiB


class GrpcServer:
    """Serves one Peer on one address. `streams` bounds how many devices may be connected."""

    def __init__(
        self,
        peer: Peer,
        listen: str,
        *,
        tls: tuple[Path, Path] | None = None,
        token: str = "",
        streams: int = 64,
        message_bytes: int = MESSAGE_BYTES,
    ) -> None:
        host_and_port(listen)
        self._peer = peer
        self._message_bytes = message_bytes
        self._streams = threading.Semaphore(streams)
        # Every stream of frames holds a worker; the rest serve short calls.
        self._server = grpc.server(
            ThreadPoolExecutor(streams + 16, thread_name_prefix="grpc"),
            options=options(message_bytes),
            interceptors=[_TokenCheck(token)] if token else [],
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        try:
            if tls is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, server_credentials(*tls))
        except RuntimeError as error:
            raise TransportError(
                f"the edge cannot listen on {listen}: is another one running there?"
            ) from error
        self.address = f"{listen.rpartition(':')[0]}:{port}"
        """Where it listens, with the real port."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """End: no new calls, those under way get `grace_s` seconds."""
        self._server.stop(grace_s).wait()

    def _handlers(self) -> grpc.GenericRpcHandler:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "DescribeCut": unary(self._guard(self._describe_cut)),
                "OpenSession": unary(self._guard(self._open_session)),
                "CloseSession": unary(self._guard(self._close_session)),
                "Probe": unary(self._guard(self._probe)),
                "FetchPart": stream(self._fetch_part),
                "Frames": grpc.stream_stream_rpc_method_handler(self._frames),
            },
        )

    def _guard(self, method: Callable[[bytes], bytes]) -> Callable[[bytes, Any], bytes]:
        def call(request: bytes, context: Any) -> bytes:
            try:
                return method(request)
            except Exception as error:
                abort(context, error)

        return call

    def _describe_cut(self, request: bytes) -> bytes:
        question = conversion.question_of(conversion.parse(pb.CutQuestion, request))
        return conversion.answer_message(self._peer.describe_cut(question)).SerializeToString()

    def _open_session(self, request: bytes) -> bytes:
        spec = conversion.spec_of(conversion.parse(pb.SessionSpec, request))
        return conversion.agreed_message(self._peer.open_session(spec)).SerializeToString()

    def _close_session(self, request: bytes) -> bytes:
        message = conversion.parse(pb.SessionClosed, request)
        self._peer.close_session(message.session_id)
        return message.SerializeToString()

    def _probe(self, request: bytes) -> bytes:
        received_ns = time.perf_counter_ns()
        conversion.parse(pb.ProbeRequest, request)
        return pb.ProbeReply(
            received_ns=received_ns, sent_ns=time.perf_counter_ns()
        ).SerializeToString()

    def _fetch_part(self, request: bytes, context: Any) -> Iterator[bytes]:
        try:
            message = conversion.parse(pb.PartRequest, request)
            offset = message.offset
            for content in self._peer.part_chunks(message.sha256, offset):
                yield pb.PartChunk(offset=offset, content=content).SerializeToString()
                offset += len(content)
        except Exception as error:
            abort(context, error)

    def _frames(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if not self._streams.acquire(blocking=False):
            abort(context, Overloaded("this edge serves as many devices as it may: try later"))
        used: set[int] = set()
        try:
            depth, named = stream_depth(dict(context.invocation_metadata()), self._peer)
            used |= named
            stream = FrameStream(self._peer, requests, depth, self._message_bytes, used)
            yield from stream.replies()
        except Exception as error:
            abort(context, error)
        finally:
            self._streams.release()
            # A device that vanished says no goodbye; its sessions end with its stream.
            for session_id in used:
                self._peer.close_session(session_id)


def stream_depth(headers: Mapping[str, str | bytes], peer: Peer) -> tuple[int, set[int]]:
    """Frames that a stream may have in flight, and the session that it is for, which is attached.

    What was agreed on for that session bounds what the stream asks for; without one it is one.
    """
    named = _number(headers.get(SESSION_HEADER))
    if named is None:
        return 1, set()
    return max(1, min(_number(headers.get(WINDOW_HEADER)) or 1, peer.attach(named))), {named}


def _number(header: str | bytes | None) -> int | None:
    """A header's whole number; None where it is none, or would not fit into 64 bits."""
    text = str(header)
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


class _TokenCheck(grpc.ServerInterceptor):
    """Refuses every call without the right token."""

    def __init__(self, token: str) -> None:
        self._wanted = f"Bearer {token}".encode()

        def refuse(_: Any, context: Any) -> NoReturn:
            if TOKEN_HEADER in dict(context.invocation_metadata()):
                words = "the token is not this edge's: give the right one with --token-file"
            else:
                words = "this edge wants a token: give it with --token-file"
            abort(context, Unauthorised(words))

        self._refusal: Any = grpc.stream_stream_rpc_method_handler(refuse)

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        headers = dict(details.invocation_metadata)
        given = str(headers.get(TOKEN_HEADER, "")).encode()
        if hmac.compare_digest(given, self._wanted):
            return continuation(details)
        return self._refusal


def abort(context: Any, error: Exception) -> NoReturn:
    """End a call with a typed failure: a gRPC status, a sentence, and the kind in a trailer."""
    if isinstance(error, grpc.RpcError) or not context.is_active():
        raise error  # the peer is gone; nobody would read a failure
    if not isinstance(error, SplitbedError):
        traceback.print_exception(error, file=sys.stderr)
        error = TransportError(
            f"the edge failed unexpectedly ({type(error).__name__}): see its log"
        )
    failure = conversion.failure_message(type(error)(str(error)[:_SENTENCE_CHARACTERS]))
    context.set_trailing_metadata(((FAILURE_TRAILER, failure.SerializeToString()),))
    context.abort(_STATUS.get(error.kind, grpc.StatusCode.INVALID_ARGUMENT), failure.sentence)
    raise EdgeUnreachable("the call was aborted")
