"""Answers the probe where no relay stands: behind a kernel-shaped link, or on a bare one."""

from __future__ import annotations

import socket

from netem.acceptor import Acceptor
from netem.answering import FIRST_BYTES_TIMEOUT_S, Served, respond
from netem.datagram_port import DatagramPort
from netem.users import Users
from splitbed.address import host_and_port, written
from splitbed.errors import LinkError
from splitbed.link import Direction, LinkCounters, LinkFacts, LinkProfile, Replay


class BareLink:
    """A link that nothing here shapes."""

    def counters(self) -> LinkCounters:
        """Nothing passes through here."""
        return LinkCounters(0, 0, 0)

    def facts(self) -> LinkFacts:
        """Not shaped."""
        return LinkFacts("direct", LinkProfile("none", Direction(), Direction()))

    def replay(self, begin: bool) -> Replay | None:
        """There is no trace."""
        return None


class Responder:
    """Listens and answers every connection, on behalf of `link`."""

    def __init__(self, listen: str, link: Served | None = None) -> None:
        self._link = link or BareLink()
        self._users = Users(self._link.replay)
        where = host_and_port(listen)
        try:
            family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
            listener = socket.create_server(where, family=family)
        except OSError as error:
            raise LinkError(f"the responder cannot listen on {listen}: {error.strerror}") from error
        self.address = written(*listener.getsockname()[:2])
        """Where it listens, with the real port."""
        self._datagrams = DatagramPort(listener.getsockname()[1])
        self._acceptor = Acceptor(listener, self._serve)

    def close(self) -> None:
        """Stop listening."""
        self._acceptor.close()

    def _serve(self, client: socket.socket) -> None:
        respond(client, self._link, self._users, self._datagrams, FIRST_BYTES_TIMEOUT_S)
