"""A peer whose clock is another one, with the truth kept."""

from __future__ import annotations

import math
from concurrent.futures import Future

import msgspec

from splitbed.session import Buffer, ClockExchange, Reply, SessionAgreed, SessionSpec
from splitbed.transport import Session
from splitbed.transport.face import PROBE_TIMEOUT_S
from splitbed.transport.grpc_client import GrpcTransport


class Clock:
    """An offset, a drift, and a rate that turns about that drift twice a period."""

    def __init__(
        self,
        offset_ns: int,
        rate: float = 0.0,
        wander: float = 0.0,
        period_s: float = 1.0,
        start_ns: int = 0,
    ) -> None:
        self.offset_ns, self.rate = offset_ns, rate
        self._wander, self._period_ns, self._start_ns = wander, period_s * 1e9, start_ns

    def offset(self, own_ns: int) -> float:
        """This clock less the own one; exact but for a fraction of a nanosecond."""
        since_ns = own_ns - self._start_ns
        # A triangle: its slope is the wander, up and down.
        turning_ns = abs(math.remainder(since_ns, self._period_ns))
        return self.offset_ns + self.rate * since_ns + self._wander * turning_ns

    def reads(self, own_ns: int) -> int:
        return own_ns + math.floor(self.offset(own_ns))


class ShiftedTransport(GrpcTransport):
    """The edge's time stamps as another clock would show them, which is this host's in truth."""

    def __init__(self, address: str, clock: Clock) -> None:
        super().__init__(address)
        self.clock = clock
        self.truth: dict[int, tuple[int, int]] = {}
        """By frame: its two ways."""

    def probe(self, timeout_s: float = PROBE_TIMEOUT_S) -> ClockExchange:
        found, reads = super().probe(timeout_s), self.clock.reads
        return ClockExchange(
            found.sent_ns,
            reads(found.peer_received_ns),
            reads(found.peer_sent_ns),
            found.received_ns,
        )

    def open(self, spec: SessionSpec) -> Session:
        return _ShiftedSession(self, super().open(spec))


class _ShiftedSession:
    def __init__(self, transport: ShiftedTransport, session: Session) -> None:
        self._transport, self._session = transport, session

    @property
    def agreed(self) -> SessionAgreed:
        return self._session.agreed

    def submit(self, frame_id: int, payloads: tuple[Buffer, ...]) -> Future[Reply]:
        shown: Future[Reply] = Future()
        reads = self._transport.clock.reads

        def show(done: Future[Reply]) -> None:
            reply = done.result()
            came_ns = reply.times.received_ns
            went_ns = came_ns + reply.times.edge_ns
            ways = came_ns - reply.submitted_ns, reply.complete_ns - went_ns
            self._transport.truth[frame_id] = ways
            times = msgspec.structs.replace(
                reply.times, received_ns=reads(came_ns), edge_ns=reads(went_ns) - reads(came_ns)
            )
            shown.set_result(msgspec.structs.replace(reply, times=times))

        self._session.submit(frame_id, payloads).add_done_callback(show)
        return shown

    def close(self) -> None:
        self._session.close()
