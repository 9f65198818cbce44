"""The frames of one stream at the edge: one after the other, or side by side."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterator
from typing import NamedTuple

from splitbed.session import Buffer, Reply
from splitbed.transport.face import Peer, Work
from splitbed.wire.framing import decode_frame, encode_reply
from splitbed.wire.pieces import Assembler


class Received(NamedTuple):
    """A frame's message, whole."""

    message: Buffer
    request_bytes: int
    """Of the messages that carried it."""
    received_ns: int
    """The instant at which it was complete."""


class FrameStream:
    """Takes in the messages of one stream, and gives the replies' messages in their order.

    At most `depth` frames are held from their arrival until their reply is sent; one more waits to
    be let in, and the rest waits in gRPC's flow control. With a depth of one everything happens on
    the thread that asks for replies. With more, three threads work side by side: one reads ahead,
    so that the instant of arrival is true while earlier frames are worked on; one decodes; the one
    that asks encodes and sends. Tails run wherever the peer runs them.

    Every session that has a frame here is added to `used`, until the generator of replies ends.
    """

    def __init__(
        self,
        peer: Peer,
        requests: Iterator[bytes],
        depth: int,
        most_bytes: int,
        used: set[int],
    ) -> None:
        self._peer, self._requests = peer, requests
        self._depth, self._most_bytes = depth, most_bytes
        self._used = used

    def replies(self) -> Generator[bytes, None, None]:
        """The replies. Raises what a frame of the stream, or the stream itself, fails with."""
        return self._one_by_one() if self._depth == 1 else self._side_by_side()

    def _one_by_one(self) -> Generator[bytes, None, None]:
        for received in self._received():
            frame = decode_frame(received.message)
            self._used.add(frame.session_id)
            reply = self._peer.process(frame, received.received_ns)
            message = encode_reply(reply)
            try:
                yield message
            finally:  # sent by now: the device does not wait for our bookkeeping
                self._peer.answered(reply, received.request_bytes, len(message))

    def _side_by_side(self) -> Generator[bytes, None, None]:
        line = _Line(self, self._depth)
        with contextlib.closing(line):
            for work, request_bytes in line.begun():
                reply: Reply = work.finish()
                message = encode_reply(reply)
                try:
                    yield message
                finally:
                    self._peer.answered(reply, request_bytes, len(message))
                    line.places.release()

    def _received(self) -> Iterator[Received]:
        assembler = Assembler(self._most_bytes)
        for message in self._requests:
            done = assembler.take(message)
            if done is not None:
                yield Received(*done, time.perf_counter_ns())

    def _start(self, received: Received, over: _Over) -> Work | None:
        frame = decode_frame(received.message)
        with over.lock:
            if over.is_set:
                return None  # whose sessions are being closed
            self._used.add(frame.session_id)
        return self._peer.start(frame, received.received_ns)


class _Over:
    """Whether a stream has ended."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_set = False


_Begun = tuple[Work, int]
"""A frame under way, and the bytes that carried it: its message is not held any longer."""


class _Line:
    """The two threads before the one that sends. `close` ends both, as does the stream's end."""

    def __init__(self, stream: FrameStream, depth: int) -> None:
        self._stream, self._over = stream, _Over()
        self.places = threading.Semaphore(depth)
        self._arrived: queue.SimpleQueue[Received | BaseException | None] = queue.SimpleQueue()
        self._begun: queue.SimpleQueue[_Begun | BaseException | None] = queue.SimpleQueue()
        for name, work in (("requests", self._read), ("decoding", self._decode)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def begun(self) -> Iterator[_Begun]:
        """Frames in their order, decoded, until the stream ends; raises what ended it."""
        while (item := self._begun.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """No further frame is started."""
        with self._over.lock:
            self._over.is_set = True
        # A reader that waits for a place must not outlive its stream.
        self.places.release()

    def _read(self) -> None:
        try:
            for received in self._stream._received():
                self.places.acquire()
                if self._over.is_set:
                    break
                self._arrived.put(received)
            self._arrived.put(None)
        except BaseException as error:
            self._arrived.put(error)

    def _decode(self) -> None:
        try:
            while (item := self._arrived.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                work = self._stream._start(item, self._over)
                if work is None:
                    return
                self._begun.put((work, item.request_bytes))
            self._begun.put(None)
        except BaseException as error:
            self._begun.put(error)
