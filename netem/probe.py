"""Our own small probe: measures a link on the path of the frames (format: netem.answering)."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from netem.answering import LARGEST_BYTES, MAGIC, NUMBER, REQUEST, drain, pour, receive
from splitbed.address import written
from splitbed.certificate import LinkMeasurement
from splitbed.errors import LinkError
from splitbed.link import Direction, LinkCounters, LinkFacts, LinkProfile, Replay

_TIMEOUT_S: Final = 60.0
_LONGEST_ANSWER_BYTES: Final = 1 << 20
_T = TypeVar("_T")


class ProbeClient:
    """One connection to a responder. Raises LinkError when nobody sensible answers."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._where = f"{address[0]}:{address[1]}"
        try:
            self._sock = socket.create_connection(address, timeout=10)
            self._sock.settimeout(_TIMEOUT_S)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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

    def round_trips(self, count: int, within_s: float) -> list[int]:
        """Round-trip times in nanoseconds of up to `count` pings, one after the other."""
        found: list[int] = []
        deadline = time.perf_counter() + within_s
        while len(found) < count and (len(found) < 3 or time.perf_counter() < deadline):
            request = REQUEST.pack(b"P", len(found))
            start_ns = time.perf_counter_ns()
            self._give(request)
            if self._take(REQUEST.size) != request:
                raise LinkError(f"what answers at {self._where} is no probe of splitbed")
            found.append(time.perf_counter_ns() - start_ns)
        return found

    def upload_bps(self, size: int) -> float:
        """Payload bits per second of `size` bytes sent, timed at the receiver."""
        with self._named():
            self._sock.sendall(REQUEST.pack(b"U", size))
            pour(self._sock, size)
        timed_bytes = NUMBER.unpack(self._take(NUMBER.size))[0]
        timed_ns = NUMBER.unpack(self._take(NUMBER.size))[0]
        return float(timed_bytes * 8e9 / max(1, timed_ns))

    def download_bps(self, size: int) -> float:
        """Payload bits per second of `size` bytes received."""
        with self._named():
            self._sock.sendall(REQUEST.pack(b"D", size))
            timed_bytes, timed_ns = drain(self._sock, size)
        return timed_bytes * 8e9 / max(1, timed_ns)

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

    def _answer(self) -> bytes:
        size: int = NUMBER.unpack(self._take(NUMBER.size))[0]
        if size > _LONGEST_ANSWER_BYTES:
            raise LinkError(f"what answers at {self._where} is no probe of splitbed")
        return self._take(size)

    def _decoded(self, answer: bytes, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise LinkError(
                f"the probe at {self._where} answers in another version's words: {error}"
            ) from error

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


def measure(address: tuple[str, int], profile: LinkProfile, seconds: float) -> LinkMeasurement:
    """Measure round trip and goodput of both directions, in about `seconds` altogether."""
    start = time.perf_counter()
    with ProbeClient(address) as client:
        round_trips = client.round_trips(200, seconds / 3)
        up_bps, up_bytes = _goodput(client.upload_bps, profile.up, seconds / 3)
        down_bps, down_bytes = _goodput(client.download_bps, profile.down, seconds / 3)
    return LinkMeasurement(
        rtt_ns=tuple(round_trips),
        up_goodput_bps=up_bps,
        down_goodput_bps=down_bps,
        up_probe_bytes=up_bytes,
        down_probe_bytes=down_bytes,
        seconds=time.perf_counter() - start,
        at=written(*address),
        taken_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _goodput(
    transfer: Callable[[int], float], direction: Direction, seconds: float
) -> tuple[float, int]:
    """Bits per second of the longest transfer, and its bytes.

    Where the rate is not known beforehand, transfers grow until one takes a third of the time.
    """
    bps = direction.payload_bps
    size = 128 * 1024 if bps is None else int(max(bps / 8 * seconds, 32 * 1024))
    while True:
        size = min(size, LARGEST_BYTES)
        start = time.perf_counter()
        found_bps = transfer(size)
        took = time.perf_counter() - start
        if bps is not None or took >= seconds / 3 or size == LARGEST_BYTES:
            return found_bps, size
        size = int(size * min(8.0, 0.6 * seconds / took))
