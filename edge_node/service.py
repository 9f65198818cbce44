"""What an edge does for its devices, behind every transport."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from edge_node.account import Account, Balance
from edge_node.audit import Audit, Losses, open_audit
from edge_node.metrics import Metrics
from edge_node.partitions import Partitions
from edge_node.reaper import Reaper
from edge_node.session import EdgeSession, Underway
from edge_node.tails import Tails
from edge_node.turns import Lane, Turns
from splitbed import codec
from splitbed.errors import (
    ModelMismatch,
    Overloaded,
    ProtocolViolation,
    SplitbedError,
    TaskError,
    UsageError,
)
from splitbed.quantiser import Quantiser
from splitbed.resources import borrow, give_back, rss_bytes
from splitbed.session import (
    LOCAL,
    REMOTE,
    SPLIT,
    CutAnswer,
    CutQuestion,
    Frame,
    Reply,
    SessionAgreed,
    SessionSpec,
    placement_name,
)
from splitbed.task import PICTURE_CUT, RESULT_CUT, TaskSpec, result_boundary, task_from_json

UNUSED_S: Final = 60.0
"""A session that no stream of frames came for in this time is closed: its device died."""


class _Open(msgspec.Struct):
    session: EdgeSession
    account: Account
    opened_s: float
    audit: Audit | None
    streamed: bool = False
    """A stream carries its frames, and ends it; a device may be as slow as it likes on it."""


class EdgeService:
    """A `splitbed.transport.Peer`: cuts, opens sessions, works on frames, keeps audit rows.

    `records` is the folder that gets one folder for each run; None keeps no rows. `node` is what
    the edge says of itself to every device. `turns` says whose tail runs when, and how many frames
    may share a run.
    """

    def __init__(
        self,
        partitions: Partitions,
        metrics: Metrics,
        *,
        records: Path | None,
        sessions: int,
        message_bytes: int,
        sample_interval_s: float,
        node: dict[str, Any] | None = None,
        unused_s: float = UNUSED_S,
        turns: Turns | None = None,
    ) -> None:
        self._partitions = partitions
        self._turns = turns or Turns(1)
        self._tails = Tails(
            partitions, batch=self._turns.batch, most_bytes=message_bytes, kept=partitions.engines
        )
        self._metrics = metrics
        self._records = records
        self._losses = Losses(metrics)
        self._node = node or {}
        self._most_sessions = sessions
        self._message_bytes = message_bytes
        self._sample_interval_s = sample_interval_s
        self._open: dict[int, _Open] = {}
        self._opening = self._opened = 0
        self._lock = threading.RLock()
        self._has_meters = False
        if records is not None:
            with contextlib.suppress(Exception):  # what fails, each session's sampler tells
                borrow("edge")  # opened once, not by each session: a GPU's driver takes its time
                self._has_meters = True
        self._unused_s = unused_s
        metrics.watch(self.balances)
        self._reaper = Reaper(self._close_unused, unused_s / 6)

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        """See Peer."""
        return self._partitions.describe(question)

    def part_chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        """See Peer."""
        return self._partitions.chunks(sha256, offset)

    def open_session(self, spec: SessionSpec) -> SessionAgreed:
        """See Peer. Refuses with a typed error and a way out."""
        try:
            return self._open_session(spec)
        except SplitbedError as error:
            self._metrics.refused(error.kind)
            raise

    def attach(self, session_id: int) -> int:
        """See Peer."""
        found = self._open.get(session_id)
        if found is None:
            return 1
        found.streamed = True
        return found.session.spec.window

    def process(self, frame: Frame, received_ns: int) -> Reply:
        """See Peer."""
        return self._of(frame).session.process(frame, received_ns)

    def start(self, frame: Frame, received_ns: int) -> Underway:
        """See Peer."""
        return self._of(frame).session.start(frame, received_ns)

    def answered(self, reply: Reply, request_bytes: int, reply_bytes: int) -> None:
        """See Peer."""
        found = self._open.get(reply.session_id)
        if found is None:
            return
        self._metrics.frame(found.session.spec.model, reply, request_bytes, reply_bytes)
        found.account.add(reply, request_bytes, reply_bytes)
        if found.audit is not None:
            found.audit.write(reply, reply.session_id, request_bytes, reply_bytes)

    def close_session(self, session_id: int) -> None:
        """See Peer."""
        with self._lock:
            found = self._open.pop(session_id, None)
            self._metrics.sessions(len(self._open))
        if found is None:
            return
        found.session.close()
        if found.audit is not None:
            found.audit.close()

    def close(self) -> None:
        """End every session, the watch over them, and the tails' threads."""
        self._reaper.stop()
        for session_id in list(self._open):
            self.close_session(session_id)
        self._turns.stop()
        if self._has_meters:
            self._has_meters = False
            give_back("edge")

    @property
    def turns(self) -> Turns:
        """Whose tail runs when."""
        return self._turns

    def sessions(self) -> list[SessionSpec]:
        """What is open now."""
        return [found.session.spec for found in list(self._open.values())]

    def balances(self) -> list[Balance]:
        """The accounts of what is open now, the oldest first."""
        return [found.account.balance() for found in list(self._open.values())]

    def _of(self, frame: Frame) -> _Open:
        found = self._open.get(frame.session_id)
        if found is None:
            raise ProtocolViolation(
                "a frame came for a session that is not open here: the edge may have been "
                "restarted; start the device again"
            )
        found.streamed = True
        return found

    def _described(self, spec: SessionSpec, quantisers: tuple[Quantiser, ...]) -> CutAnswer:
        answer = self._partitions.describe(
            CutQuestion(
                spec.model,
                spec.cut.name,
                spec.input_shapes,
                quantisers,
                "" if spec.pair is None else spec.pair.name,
            )
        )
        if spec.model_digest != answer.model_digest:
            raise ModelMismatch(
                f"the edge has another model named '{spec.model}' ({answer.model_digest[:12]}, "
                f"yours is {spec.model_digest[:12]}): copy yours into its model folder, or give it "
                "another name"
            )
        if spec.pair is not None and spec.pair != answer.pair:
            raise ModelMismatch(
                f"the edge has another learned codec named '{spec.pair.name}': start the device "
                "again, which fetches the head with the edge's own encoder in it"
            )
        if spec.cut != answer.cut:
            raise ProtocolViolation(
                f"the boundary of cut '{spec.cut.name}' is not the one that this edge has"
            )
        return answer

    def _open_session(self, spec: SessionSpec) -> SessionAgreed:
        answer = self._described(spec, ())
        if len(spec.codecs) != len(spec.cut.boundary):
            raise UsageError(
                f"{len(spec.codecs)} codecs came for {len(spec.cut.boundary)} boundary tensors"
            )
        quantisers = codec.quantisers(spec.codecs, spec.cut.boundary)
        if quantisers:
            answer = self._described(spec, quantisers)
        _check_placement(spec, answer)
        with self._room():
            return self._prepared(spec, answer)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Count a session while it is prepared, so that two cannot take the last place."""
        with self._lock:
            count = len(self._open) + self._opening
            if count >= self._most_sessions:
                raise Overloaded(
                    f"this edge has {count} sessions open, as many as it may: close one, or start "
                    "it with a larger --sessions"
                )
            self._opening += 1
        try:
            yield
        finally:
            with self._lock:
                self._opening -= 1

    def _prepared(self, spec: SessionSpec, answer: CutAnswer) -> SessionAgreed:
        task = _task(spec, answer)
        lane: Lane | None = None
        memory_bytes = {"before_engine": rss_bytes()}
        init_ns, first_ns, provider, why_single = 0, 0, "", ""
        if answer.second is not None:
            what = f"the tail of '{spec.model}' at {spec.cut.name}"
            tail, warm = self._tails.get(answer.second.sha256, spec.provider, what)
            init_ns, first_ns = warm.init_ns, warm.first_inference_ns
            provider, why_single = warm.engine.provider, tail.why_single
            lane = self._turns.lane(tail, spec.window)
        session_id = secrets.randbits(63) + 1
        try:
            session = EdgeSession(spec, session_id, lane, task, answer)
            self._check_size(session)
        except BaseException:
            if lane is not None:
                lane.close()
            raise
        memory_bytes["after_engine"] = rss_bytes()
        audit = open_audit(
            self._records, spec.run_id, self._sample_interval_s, self._losses, memory_bytes
        )
        with self._lock:
            self._opened += 1
            account = Account(self._opened, spec, provider, why_single)
            self._open[session_id] = _Open(session, account, time.monotonic(), audit)
            self._metrics.sessions(len(self._open))
        return SessionAgreed(
            session_id=session_id,
            provider=provider,
            outputs=session.outputs if spec.reply == "full" else (),
            init_ns=init_ns,
            first_inference_ns=first_ns,
            node={**self._node, "one_by_one": why_single} if why_single else self._node,
        )

    def _check_size(self, session: EdgeSession) -> None:
        if session.max_frame_bytes + 65536 > self._message_bytes:
            raise Overloaded(
                f"a frame of this session may take {session.max_frame_bytes} bytes, more than the "
                f"{self._message_bytes} that a message may have: raise --message-mib on both nodes"
            )

    def _close_unused(self) -> None:
        limit_s = time.monotonic() - self._unused_s
        for session_id, found in list(self._open.items()):
            if not found.streamed and found.opened_s < limit_s:
                self.close_session(session_id)


def _check_placement(spec: SessionSpec, answer: CutAnswer) -> None:
    placement_name(spec.placement)
    remote = spec.cut.name == PICTURE_CUT or answer.first is None
    local = spec.cut.name == RESULT_CUT or answer.second is None
    wanted = REMOTE if remote else LOCAL if local else SPLIT
    if spec.placement != wanted:
        raise UsageError(
            f"a cut at '{spec.cut.name}' is placed as {placement_name(wanted)}, not as "
            f"{placement_name(spec.placement)}"
        )


def _task(spec: SessionSpec, answer: CutAnswer) -> TaskSpec | None:
    if not spec.task_json:
        if spec.reply == "result" or spec.cut.name in (PICTURE_CUT, RESULT_CUT):
            raise TaskError(f"a session at {spec.cut.name} with reply {spec.reply} needs a task")
        return None
    task = task_from_json(spec.task_json).fitted(answer.inputs)
    if spec.cut.name == RESULT_CUT and result_boundary(task, answer.outputs) != spec.cut.boundary:
        raise TaskError(
            f"the session's task makes another {RESULT_CUT} than the one that '{spec.model}' has "
            "here: use the edge's description of the model"
        )
    return task
