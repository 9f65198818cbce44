"""Our own small probe: measures a link on the path of the frames.

Protocol, over one TCP connection: the client sends MAGIC, then requests of one letter and a 64-bit
big-endian number.

    P n   ping: the nine bytes come back at once
    U n   upload: n bytes follow; answer: two numbers, bytes and nanoseconds, from the end of the
          first read to the end of the last, by the receiver's clock
    D n   download: n bytes come back
    C 0   counters: three numbers, payload bytes up, down, connections

Durations are taken by one clock each; no two machines' clocks are subtracted.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from splitbed.address import written
from splitbed.errors import LinkError
from splitbed.link import Direction, LinkCounters, LinkMeasurement, LinkProfile

MAGIC: Final = b"\x01splitbed-probe1"
"""Begins with a byte that begins neither HTTP/2 nor TLS."""

_REQUEST: Final = struct.Struct("!cQ")
_NUMBER: Final = struct.Struct("!Q")
_LARGEST_BYTES: Final = 1 << 30
_READ_BYTES: Final = 1 << 20
_BLOCK: Final = bytes(64 * 1024)
_TIMEOUT_S: Final = 60.0


def respond(sock: socket.socket, counters: Callable[[], LinkCounters]) -> None:
    """Answer one client until it goes away."""
    with sock, contextlib.suppress(OSError, EOFError):
        if _receive(sock, len(MAGIC)) != MAGIC:
            return
        while True:
            kind, number = _REQUEST.unpack(_receive(sock, _REQUEST.size))
            if number > _LARGEST_BYTES:
                return
            if kind == b"P":
                sock.sendall(_REQUEST.pack(kind, number))
            elif kind == b"U":
                timed_bytes, timed_ns = _drain(sock, number)
                sock.sendall(_NUMBER.pack(timed_bytes) + _NUMBER.pack(timed_ns))
            elif kind == b"D":
                _pour(sock, number)
            elif kind == b"C":
                found = counters()
                for value in (found.up_bytes, found.down_bytes, found.connections):
                    sock.sendall(_NUMBER.pack(value))
            else:
                return


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
            request = _REQUEST.pack(b"P", len(found))
            start_ns = time.perf_counter_ns()
            self._give(request)
            if self._take(_REQUEST.size) != request:
                raise LinkError(f"what answers at {self._where} is no probe of splitbed")
            found.append(time.perf_counter_ns() - start_ns)
        return found

    def upload_bps(self, size: int) -> float:
        """Payload bits per second of `size` bytes sent, timed at the receiver."""
        with self._named():
            self._sock.sendall(_REQUEST.pack(b"U", size))
            _pour(self._sock, size)
        timed_bytes = _NUMBER.unpack(self._take(_NUMBER.size))[0]
        timed_ns = _NUMBER.unpack(self._take(_NUMBER.size))[0]
        return float(timed_bytes * 8e9 / max(1, timed_ns))

    def download_bps(self, size: int) -> float:
        """Payload bits per second of `size` bytes received."""
        with self._named():
            self._sock.sendall(_REQUEST.pack(b"D", size))
            timed_bytes, timed_ns = _drain(self._sock, size)
        return timed_bytes * 8e9 / max(1, timed_ns)

    def counters(self) -> LinkCounters:
        """What the relay forwarded so far."""
        self._give(_REQUEST.pack(b"C", 0))
        up, down, connections = (_NUMBER.unpack(self._take(8))[0] for _ in range(3))
        return LinkCounters(up, down, connections)

    def _give(self, data: bytes) -> None:
        with self._named():
            self._sock.sendall(data)

    def _take(self, size: int) -> bytes:
        with self._named():
            return _receive(self._sock, size)

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
        size = min(size, _LARGEST_BYTES)
        start = time.perf_counter()
        found_bps = transfer(size)
        took = time.perf_counter() - start
        if bps is not None or took >= seconds / 3 or size == _LARGEST_BYTES:
            return found_bps, size
        size = int(size * min(8.0, 0.6 * seconds / took))


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError("connection closed")
        data += more
    return data


def _drain(sock: socket.socket, size: int) -> tuple[int, int]:
    """Read `size` bytes; how many came after the first read, and in how many nanoseconds.

    What the first read took arrived over an unknown time, so the clock starts when it ends.
    """
    buffer = memoryview(bytearray(min(_READ_BYTES, max(1, size))))
    left, first, start_ns = size, -1, 0
    while left:
        got = sock.recv_into(buffer, min(left, len(buffer)))
        if not got:
            raise EOFError("connection closed")
        if first < 0:
            first, start_ns = got, time.perf_counter_ns()
        left -= got
    return size - max(0, first), time.perf_counter_ns() - start_ns


def _pour(sock: socket.socket, size: int) -> None:
    while size > 0:
        sock.sendall(_BLOCK[: min(size, len(_BLOCK))])
        size -= len(_BLOCK)
