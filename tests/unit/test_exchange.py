"""One frame at a time, its reply taken in by the thread that sent it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitbed.errors import EdgeUnreachable, ProtocolViolation
from splitbed.session import Buffer, CutQuestion
from splitbed.transport import Session
from splitbed.transport.face import Peer
from splitbed.transport.grpc_client import GrpcTransport
from splitbed.transport.grpc_server import GrpcServer
from splitbed.transport.patience import Patience
from tests.unit.edges import (
    Edge,
    Stalling,
    boundary_of,
    edge_over,
    eventually,
    model_folder,
    payloads,
    picture,
    spec_for,
)

PATIENCE_S = 10.0
Sent = tuple[Buffer, ...]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with edge_over(model_folder(tmp_path_factory.mktemp("edge") / "models")) as made:
        yield made


@contextlib.contextmanager
def opened(peer: Peer, window: int = 1) -> Iterator[tuple[GrpcServer, Session, Sent]]:
    """A server, an open session over it, and a frame's payloads."""
    server = GrpcServer(peer, "127.0.0.1:0")
    transport = GrpcTransport(server.address)
    try:
        spec = spec_for(transport.describe_cut(CutQuestion("tiny", "sum")), window=window)
        session = transport.open(spec)
        yield server, session, payloads(spec, boundary_of("sum", picture(1)))
        session.close()
    finally:
        transport.close()
        server.stop(0)


def named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def test_the_reply_is_the_same_and_no_thread_stands_between(edge: Edge) -> None:
    with opened(edge.service) as (_, session, sent):
        before = named("replies")
        direct = [session.exchange(number, sent, PATIENCE_S) for number in range(3)]
        assert named("replies") == before
        by_thread = session.submit(3, sent).result(PATIENCE_S)
        assert named("replies") == before + 1
        after = session.exchange(4, sent, PATIENCE_S)
    assert [reply.frame_id for reply in (*direct, by_thread, after)] == list(range(5))
    assert {bytes(reply.payloads[0]) for reply in (*direct, by_thread, after)} == {
        bytes(by_thread.payloads[0])
    }
    for reply in direct:
        assert reply.error is None
        assert reply.request_bytes > 0
        assert reply.reply_bytes > 0
        assert reply.submitted_ns <= reply.times.received_ns <= reply.complete_ns
    assert eventually(lambda: named("patience") == 0)
    assert edge.service.sessions() == []


def test_a_frame_that_fails_is_a_reply_with_its_error(edge: Edge) -> None:
    with opened(edge.service) as (_, session, sent):
        assert session.exchange(0, (), PATIENCE_S).error is not None
        assert session.exchange(1, sent, PATIENCE_S).error is None


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("threaded", [False, True])
def test_an_edge_that_hangs(edge: Edge, threaded: bool, window: int) -> None:
    peer = Stalling(edge.service)
    peer.go.set()
    with opened(peer, window) as (_, session, sent):
        if threaded:
            assert session.submit(0, sent).result(PATIENCE_S).error is None
        else:
            assert session.exchange(0, sent, PATIENCE_S).error is None
        peer.go.clear()
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            session.exchange(1, sent, 0.3)
        assert 0.3 <= time.monotonic() - start < 5
        if not threaded:
            with pytest.raises(EdgeUnreachable):
                session.exchange(2, sent, PATIENCE_S)
        peer.go.set()


def test_an_edge_that_stops(edge: Edge) -> None:
    peer = Stalling(edge.service)
    with opened(peer) as (server, session, sent):

        def stop() -> None:
            peer.reached.acquire()
            server.stop(0)

        stopping = threading.Thread(target=stop)
        stopping.start()
        try:
            with pytest.raises(EdgeUnreachable):
                session.exchange(1, sent, PATIENCE_S)
            with pytest.raises(EdgeUnreachable):
                session.exchange(2, sent, PATIENCE_S)
            with pytest.raises(EdgeUnreachable):
                session.submit(3, sent).result(PATIENCE_S)
        finally:
            peer.go.set()
            stopping.join()


def test_a_session_that_the_edge_does_not_know(edge: Edge) -> None:
    with opened(edge.service) as (_, session, sent):
        edge.service.close_session(session.agreed.session_id)
        with pytest.raises(ProtocolViolation, match="a session that is not open here"):
            session.exchange(1, sent, PATIENCE_S)


def test_nothing_is_exchanged_after_the_end(edge: Edge) -> None:
    with opened(edge.service) as (_, session, sent):
        session.exchange(1, sent, PATIENCE_S)
        session.close()
        with pytest.raises(EdgeUnreachable, match="closed"):
            session.exchange(2, sent, PATIENCE_S)


def test_patience_is_for_each_wait_and_ends_once() -> None:
    given_up: list[float] = []
    patience = Patience(lambda: given_up.append(time.monotonic()))
    for _ in range(3):
        with patience.at_most(0.5):
            time.sleep(0.2)
    assert given_up == []
    start = time.monotonic()

    def cancelled() -> None:
        with patience.at_most(0.1):
            assert eventually(lambda: bool(given_up))
            raise EdgeUnreachable("as a call that was cancelled says")

    with pytest.raises(TimeoutError):
        cancelled()
    assert given_up[0] - start >= 0.1
    assert eventually(lambda: named("patience") == 0)


def test_patience_that_is_not_needed_any_more(tmp_path: Path) -> None:
    patience = Patience(lambda: (tmp_path / "given-up").touch())
    with patience.at_most(60):
        pass
    patience.end()
    assert eventually(lambda: named("patience") == 0)
    assert not (tmp_path / "given-up").exists()
