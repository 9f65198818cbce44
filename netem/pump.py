"""The two threads that move one direction of a connection: a reader, and a writer behind it."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from typing import Final

from netem.shaper import HORIZON_NS, Shaper, sleep_until

_IN_FLIGHT_CHUNKS: Final = 4096
"""Chunks of one connection that may be travelling; back-pressure for an unlimited rate."""

_Item = tuple[int, bytes | memoryview | None]
"""When it arrives, and what: b"" where the sender ended, None where it was reset."""


def pump(
    source: socket.socket, sink: socket.socket, shaper: Shaper, counted: bool
) -> threading.Thread:
    """Move bytes from one socket to the other through a shaper; the thread that ends last."""
    travelling: queue.Queue[_Item] = queue.Queue(_IN_FLIGHT_CHUNKS)
    reader = threading.Thread(target=_read, args=(source, shaper, travelling, counted), daemon=True)
    writer = threading.Thread(target=_write, args=(sink, source, shaper, travelling), daemon=True)
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
        if not data:
            _, _, arrives_ns = shaper.carry(0, counted)
            travelling.put((arrives_ns, data))
            return
        left = memoryview(data)
        while left:
            # Less than all where the rate has fallen since the bytes were asked for.
            taken, leaves_ns, arrives_ns = shaper.carry(len(left), counted)
            travelling.put((arrives_ns, left[:taken]))
            left = left[taken:]
            sleep_until(leaves_ns - HORIZON_NS)


def _write(
    sink: socket.socket, source: socket.socket, shaper: Shaper, travelling: queue.Queue[_Item]
) -> None:
    """Hand bytes to the receiver when they arrive; jitter and new delays never change their order.

    A chunk that would overtake the one before it arrives with it.
    """
    due_ns = 0
    while True:
        # What a slow receiver keeps waiting is not late by our doing.
        idle_ns = time.perf_counter_ns()
        arrives_ns, data = travelling.get()
        due_ns = max(due_ns, arrives_ns)
        sleep_until(due_ns)
        drift = shaper.drift
        if drift is not None:
            drift.add(time.perf_counter_ns() - max(due_ns, idle_ns))
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
