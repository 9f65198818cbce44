"""Accepting connections until it is closed, whatever strangers do meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final

MOST_CONNECTIONS: Final = 256
"""At once. With a relay's three sockets for each, they fit into the 1024 files that a process has
unless told otherwise."""

_PAUSE_S: Final = 0.05
"""Between attempts, where this machine has no file or thread left."""


class Acceptor:
    """Gives each connection to `serve`, on a thread of its own, and closes it afterwards.

    Beyond `MOST_CONNECTIONS` they are closed at once.
    """

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], object]) -> None:
        self._listener, self._serve = listener, serve
        self._room = threading.Semaphore(MOST_CONNECTIONS)
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def close(self) -> None:
        """Stop listening; connections that are there go on."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:  # that connection is gone again, or there is no file for it
                self._closed.wait(_PAUSE_S)
                continue
            if not self._room.acquire(blocking=False):
                client.close()
                continue
            try:
                threading.Thread(target=self._attend, args=(client,), daemon=True).start()
            except RuntimeError:  # no thread to be had
                client.close()
                self._room.release()
                self._closed.wait(_PAUSE_S)

    def _attend(self, client: socket.socket) -> None:
        try:
            with client:
                with contextlib.suppress(OSError):  # it is gone again
                    keep_alive(client)
                self._serve(client)
        finally:
            self._room.release()


def keep_alive(sock: socket.socket) -> None:
    """Notice within a minute that the other machine is gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Linux's names; elsewhere its own, longer times hold.
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
