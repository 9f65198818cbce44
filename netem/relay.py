"""The user-space relay: a TCP forwarder that makes every byte take the time of a link.

It needs no privileges. Each connection has a reader and a writer thread for each direction; the
direction's `Shaper` says when bytes leave and arrive. It is an ideal pipe: nothing is lost, nothing
is reordered, and TCP on either side of it sees a fast local network. Packet loss cannot be made
this way and is refused.

A connection that opens with the probe's magic is answered by the relay itself, behind the same two
shapers, so the link is measured on the path of the frames and through the same port.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import sys
import threading
from typing import Final

from netem.answering import MAGIC, respond
from netem.shaper import HORIZON_NS, Shaper, sleep_until
from netem.users import Users, keep_alive
from splitbed.address import host_and_port, written
from splitbed.errors import LinkError
from splitbed.link import LinkCounters, LinkFacts, LinkProfile, Replay

_IN_FLIGHT_CHUNKS: Final = 4096
"""Chunks of one connection that may be travelling; back-pressure for an unlimited rate."""

_CONNECT_TIMEOUT_S: Final = 10.0
_FIRST_BYTES_TIMEOUT_S: Final = 10.0

_Item = tuple[int, bytes | None]
"""When it arrives, and what: b"" where the sender ended, None where it was reset."""


class Relay:
    """Listens on one address and forwards to another, through the two directions of a profile."""

    def __init__(self, profile: LinkProfile, listen: str, target: str, seed: int = 0) -> None:
        for word, direction in (("uplink", profile.up), ("downlink", profile.down)):
            for effect in direction.packet_effects:
                raise LinkError(
                    f"profile '{profile.name}' asks for {effect} on the {word}, which a relay of "
                    f"TCP connections cannot make: use the kernel backend, or a profile without "
                    f"{effect}"
                )
        self.profile = profile
        self._target = host_and_port(target)
        self._up, self._down = Shaper(profile.up, seed), Shaper(profile.down, seed + 1)
        self._users = Users()
        self._connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._listener = _listen(host_and_port(listen), profile)
        self.address = written(*self._listener.getsockname()[:2])
        """Where it listens, with the real port."""
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._thread.start()

    def counters(self) -> LinkCounters:
        """Payload forwarded so far; what the probe sent is not counted."""
        return LinkCounters(self._up.carried_bytes, self._down.carried_bytes, self._connections)

    def facts(self) -> LinkFacts:
        """A relay of its profile; frames go to the port that the probe asked."""
        return LinkFacts("relay", self.profile)

    def replay(self, begin: bool) -> Replay | None:
        """There is no trace."""
        return None

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                if self._closed.is_set():
                    return
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        ends = {client}
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(client)
            if self._begin(client):
                self._forward(client, ends)
        finally:
            with self._lock:
                self._open -= ends
            for end in ends:
                end.close()

    def _begin(self, sock: socket.socket) -> bool:
        """From now on `close` ends this connection; False where it was called already."""
        with self._lock:
            if self._closed.is_set():
                return False
            self._open.add(sock)
        return True

    def _forward(self, client: socket.socket, ends: set[socket.socket]) -> None:
        is_probe = _opens_with_magic(client)
        if is_probe:
            server, answering = socket.socketpair()
            threading.Thread(
                target=respond, args=(answering, self, self._users), daemon=True
            ).start()
        else:
            try:
                server = socket.create_connection(self._target, _CONNECT_TIMEOUT_S)
            except OSError as error:
                where = written(*self._target)
                sys.stderr.write(f"relay: nobody answers behind it at {where}: {error}\n")
                return
            server.settimeout(None)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends.add(server)
        if not self._begin(server):
            return
        if not is_probe:
            with self._lock:
                self._connections += 1
        writers = [
            self._pump(client, server, self._up, not is_probe),
            self._pump(server, client, self._down, not is_probe),
        ]
        for writer in writers:
            writer.join()

    def _pump(
        self, source: socket.socket, sink: socket.socket, shaper: Shaper, counted: bool
    ) -> threading.Thread:
        travelling: queue.Queue[_Item] = queue.Queue(_IN_FLIGHT_CHUNKS)
        reader = threading.Thread(
            target=_read, args=(source, shaper, travelling, counted), daemon=True
        )
        writer = threading.Thread(target=_write, args=(sink, source, travelling), daemon=True)
        reader.start()
        writer.start()
        return writer


def _read(
    source: socket.socket, shaper: Shaper, travelling: queue.Queue[_Item], counted: bool
) -> None:
    """Take bytes off the sender as fast as the wire takes them, no faster."""
    while True:
        data: bytes | None
        try:
            data = source.recv(shaper.chunk_bytes)
        except OSError:
            data = None
        leaves_ns, arrives_ns = shaper.book(len(data or b""), counted)
        travelling.put((arrives_ns, data))
        if not data:
            return
        sleep_until(leaves_ns - HORIZON_NS)


def _write(sink: socket.socket, source: socket.socket, travelling: queue.Queue[_Item]) -> None:
    """Hand bytes to the receiver when they arrive; jitter never changes their order."""
    while True:
        arrives_ns, data = travelling.get()
        sleep_until(arrives_ns)
        if data is None:
            # The sender was reset. A receiver must not take what came for all there was.
            _abort(sink)
            return
        try:
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)
        except OSError:
            # The receiver is gone: let the sender know, and let its reader end.
            _abort(source)
            while data:
                _, data = travelling.get()
            return


def _abort(sock: socket.socket) -> None:
    """Make the close that follows a reset, and wake up whoever reads from this end.

    A sender that waits for a full window notices nothing less than a reset.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RD)


def _listen(where: tuple[str, int], profile: LinkProfile) -> socket.socket:
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    payload_bps = profile.up.payload_bps
    if payload_bps is not None:
        # Without a cap, the kernel's autotuning takes megabytes off the sender at once, which is
        # seconds of hidden queue at 1 Mbit/s. Below two of loopback's 64 kB segments TCP stalls.
        size = int(min(max(payload_bps / 8 * 0.02, 128 * 1024), 4 * 1024 * 1024))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    try:
        listener.bind(where)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise LinkError(
            f"the relay cannot listen on {where[0]}:{where[1]}: {error.strerror}"
        ) from error
    return listener


def _opens_with_magic(client: socket.socket) -> bool:
    """Look at a connection's first bytes without taking them."""
    client.settimeout(_FIRST_BYTES_TIMEOUT_S)
    try:
        # One byte tells: neither HTTP/2's preface nor a TLS record begins like the magic.
        first = client.recv(1, socket.MSG_PEEK)
    except OSError:
        first = b""
    client.settimeout(None)
    return first == MAGIC[:1]
