"""The users of one link: measured together while nobody uses it, and ended together."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import pytest

from netem import attendance, users
from netem.answering import MAGIC
from netem.attendance import Attendance
from netem.responder import BareLink, Responder
from netem.users import Word
from splitbed.address import host_and_port
from splitbed.certificate import DatagramMeasurement, LinkMeasurement
from splitbed.errors import LinkError
from splitbed.link import Replay
from tests.unit.edges import eventually

Where = tuple[str, int]


def found(rtt_ns: int = 1_000_000) -> LinkMeasurement:
    return LinkMeasurement((rtt_ns,), 1e6, 1e6, 1, 1, 0.1)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Whatever a peer does, no thread stays."""
    threads = set(threading.enumerate())
    yield
    assert eventually(lambda: set(threading.enumerate()) <= threads), threading.enumerate()


@pytest.fixture
def where() -> Iterator[Where]:
    """A link that can be joined."""
    responder = Responder("127.0.0.1:0")
    yield host_and_port(responder.address)
    responder.close()


class Member:
    """A user on a thread of its own, because it may have to wait."""

    def __init__(self, where: Where) -> None:
        self.attendance = Attendance(where)
        self.stop = threading.Event()
        self.waited_for: list[int] = []
        self._pool = ThreadPoolExecutor(1)

    def idle(self, longest_s: float = 30) -> Future[Word]:
        return self._pool.submit(self.attendance.idle, longest_s, self.stop, self.waited_for.append)

    def done(self, code: int = 0) -> Future[int]:
        return self._pool.submit(self.attendance.done, code, self.stop, self.waited_for.append)

    def measures(self, measurement: LinkMeasurement) -> Word:
        """Idle, chosen, and through with it."""
        assert self.idle().result(5).say == "measure"
        return self.attendance.measured(measurement)

    def leave(self) -> None:
        self._pool.shutdown()
        self.attendance.close()


@contextlib.contextmanager
def members(where: Where, count: int) -> Iterator[list[Member]]:
    joined = [Member(where) for _ in range(count)]
    try:
        yield joined
    finally:
        for member in joined:
            member.stop.set()
            member.leave()


def waits(future: Future[Word] | Future[int], member: Member, others: int) -> bool:
    """Whether it is told that it waits for so many, and does."""
    told = eventually(lambda: member.waited_for[-1:] == [others])
    return told and not future.done()


def split(asked: dict[Member, Future[Word]]) -> tuple[Member, list[Member]]:
    """Who was chosen to measure, once somebody was, and who waits."""
    assert eventually(lambda: any(future.done() for future in asked.values()))
    chosen = [member for member, future in asked.items() if future.done()]
    assert len(chosen) == 1
    assert asked[chosen[0]].result().say == "measure"
    return chosen[0], [member for member in asked if member is not chosen[0]]


def test_a_user_alone_measures_at_once(where: Where) -> None:
    with members(where, 1) as (one,):
        assert one.measures(found()).measurement == found()
        after = one.measures(found(2))
        assert after.measurement == found(2)
        assert after.users == 1
        assert one.done(3).result(5) == 3
        assert one.waited_for == []


def test_one_measures_for_all_before_and_after(where: Where) -> None:
    with members(where, 3) as (a, b, c):
        first = a.idle()
        assert waits(first, a, 2)  # two have joined and prepare their models
        asked = {a: first, b: b.idle()}
        assert waits(first, a, 1)
        asked[c] = c.idle()
        chosen, others = split(asked)
        assert chosen.attendance.measured(found(1)).measurement == found(1)
        for member in others:
            assert asked[member].result(5) == Word("measured", measurement=found(1))

        # Frames. The first that is through waits for the rest.
        first = a.idle()
        assert waits(first, a, 2)
        asked = {a: first, b: b.idle()}
        assert waits(first, a, 1)
        asked[c] = c.idle()
        chosen, others = split(asked)
        assert chosen.attendance.measured(found(2)).users == 3
        for member in others:
            assert asked[member].result(5) == Word("measured", measurement=found(2), users=3)


