"""A peer's clock against one's own: offset, drift, and a bound that holds. Pure arithmetic, no I/O.

One exchange is a request sent at t0 and answered at t3 (own clock), received at t1 and answered at
t2 (peer's clock). With offset(t) = peer clock - own clock at the own time t, and with a link that
lets nothing through faster than `up` and `down`, the peer's clock reads at most t1 when the own one
reads t0 + up, and at least t2 when that reads t3 - down:

    offset(t0 + up) <= t1 - (t0 + up)        offset(t3 - down) >= t2 - (t3 - down)

Nothing here is estimated: queues, whatever they are, make the two inequalities weaker, never wrong.
With up = down = 0 both together are the classic bound of half the round trip (Mills, RFC 5905 s.
8), which takes no assumption; with a link's fixed delays known only what queued is left.

Between exchanges the model of `splitbed.clock_model` carries on. The best of many exchanges bound
either side, each way by itself: a filter for the least delay that cannot err. A frame and its reply
are an exchange like any other, only with more in the way (`splitbed.clock_frames`).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

import msgspec

from splitbed.clock_model import TOTAL_RATE, Belief, Limit, believed
from splitbed.session import ClockExchange

BOUND_SHARE: Final = 0.1
"""A one-way time is given where its error bound is at most this share of it."""

_GRAIN_NS: Final = 2.0
"""For time stamps, which are cut to whole nanoseconds, and for the rounding of this arithmetic."""


class ClockOffset(msgspec.Struct, frozen=True):
    """`peer clock = own clock + offset_ns`, true within `error_ns` either way."""

    offset_ns: int
    error_ns: int


class LeastDelays(msgspec.Struct, frozen=True):
    """What nothing is faster than, one way each; zeros, where nothing is known, are always true."""

    up_ns: int = 0
    down_ns: int = 0

    @property
    def are_known(self) -> bool:
        """Whether anything is."""
        return bool(self.up_ns or self.down_ns)


UNKNOWN: Final = LeastDelays()


class ClockDrift(msgspec.Struct, frozen=True):
    """The peer's clock is faster by `ppm` millionths, within `error_ppm`; WANDER comes beside."""

    ppm: float
    error_ppm: float


class OneWays(msgspec.Struct, frozen=True):
    """The two ways of one frame; None where the bound is too large for the time to say much."""

    uplink_ns: int | None = None
    uplink_error_ns: int | None = None
    downlink_ns: int | None = None
    downlink_error_ns: int | None = None


Basis = Literal["link delays", "round trip", "contradicted"]
"""What bounds rest on: the link's least delays; half the round trip and no assumption about the
link; nothing, as the exchanges fit no clock."""


class ClockFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A peer's clock in the manifest. `exchanges` are kept as rows, to be read with hindsight."""

    basis: Basis
    least_up_ns: int
    """What nothing is faster than on the link, as it was told."""
    least_down_ns: int
    exchanges: int
    failed: int
    """Exchanges that did not come about."""
    offset_ns: int | None
    """Peer's clock less own clock at the end of the run, within `error_ns`."""
    error_ns: int | None
    drift_ppm: float | None
    """By which the peer's clock is faster, within `drift_error_ppm`."""
    drift_error_ppm: float | None
    frames: int = 0
    """Whose time stamps were used as an exchange's are."""


OffsetAt = Callable[[int], ClockOffset | None]
"""The offset at an own time, None where it is not known."""


