"""The in-process twin of the gRPC transport: same face, no network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future

import msgspec

from splitbed.errors import EdgeUnreachable, SplitbedError
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
from splitbed.transport.face import PROBE_TIMEOUT_S, Peer, Session
from splitbed.wire.framing import encode_reply, frame_parts
from splitbed.wire.pieces import cut_frame


class InProcessTransport:
    """Calls the edge directly. Message sizes are those that gRPC would carry."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._closed = False

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        """See Transport."""
        return self._open_peer().describe_cut(question)

    def part_chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        """See Transport."""
        return self._open_peer().part_chunks(sha256, offset)

    def open(self, spec: SessionSpec) -> Session:
        """See Transport."""
        peer = self._open_peer()
        return _InProcessSession(peer, peer.open_session(spec))

    def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> ClockExchange:
        """See Transport. One clock, so the offset is zero."""
        self._open_peer()
        now_ns = time.perf_counter_ns
        return ClockExchange(now_ns(), now_ns(), now_ns(), now_ns())

    def close(self) -> None:
        """See Transport."""
        self._closed = True

    def _open_peer(self) -> Peer:
        if self._closed:
            raise EdgeUnreachable("this transport is closed")
        return self._peer


class _InProcessSession:
    def __init__(self, peer: Peer, agreed: SessionAgreed) -> None:
        self._peer = peer
        self.agreed = agreed
        peer.attach(agreed.session_id)

    def submit(self, frame_id: int, payloads: tuple[Buffer, ...]) -> Future[Reply]:
        future: Future[Reply] = Future()
        submitted_ns = time.perf_counter_ns()
        frame = Frame(self.agreed.session_id, frame_id, payloads)
        size = sum(len(part) for message in cut_frame(frame_parts(frame)) for part in message)
        try:
            reply = self._peer.process(frame, time.perf_counter_ns())
        except SplitbedError as error:
            future.set_exception(error)
            return future
        encoded = encode_reply(reply)
        complete_ns = time.perf_counter_ns()
        self._peer.answered(reply, size, len(encoded))
        future.set_result(
            msgspec.structs.replace(
                reply,
                request_bytes=size,
                reply_bytes=len(encoded),
                submitted_ns=submitted_ns,
                complete_ns=complete_ns,
            )
        )
        return future

    def close(self) -> None:
        self._peer.close_session(self.agreed.session_id)
