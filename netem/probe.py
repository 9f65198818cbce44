"""Our own small probe: measures a link on the path of the frames (format: netem.answering)."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from netem import transfer
from netem.allotment import DatagramSize, allotted_s, loss_plan, quiet_ns, rate_plan
from netem.answering import MAGIC, NUMBER, REQUEST, hurry, receive
from netem.datagram_client import Exchange, exchange, largest_payload
from netem.datagrams import DatagramPlan
from netem.stamps import receive_stamped, since, stamp
from netem.transfer import Transfer, TransferPlan, planned
from splitbed.address import written
from splitbed.certificate import DatagramMeasurement, LinkMeasurement
from splitbed.errors import LinkError
from splitbed.link import Direction, LinkCounters, LinkFacts, LinkProfile, Replay, Way

_CONNECT_S: Final = 4.0
_CONNECT_TRIES: Final = 4
_TIMEOUT_S: Final = 60.0
_TRIES: Final = 3
_HELD_UP_NS: Final = 10_000_000
_LONGEST_ANSWER_BYTES: Final = 1 << 20
_T = TypeVar("_T")


class ProbeClient:
    """One connection to a responder. Raises LinkError when nobody sensible answers."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._where = f"{address[0]}:{address[1]}"
        try:
            self._sock = _connected(address)
            self._sock.settimeout(_TIMEOUT_S)
            hurry(self._sock)
            self._sock.sendall(MAGIC)
        except OSError as error:
            raise LinkError(
                f"no probe answers at {self._where} ({error}): start a relay there, or "
                "`python -m netem responder`"
            ) from error

    def __enter__(self) -> ProbeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def round_trips(self, count: int, within_s: float) -> list[tuple[int, int]]:
        """Up to `count` pings, one after the other: nanoseconds on the link, and in the hosts.

        A host's share is from the packet's coming to its process' having it, where the kernel
        stamps packets; elsewhere it counts as the link's.
        """
        found: list[tuple[int, int]] = []
        deadline = time.perf_counter() + within_s
        stamp(self._sock, True)
        while len(found) < count and (len(found) < 3 or time.perf_counter() < deadline):
            start_ns = time.perf_counter_ns()
            self._give(REQUEST.pack(b"P", len(found)))
            with self._named():
                answer, stamp_ns = receive_stamped(self._sock, REQUEST.size)
            here_ns = since(stamp_ns)
            took_ns = time.perf_counter_ns() - start_ns
            kind, there_ns = REQUEST.unpack(answer)
            if kind != b"P":
                raise LinkError(f"what answers at {self._where} is no probe of splitbed")
            host_ns = here_ns + there_ns
            if host_ns >= took_ns:  # a clock was set meanwhile
                host_ns = 0
            found.append((took_ns - host_ns, host_ns))
        stamp(self._sock, False)
        return found

    def upload(self, plan: TransferPlan) -> Transfer:
        """Send over a connection of its own, timed by the other end."""
        with ProbeClient(self._address) as client:
            client._ask(b"U", plan)
            with client._named():
                transfer.pour(client._sock, plan)
            return client._decoded(client._answer(), Transfer)

    def download(self, plan: TransferPlan) -> Transfer:
        """Receive over a connection of its own."""
        with ProbeClient(self._address) as client:
            client._ask(b"D", plan)
            with client._named():
                return transfer.drain(client._sock, plan)

    def windows(self) -> tuple[int, int]:
        """Payload that TCP can have under way, up and down, for both hosts' buffers; 0: unknown."""
        self._give(REQUEST.pack(b"B", 0))
        their_receive, their_send = (NUMBER.unpack(self._take(NUMBER.size))[0] for _ in range(2))
        our_receive, our_send = transfer.largest_buffers()
        return (
            transfer.window_bytes(our_send, their_receive),
            transfer.window_bytes(their_send, our_receive),
        )

    def datagrams(self, plan: DatagramPlan) -> Exchange | str:
        """One exchange of datagrams; why there can be none, as a clause, if so."""
        self._ask(b"S", plan)
        with self._named():
            try:
                return exchange(self._sock, plan, self._answer)
            except (msgspec.MsgspecError, ValueError) as error:
                raise LinkError(self._strange(error)) from error

    def largest_payload(self) -> tuple[int, int]:
        """Bytes of a datagram that fills a packet on this path, and of that packet."""
        return largest_payload(self._sock)

    def counters(self) -> LinkCounters:
        """What the relay forwarded so far."""
        self._give(REQUEST.pack(b"C", 0))
        up, down, connections = (NUMBER.unpack(self._take(8))[0] for _ in range(3))
        return LinkCounters(up, down, connections)

    def facts(self) -> LinkFacts:
        """What the link says of itself."""
        self._give(REQUEST.pack(b"F", 0))
        return self._decoded(self._answer(), LinkFacts)

    def replay(self, begin: bool) -> Replay | None:
        """Begin the link's trace, or end it; what came of the one that was going on, if any."""
        self._give(REQUEST.pack(b"R", int(begin)))
        answer = self._answer()
        return self._decoded(answer, Replay) if answer else None

    def _ask(self, kind: bytes, plan: msgspec.Struct) -> None:
        text = msgspec.json.encode(plan)
        self._give(REQUEST.pack(kind, len(text)) + text)

    def _answer(self) -> bytes:
        size: int = NUMBER.unpack(self._take(NUMBER.size))[0]
        if size > _LONGEST_ANSWER_BYTES:
            raise LinkError(f"what answers at {self._where} is no probe of splitbed")
        return self._take(size)

    def _decoded(self, answer: bytes, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise LinkError(self._strange(error)) from error

    def _strange(self, error: Exception) -> str:
        return f"the probe at {self._where} answers in another version's words: {error}"

    def _give(self, data: bytes) -> None:
        with self._named():
            self._sock.sendall(data)

    def _take(self, size: int) -> bytes:
        with self._named():
            return receive(self._sock, size)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            raise LinkError(f"the probe at {self._where} went away: {error}") from error


def _connected(address: tuple[str, int]) -> socket.socket:
    """A connection; on a lossy link the first attempts may be lost."""
    for _ in range(_CONNECT_TRIES - 1):
        with contextlib.suppress(TimeoutError):
            return socket.create_connection(address, timeout=_CONNECT_S)
    return socket.create_connection(address, timeout=_CONNECT_S)


def measure(
    address: tuple[str, int],
    profile: LinkProfile,
    seconds: float,
    say: Callable[[str], object] = lambda _: None,
) -> LinkMeasurement:
    """Measure a link in about `seconds` altogether; `say` hears what comes next.

    Long paths take longer: TCP needs some ten round trips to come up to speed, each way.
    """
    start = time.perf_counter()
    with ProbeClient(address) as client:
        facts = client.facts()
        time_s = allotted_s(profile, facts.kind, seconds)
        say("round trips")
        trips, in_hosts = zip(*client.round_trips(200, time_s["trips"]), strict=True)
        trip_ns = sorted(trips)[len(trips) // 2]
        moved = []
        for way, direction, move in (
            ("up", profile.up, client.upload),
            ("down", profile.down, client.download),
        ):
            say(f"goodput {way} by TCP")
            is_lossy, took_s = bool(direction.packet_effects), time_s[f"transfer {way}"]
            moved.append(move(planned(direction.payload_bps, trip_ns, took_s, is_lossy)))
        windows = client.windows() if "loss up" in time_s else (0, 0)
        size = DatagramSize(*client.largest_payload(), quiet_ns(trip_ns))
        up = _counted(client, "up", profile.up, moved[0].bps, size, time_s, say)
        down: DatagramMeasurement | str = up
        if not isinstance(up, str):
            down = _counted(client, "down", profile.down, moved[1].bps, size, time_s, say)
    return LinkMeasurement(
        rtt_ns=trips,
        hosts_ns=in_hosts,
        up_goodput_bps=moved[0].bps,
        down_goodput_bps=moved[1].bps,
        up_probe_bytes=moved[0].received_bytes,
        down_probe_bytes=moved[1].received_bytes,
        seconds=time.perf_counter() - start,
        at=written(*address),
        taken_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        facts=facts,
        up_datagrams=None if isinstance(up, str) else up,
        down_datagrams=None if isinstance(down, str) else down,
        without_datagrams=next((why for why in (up, down) if isinstance(why, str)), ""),
        up_window_bytes=windows[0],
        down_window_bytes=windows[1],
    )


def _counted(
    client: ProbeClient,
    way: Way,
    direction: Direction,
    goodput_bps: float,
    size: DatagramSize,
    time_s: dict[str, float],
    say: Callable[[str], object],
) -> DatagramMeasurement | str:
    """Loss in one direction, and the rate where it is asked for; why not, if it cannot be had."""
    if f"loss {way}" not in time_s:
        return "a relay carries no datagrams"
    say(f"loss {way} by UDP")
    plan = loss_plan(way, direction, goodput_bps, size, time_s[f"loss {way}"])
    slow = client.datagrams(plan)
    if isinstance(slow, str):
        return slow
    fast: Exchange | None = None
    if f"rate {way}" in time_s:
        say(f"rate {way} by UDP")
        plan = rate_plan(way, direction, size, time_s[f"rate {way}"])
        for _ in range(_TRIES):
            found = client.datagrams(plan)
            if isinstance(found, str):
                return found
            # A sender that is held up lets the queue run empty, which makes a link seem slower
            # than it is, never faster.
            if fast is None or found.arrived.bps(1) > fast.arrived.bps(1):
                fast = found
            if found.sent.held_up_ns < _HELD_UP_NS:
                break
    bits = 8 * size.packet_bytes
    return DatagramMeasurement(
        sent=slow.sent.count,
        arrived=slow.arrived.distinct,
        duplicated=slow.arrived.duplicated,
        reordered=slow.arrived.reordered,
        offered_bps=slow.sent.bps(bits),
        overflowed=slow.arrived.overflowed,
        rate_bps=None if fast is None else fast.arrived.bps(bits),
        rate_offered_bps=None if fast is None else fast.sent.bps(bits),
    )