def test_gathering_ends(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that prepares for minutes holds nobody up."""
    monkeypatch.setattr(users, "GATHERING_S", 0.2)
    monkeypatch.setattr(users, "_LOOK_UP_S", 0.1)
    with members(where, 2) as (quick, _slow):
        assert quick.measures(found()).say == "measured"
        assert quick.measures(found()).users == 1  # and one that prepares uses nothing


def test_who_comes_late_begins_with_the_last_measurement(where: Where) -> None:
    with members(where, 1) as (early,):
        early.measures(found(1))
        with members(where, 1) as (late,):
            assert late.idle().result(5) == Word("measured", measurement=found(1))
            # Now both use it, and neither measures before the other is through.
            ended = early.idle()
            assert waits(ended, early, 1)
        assert ended.result(5).say == "measure"  # the late one left
        assert early.attendance.measured(found(2)).users == 2


def test_a_measurement_outside_tolerance_is_made_again_for_all(where: Where) -> None:
    with members(where, 2) as (a, b):
        for rtt_ns in (1, 2, 3):
            asked = {a: a.idle(), b: b.idle()}
            chosen, (other,) = split(asked)
            chosen.attendance.measured(found(rtt_ns))
            assert asked[other].result(5).measurement == found(rtt_ns)


def test_another_measures_where_the_chosen_one_leaves(where: Where) -> None:
    with members(where, 2) as (a, b):
        asked = {a: a.idle(), b: b.idle()}
        chosen, (other,) = split(asked)
        chosen.attendance.close()
        assert asked[other].result(5).say == "measure"


def test_another_measures_where_the_chosen_one_hangs(where: Where) -> None:
    with members(where, 1) as (hangs,):
        assert hangs.idle(0.3).result(5).say == "measure"
        with members(where, 1) as (patient,):
            assert patient.measures(found()).measurement == found()
            with pytest.raises(LinkError, match="went away"):
                hangs.attendance.measured(found())


def test_all_end_together_with_the_worst_exit_code(where: Where) -> None:
    with members(where, 3) as (a, b, c):
        ended = [a.done(0), b.done(7)]
        assert waits(ended[0], a, 1)
        ended.append(c.done(2))
        assert [future.result(5) for future in ended] == [7, 7, 7]


def test_who_leaves_is_not_waited_for(where: Where) -> None:
    with members(where, 3) as (a, b, c):
        ended = a.done(1)
        assert waits(ended, a, 2)
        b.attendance.close()
        assert waits(ended, a, 1)
        c.attendance.close()
        assert ended.result(5) == 1


def test_a_wait_can_be_stopped(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "_PROMPT_S", 0.1)
    with members(where, 2) as (a, _b):
        ended = a.done()
        assert waits(ended, a, 1)
        a.stop.set()
        with pytest.raises(LinkError, match="stopped while others use"):
            ended.result(5)


def test_a_wait_ends_some_day(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "PATIENCE_S", 0.3)
    with members(where, 2) as (a, _b), pytest.raises(LinkError, match="others have used the link"):
        a.done().result(5)


def test_there_is_room_for_so_many(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MOST_USERS", 2)
    with members(where, 2) as (_a, b):
        with pytest.raises(LinkError, match="has 2 users already"):
            Attendance(where)
        b.attendance.close()
        time.sleep(0.1)
        with members(where, 1):
            pass


def request(letter: bytes, number: int) -> bytes:
    return struct.pack("!cQ", letter, number)


def deposit(content: bytes) -> bytes:
    return request(b"I", 10_000) + request(b"M", len(content)) + content


NO_ROUND_TRIP = msgspec.json.encode(LinkMeasurement((), 1e6, 1e6, 1, 1, 0.1))
NO_RATE = msgspec.json.encode(
    msgspec.structs.replace(found(), up_datagrams=DatagramMeasurement(1, 1, 0, 0, 1e6, rate_bps=0))
)
NO_GOODPUT = msgspec.json.encode(LinkMeasurement((1,), 0, 1e6, 1, 1, 0.1))


@pytest.mark.parametrize(
    "sent",
    [
        request(b"I", 2**63),
        request(b"I", 0),
        request(b"M", 10) + bytes(10),
        request(b"Q", 256),
        request(b"J", 0),
        request(b"P", 1),
        request(b"I", 10_000) + request(b"M", 2**40),
        request(b"I", 10_000) + request(b"Q", 0),
        deposit(b"no JSON"),
        deposit(b'{"rtt_ns": [1]}'),
        deposit(NO_ROUND_TRIP),
        deposit(NO_GOODPUT),
        deposit(NO_RATE),
    ],
    ids=[
        *("too long", "no time", "not asked", "code", "joins twice", "ping", "too large"),
        *("does not measure", "no JSON", "half a measurement", "no round trip", "no goodput"),
        "no rate",
    ],
)
def test_a_hostile_user_is_put_out_and_shares_nothing(where: Where, sent: bytes) -> None:
    with socket.create_connection(where, 5) as sock:
        sock.settimeout(5)
        sock.sendall(MAGIC + request(b"J", 0) + sent)
        with contextlib.suppress(ConnectionError):
            while sock.recv(1000):
                pass
        with members(where, 1) as (good,):
            assert good.measures(found()).measurement == found()


def test_a_user_that_speaks_while_it_waits_is_put_out(where: Where) -> None:
    with members(where, 1) as (good,), socket.create_connection(where, 5) as sock:
        sock.settimeout(5)
        sock.sendall(MAGIC + request(b"J", 0) + request(b"Q", 0))
        time.sleep(0.2)
        sock.sendall(request(b"Q", 0))
        with contextlib.suppress(ConnectionError):
            while sock.recv(1000):
                pass
        assert good.done().result(5) == 0


@pytest.mark.parametrize(
    "answer",
    [
        Word("over"),
        Word("measured"),
        Word("measured", measurement=LinkMeasurement((), 1, 1, 1, 1, 1)),
    ],
    ids=["out of turn", "no measurement", "no round trip"],
)
def test_a_link_that_makes_no_sense(answer: Word, monkeypatch: pytest.MonkeyPatch) -> None:
    responder = Responder("127.0.0.1:0")
    monkeypatch.setattr(users.Users, "_turn", lambda *_: answer)
    try:
        with members(host_and_port(responder.address), 1) as (one,):
            asked = one.idle()
            with pytest.raises(LinkError, match="makes no sense"):
                asked.result(5)
    finally:
        responder.close()


class Traced(BareLink):
    """Notes when its trace is begun and ended."""

    def __init__(self) -> None:
        self.begun: list[bool] = []

    def replay(self, begin: bool) -> Replay | None:
        self.begun.append(begin)
        return None if begin else Replay("drive", "", len(self.begun), 0, 0, 0)


def test_a_trace_goes_on_while_somebody_uses_the_link() -> None:
    link = Traced()
    responder = Responder("127.0.0.1:0", link)
    try:
        with members(host_and_port(responder.address), 2) as (a, b):
            asked = {a: a.idle(), b: b.idle()}
            chosen, (other,) = split(asked)
            assert link.begun == [False]  # one that goes on already would be measured
            assert chosen.attendance.measured(found()).replay is None
            assert asked[other].result(5).replay is None
            assert link.begun == [False, True]
            first = a.idle()
            assert waits(first, a, 1)
            assert link.begun == [False, True]  # the other one has frames to send
            asked = {a: first, b: b.idle()}
            chosen, (other,) = split(asked)
            assert link.begun == [False, True, False]
            replay = Replay("drive", "", 3, 0, 0, 0)
            assert chosen.attendance.measured(found()).replay == replay
            assert asked[other].result(5).replay == replay
        assert eventually(lambda: link.begun == [False, True, False, True, False])  # both left
    finally:
        responder.close()
