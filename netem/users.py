"""Who uses a link, so that it is measured while nobody does, and once for all.

Devices behind one link that measured it by themselves would each see a share of it, and disturb
each other's frames. A device joins over a connection of the probe (request J of netem.answering)
and stays connected as long as it lives: a closed connection has left. From then on the connection
knows these requests, of one letter and a 64-bit big-endian number:

    I n   idle: I do not use the link now; my measurement of it would take n milliseconds at most
    M n   here is the measurement that I was asked for: n bytes of JSON
    Q n   I am done, with exit code n; answered when everybody is

Every answer is a number and as many bytes of JSON: a `Word`. While a user waits it is told so, and
how many others it waits for, whenever that changes.

A user that was given a measurement uses the link until it is idle again, is done or leaves. The
link is measured when all its users are idle, by one of them, and all of them get what it found.
Two rules keep a first run from waiting for strangers: for others that have joined and were never
idle it waits `GATHERING_S` at most, and where somebody uses the link already, it begins with the
last measurement that there is. The link's trace, if it has one, is replayed while somebody uses it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from netem.answering import REQUEST, give, receive
from splitbed.certificate import LinkMeasurement
from splitbed.errors import LinkError
from splitbed.link import Replay

MOST_USERS: Final = 64
GATHERING_S: Final = 20.0
LONGEST_WORD_BYTES: Final = 1 << 20
LONGEST_MEASUREMENT_MS: Final = 3_600_000
_LOOK_UP_S: Final = 1.0
"""A user that waits and is gone is noticed after this long."""


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the link's end tells one user."""

    say: Literal["joined", "refused", "wait", "measure", "measured", "over"]
    others: Annotated[int, Meta(ge=0)] = 0
    """How many others have joined, or are waited for."""
    measurement: LinkMeasurement | None = None
    users: Annotated[int, Meta(ge=0)] = 0
    """Users of the link at once, at most, since this one was idle before; itself included."""
    replay: Replay | None = None
    """What came of the link's trace while this user and others used it."""
    code: Annotated[int, Meta(ge=0, le=255)] = 0
    """The largest exit code of those who are done."""


class _User:
    """One connection that has joined."""

    def __init__(self) -> None:
        self.state: Literal["new", "idle", "using", "done"] = "new"
        self.was_idle = False
        self.idle_s = 0.0
        """When it became idle."""
        self.met = 0
        """Users at once, at most, while it used the link."""
        self.told = Word("measured")
        """With the measurement, when there is one."""
        self.code = 0
        self.over: int | None = None


