"""The face of a transport towards the device, and of an edge towards its transports."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Final, Protocol

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

PROBE_TIMEOUT_S: Final = 10.0


class Session(Protocol):
    """An open session. One thread submits."""

    @property
    def agreed(self) -> SessionAgreed:
        """What the edge answered."""

    def submit(self, frame_id: int, payloads: tuple[Buffer, ...]) -> Future[Reply]:
        """Send one frame; replies come in the order of the frames.

        The caller keeps within the session's window. The future holds the reply, `error` included
        where this frame failed at the edge, or raises a TransportError.
        """

    def close(self) -> None:
        """End the session at both nodes. Calling it twice is fine."""


class Transport(Protocol):
    """A way to one edge. Every method raises a typed error of splitbed.errors."""

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        """What a cut of one of the edge's models is made of."""

    def part_chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        """A part's file from `offset` on; use `fetch_part` for whole, checked files."""

    def open(self, spec: SessionSpec) -> Session:
        """Agree on a session, or raise the edge's refusal."""

    def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> ClockExchange:
        """One four-timestamp exchange; only on an idle session does it mean anything.

        FrameTimeout where it takes longer than `timeout_s`.
        """

    def close(self) -> None:
        """Give up the connection. Calling it twice is fine."""


class Work(Protocol):
    """A frame that was decoded and waits for its turn."""

    def finish(self) -> Reply:
        """Wait until the tail has run, and encode. To be called once."""


class Peer(Protocol):
    """An edge as its transports see it. Methods may be called by several threads."""

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        """As `Transport.describe_cut`."""

    def part_chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        """As `Transport.part_chunks`."""

    def open_session(self, spec: SessionSpec) -> SessionAgreed:
        """Prepare a session, or raise why not."""

    def attach(self, session_id: int) -> int:
        """A stream is open for this session's frames: from here on that keeps it, and ends it.

        Gives the session's window. An unknown session is no error; its window is 1.
        """

    def process(self, frame: Frame, received_ns: int) -> Reply:
        """Decode, run, encode, on this thread. A frame that fails gives a Reply with its error.

        Raises only where the session itself is not known, or has more frames in work than its
        window.
        """

    def start(self, frame: Frame, received_ns: int) -> Work:
        """Decode, and have the rest run when its turn comes; `process` in two steps.

        Several frames of a session may be started before the first is finished.
        """

    def answered(self, reply: Reply, request_bytes: int, reply_bytes: int) -> None:
        """A reply was sent: keep account of it. Bytes are those of its messages."""

    def close_session(self, session_id: int) -> None:
        """Free what the session holds; an unknown session is no error."""