def offset_of(exchange: ClockExchange) -> ClockOffset:
    """The offset that one exchange shows by itself: its bound is half the round trip."""
    there_ns = exchange.peer_received_ns - exchange.sent_ns
    back_ns = exchange.peer_sent_ns - exchange.received_ns
    path_ns = there_ns - back_ns
    # Rounded up: a bound must not lose its last half nanosecond.
    return ClockOffset(offset_ns=(there_ns + back_ns) // 2, error_ns=path_ns // 2 + 1)


def is_possible(exchange: ClockExchange) -> bool:
    """False where a peer claims to have worked for longer than passed, or for less than nothing."""
    passed_ns = exchange.received_ns - exchange.sent_ns
    worked_ns = exchange.peer_sent_ns - exchange.peer_received_ns
    return 0 <= worked_ns <= passed_ns * (1 + TOTAL_RATE) + _GRAIN_NS


def own_instant(at: OffsetAt, peer_ns: int, near_ns: int) -> ClockOffset | None:
    """When it was, by the own clock, that the peer's showed `peer_ns`; None where it is not known.

    `near_ns` is any own time near it. `offset_ns` leads from the peer's time stamp to the own.
    """
    roughly = at(near_ns)
    if roughly is None:
        return None
    asked_ns = peer_ns - roughly.offset_ns
    found = at(asked_ns)
    if found is None:
        return None
    # Between the asked instant and the true one the clocks part by TOTAL_RATE at most.
    apart_ns = found.error_ns + TOTAL_RATE * abs(peer_ns - found.offset_ns - asked_ns)
    return ClockOffset(-found.offset_ns, math.ceil(apart_ns / (1 - TOTAL_RATE)))


def one_ways(
    at: OffsetAt,
    submitted_ns: int,
    complete_ns: int,
    peer_received_ns: int,
    peer_ns: int,
    share: float = BOUND_SHARE,
) -> OneWays:
    """The two ways of a frame that the peer received, and had for `peer_ns`, by its own clock.

    Each where its bound is at most this share of it; at math.inf whatever its bound.
    """
    up: tuple[int, int] | None = None
    down: tuple[int, int] | None = None
    came = own_instant(at, peer_received_ns, submitted_ns)
    went = own_instant(at, peer_received_ns + peer_ns, complete_ns)
    if came is not None:
        up = _given(peer_received_ns + came.offset_ns - submitted_ns, came.error_ns, share)
    if went is not None:
        down = _given(
            complete_ns - (peer_received_ns + peer_ns + went.offset_ns), went.error_ns, share
        )
    return OneWays(*(up or (None, None)), *(down or (None, None)))


def _given(way_ns: int, error_ns: int, share: float) -> tuple[int, int] | None:
    if share == math.inf:
        return way_ns, error_ns
    return (way_ns, error_ns) if way_ns > 0 and error_ns <= share * way_ns else None


class ClockTrack:
    """A peer's clock as far as the exchanges until now tell."""

    def __init__(self, delays: LeastDelays = UNKNOWN) -> None:
        self._frame = _Frame(delays)
        self._belief: Belief | None = None
        # As it was after the last exchange. It knows less, but bounds an instant between the two
        # by going forth where the other goes back.
        self._before: Belief | None = None
        self.exchanges = self.frames = 0
        """Used so far."""
        self.contradicted = False
        """No clock of the model and no link with these delays shows such exchanges."""
        self.knows_delays = delays.are_known

    def add(self, exchange: ClockExchange) -> None:
        """Take in one more. Impossible ones are left out."""
        if not is_possible(exchange) or self.contradicted:
            return
        self.exchanges += 1
        limits = self._frame.limits(exchange)
        self._narrow(self._belief or Belief.of(*limits), limits)
        self._before = self._belief

    def add_frame(self, exchange: ClockExchange) -> None:
        """Take in a frame's time stamps, in any order. They never widen a bound."""
        if not is_possible(exchange) or self.contradicted:
            return
        self.frames += 1
        limits = self._frame.limits(exchange)
        belief = self._belief or Belief.of(*limits)
        self._narrow(belief, [limit for limit in limits if belief.is_cut_by(limit)])

    def _narrow(self, belief: Belief, limits: Iterable[Limit]) -> None:
        for limit in limits:
            narrowed = belief.limited(limit)
            if narrowed is None:
                self.contradicted = True
                self._belief = None
                return
            belief = narrowed
        self._belief = belief

    def at(self, own_ns: int) -> ClockOffset | None:
        """The offset at an own time, after the exchanges or before; None without any."""
        before, belief = self._before, self._belief  # another thread may add
        if belief is None:
            return None
        since = self._frame.since(own_ns)
        low, high = belief.between(since)
        if before is not None and since < belief.at:
            least, most = before.between(since)
            low, high = max(low, least), min(high, most)
        return self._frame.offset((low, high)) if low <= high else None

    @property
    def drift(self) -> ClockDrift | None:
        """The rate's constant; None without exchanges."""
        if self._belief is None:
            return None
        rates = [1e6 * rate for rate, _ in self._belief.corners]
        low, high = min(rates), max(rates)
        return ClockDrift((low + high) / 2, (high - low) / 2)


class ClockHistory:
    """A peer's clock with hindsight: what came before an instant bounds it, and what came after."""

    def __init__(self, exchanges: Iterable[ClockExchange], delays: LeastDelays = UNKNOWN) -> None:
        self._frame = _Frame(delays)
        beliefs = believed([self._frame.limits(e) for e in exchanges if is_possible(e)])
        self.contradicted = beliefs is None
        """As `ClockTrack.contradicted`: then no offset is known at any time."""
        self._beliefs = beliefs or []
        self._times = [belief.at for belief in self._beliefs]
        self.knows_delays = delays.are_known

    def at(self, own_ns: int) -> ClockOffset | None:
        """The offset at an own time; None without exchanges, or where they contradict."""
        if not self._beliefs:
            return None
        since = self._frame.since(own_ns)
        later = bisect.bisect_right(self._times, since)
        found = [one.between(since) for one in self._beliefs[max(0, later - 1) : later + 1]]
        low, high = max(low for low, _ in found), min(high for _, high in found)
        return self._frame.offset((low, high)) if low <= high else None


def history_of(exchanges: Sequence[ClockExchange], delays: LeastDelays) -> ClockHistory:
    """With what is known of the link, or without where the exchanges contradict that."""
    history = ClockHistory(exchanges, delays)
    return ClockHistory(exchanges) if history.contradicted and delays.are_known else history


def basis_of(clock: ClockTrack | ClockHistory) -> Basis:
    """What its bounds rest on."""
    if clock.contradicted:
        return "contradicted"
    return "link delays" if clock.knows_delays else "round trip"


class _Frame:
    """Own times and offsets counted from the first exchange's, to be exact as floats."""

    def __init__(self, delays: LeastDelays) -> None:
        # The link's delays are by a clock of their own.
        self._up = delays.up_ns * (1 - TOTAL_RATE)
        self._down = delays.down_ns * (1 - TOTAL_RATE)
        self._own_ns: int | None = None
        self._offset_ns = 0

    def limits(self, exchange: ClockExchange) -> tuple[Limit, Limit]:
        """What one exchange tells, in the order of its times."""
        if self._own_ns is None:
            self._own_ns = exchange.sent_ns
            self._offset_ns = exchange.peer_received_ns - exchange.sent_ns
        there_ns = exchange.peer_received_ns - exchange.sent_ns - self._offset_ns
        back_ns = exchange.peer_sent_ns - exchange.received_ns - self._offset_ns
        most = Limit(self.since(exchange.sent_ns) + self._up, 1, there_ns - self._up + _GRAIN_NS)
        least = Limit(
            self.since(exchange.received_ns) - self._down, -1, back_ns + self._down - _GRAIN_NS
        )
        return (most, least) if most.at <= least.at else (least, most)

    def since(self, own_ns: int) -> float:
        return float(own_ns - (self._own_ns or 0))

    def offset(self, between: tuple[float, float]) -> ClockOffset:
        low = math.floor(between[0] - _GRAIN_NS)
        high = math.ceil(between[1] + _GRAIN_NS)
        middle = (low + high) // 2
        return ClockOffset(self._offset_ns + middle, high - middle)