class Users:
    """The users of one link, each on a thread of its own; `replay` begins and ends its trace."""

    def __init__(self, replay: Callable[[bool], Replay | None]) -> None:
        self._replay = replay
        self._is_replaying = True  # as far as is known
        self._replayed: Replay | None = None
        self._joined: list[_User] = []
        self._measuring: _User | None = None
        self._last: LinkMeasurement | None = None
        self._change = threading.Condition()

    def attend(self, sock: socket.socket) -> None:
        """Serve a connection that has asked to join, until it leaves."""
        user = self._join()
        if user is None:
            give(sock, Word("refused", others=MOST_USERS))
            return
        try:
            with contextlib.suppress(msgspec.MsgspecError):
                give(sock, Word("joined", others=len(self._joined) - 1))
                while self._served(user, sock):
                    pass
        finally:
            self._leave(user)

    def _served(self, user: _User, sock: socket.socket) -> bool:
        """Answer one request; False for one that is none."""
        kind, number = REQUEST.unpack(receive(sock, REQUEST.size))
        if kind == b"I" and number <= LONGEST_MEASUREMENT_MS:
            with self._change:
                user.state, user.idle_s = "idle", time.monotonic()
                self._rest()
            if self._awaited(user, sock, self._turn).say == "measured":
                return True
            # Whoever was chosen holds all others up, and only so long.
            sock.settimeout(number / 1000)
            kind, number = REQUEST.unpack(receive(sock, REQUEST.size))
            if kind != b"M" or number > LONGEST_WORD_BYTES:
                return False
            found = msgspec.json.decode(receive(sock, number), type=LinkMeasurement)
            if not is_sensible(found):
                return False
            sock.settimeout(None)
            self._share(found)
            return self._awaited(user, sock, self._turn).say == "measured"
        if kind == b"Q" and number <= 255:
            with self._change:
                user.state, user.code = "done", number
                self._end_together()
            return self._awaited(user, sock, self._end).say == "over"
        return False

    def _awaited(self, user: _User, sock: socket.socket, answer: Callable[[_User], Word]) -> Word:
        """What `answer` says in the end; tells it, and every other word on the way."""
        told: Word | None = None
        while True:
            with self._change:
                word = answer(user)
                if word == told:
                    self._change.wait(_LOOK_UP_S)
                    word = answer(user)
            if word != told:
                give(sock, word)
                told = word
            if word.say != "wait":
                return word
            _still_there(sock)

    def _turn(self, user: _User) -> Word:
        """What an idle user may do now."""
        if user.state == "using":
            return user.told
        others = [other for other in self._joined if other is not user]
        using = sum(other.state == "using" for other in others)
        first = not user.was_idle
        if first and using and self._last is not None and self._measuring is None:
            self._give(user, self._last)
            return self._turn(user)
        new = sum(other.state == "new" for other in others)
        gathered = not first or not new or time.monotonic() > user.idle_s + GATHERING_S
        if not using and gathered and self._measuring is None:
            self._measuring = user
        if self._measuring is user:
            return Word("measure")
        measuring = int(self._measuring is not None)
        return Word("wait", others=using + measuring + (new if first else 0))

    def _end(self, user: _User) -> Word:
        """What a user that is done may do now."""
        if user.over is not None:
            return Word("over", code=user.over)
        return Word("wait", others=sum(other.state != "done" for other in self._joined))

    def _share(self, found: LinkMeasurement) -> None:
        """Everybody who is idle goes on with this, at the same instant."""
        with self._change:
            self._last, self._measuring = found, None
            for user in self._joined:
                if user.state == "idle":
                    self._give(user, found)

    def _give(self, user: _User, found: LinkMeasurement) -> None:
        replay = self._replayed if user.was_idle else None
        user.told = Word("measured", measurement=found, users=user.met, replay=replay)
        user.state, user.was_idle, user.met = "using", True, 0
        using = [one for one in self._joined if one.state == "using"]
        for one in using:
            one.met = max(one.met, len(using))
        if not self._is_replaying:
            self._is_replaying = True
            with contextlib.suppress(LinkError):
                self._replay(True)
        self._change.notify_all()

    def _rest(self) -> None:
        """End the trace where nobody uses the link any more."""
        if self._is_replaying and all(user.state != "using" for user in self._joined):
            self._is_replaying, self._replayed = False, None
            with contextlib.suppress(LinkError):
                self._replayed = self._replay(False)
        self._change.notify_all()

    def _end_together(self) -> None:
        self._rest()
        if all(user.state == "done" for user in self._joined):
            code = max((user.code for user in self._joined), default=0)
            for user in self._joined:
                user.over = code

    def _join(self) -> _User | None:
        with self._change:
            if len(self._joined) == MOST_USERS:
                return None
            user = _User()
            self._joined.append(user)
            self._change.notify_all()
            return user

    def _leave(self, user: _User) -> None:
        with self._change:
            self._joined.remove(user)
            if self._measuring is user:
                self._measuring = None
            self._end_together()


def is_sensible(found: LinkMeasurement) -> bool:
    """Whether it can be reckoned with: what another machine says may be anything."""
    goodputs_bps = (found.up_goodput_bps, found.down_goodput_bps)
    rates_bps = (found.payload_bps("up"), found.payload_bps("down"))
    figures = (*goodputs_bps, *rates_bps, *found.rtt_ns)
    return bool(found.rtt_ns) and all(0 < figure < 1e15 for figure in figures)


def _still_there(sock: socket.socket) -> None:
    """Raise EOFError where a user that waits has left, or speaks out of turn."""
    sock.settimeout(0)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return
    finally:
        sock.settimeout(None)
    raise EOFError("left, or spoke while it should wait")
