"""The user-space relay: a TCP forwarder that makes every byte take the time of a link.

It needs no privileges. Each connection has a reader and a writer thread for each direction; the
direction's `Shaper` says when bytes leave and arrive. It is an ideal pipe: nothing is lost, nothing
is reordered, and TCP on either side of it sees a fast local network. Packet loss cannot be made
this way and is refused. The length of a queue is left out, and the relay says so: senders wait
here, and nothing is dropped.

Given a trace, it replays it when the probe asks, or `replay` is called; before and after, the link
is as its profile says.

A connection that opens with the probe's magic is answered by the relay itself, behind the same two
shapers, so the link is measured on the path of the frames and through the same port.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import Final

from netem.acceptor import Acceptor
from netem.answering import FIRST_BYTES_TIMEOUT_S, MAGIC, respond
from netem.player import Player
from netem.pump import pump
from netem.shaper import Shaper
from netem.users import Users
from splitbed.address import host_and_port, written
from splitbed.errors import LinkError
from splitbed.link import LinkCounters, LinkFacts, LinkProfile, Replay, Trace

_CONNECT_TIMEOUT_S: Final = 10.0


class Relay:
    """Listens on one address and forwards to another, through the two directions of a profile."""

    def __init__(
        self,
        profile: LinkProfile,
        listen: str,
        target: str,
        seed: int = 0,
        trace: Trace | None = None,
    ) -> None:
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
        self._users = Users(self.replay)
        self._player = None if trace is None else Player(profile, trace, self._up, self._down)
        self._connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        most_bps = self._player.peak_up_bps if self._player else profile.up.payload_bps
        listener = _listen(host_and_port(listen), most_bps)
        self.address = written(*listener.getsockname()[:2])
        """Where it listens, with the real port."""
        self._acceptor = Acceptor(listener, self._serve)

    def counters(self) -> LinkCounters:
        """Payload forwarded so far; what the probe sent is not counted."""
        return LinkCounters(self._up.carried_bytes, self._down.carried_bytes, self._connections)

    def facts(self) -> LinkFacts:
        """A relay of its profile; frames go to the port that the probe asked."""
        trace = self._player.trace.name if self._player else ""
        return LinkFacts("relay", self.profile, trace=trace, settings=left_out(self.profile))

    def replay(self, begin: bool) -> Replay | None:
        """Begin the trace (anew), or end it; what came of the replay until now, if one was on."""
        return self._player.replay(begin) if self._player else None

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._closed.set()
        self._acceptor.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._up.close()
        self._down.close()

    def _serve(self, client: socket.socket) -> None:
        ends = {client}
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
            pump(client, server, self._up, not is_probe),
            pump(server, client, self._down, not is_probe),
        ]
        for writer in writers:
            writer.join()


def left_out(profile: LinkProfile) -> dict[str, str]:
    """What a relay makes nothing of though the profile asks for it, and why, for the record."""
    queues = (profile.up.queue_ns, profile.down.queue_ns)
    if queues == (None, None):
        return {}
    return {"queue": "left out: a relay drops nothing"}


def _listen(where: tuple[str, int], payload_bps: float | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
    client.settimeout(FIRST_BYTES_TIMEOUT_S)
    try:
        # One byte tells: neither HTTP/2's preface nor a TLS record begins like the magic.
        first = client.recv(1, socket.MSG_PEEK)
    except OSError:
        first = b""
    client.settimeout(None)
    return first == MAGIC[:1]
