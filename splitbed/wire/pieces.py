"""Large frames in pieces, so that copying, sending and receiving one frame go on side by side.

gRPC's Python hands a message on only when all of it has come, and copies it twice on each side. A
frame of several megabytes in messages of about one is copied piece by piece while the next piece is
under way (METHODOLOGY.md has the figures). A small frame is one message and pays nothing.

A piece is a Frame message with the fields `whole_bytes` and `piece` only, in this order; the pieces
of a frame follow each other on the stream, and joined they are the frame's own message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from splitbed.errors import Overloaded, ProtocolViolation
from splitbed.session import Buffer
from splitbed.wire.framing import LEN, VARINT, fields, key, varint

PIECE_BYTES: Final = 1 << 20
"""A frame's message up to this size travels whole; a longer one in equal pieces up to this size."""

_WHOLE, _PIECE = 5, 6
_FIRST_BYTE: Final = key(_WHOLE, VARINT)


def cut_frame(parts: Sequence[Buffer]) -> Sequence[Sequence[Buffer]]:
    """The messages that carry one frame, each in parts to join; `parts` make up its own message."""
    whole = sum(map(len, parts))
    if whole <= PIECE_BYTES:
        return (parts,)
    size = -(-whole // -(-whole // PIECE_BYTES))
    messages: list[list[Buffer]] = []
    for piece in _pieces(parts, size):
        length = sum(map(len, piece))
        head = key(_WHOLE, VARINT) + varint(whole) + key(_PIECE, LEN) + varint(length)
        messages.append([head, *piece])
    return messages


def too_large(whole_bytes: int) -> Overloaded:
    """What is said of a frame whose message is larger than a node allows."""
    return Overloaded(
        f"a frame of {whole_bytes} bytes is larger than a node allows: raise --message-mib on both"
    )


def _pieces(parts: Sequence[Buffer], size: int) -> Iterator[list[Buffer]]:
    piece: list[Buffer] = []
    room = size
    for part in parts:
        left = memoryview(part)
        while len(left):
            piece.append(left[:room])
            left = left[room:]
            room -= len(piece[-1])
            if not room:
                yield piece
                piece, room = [], size
    if piece:
        yield piece


class Assembler:
    """Puts the messages of one stream together again, to one frame's message after the other.

    `most_bytes` bounds a frame's message, since gRPC's own limit sees only its pieces.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._whole: memoryview | None = None
        self._filled = self._sent = 0

    def take(self, message: bytes) -> tuple[Buffer, int] | None:
        """The frame's message that is complete now, and the bytes that carried it; else None.

        Raises ProtocolViolation for pieces that do not belong together and Overloaded for a frame
        larger than allowed.
        """
        if message[:1] != _FIRST_BYTE:
            if self._whole is not None:
                raise ProtocolViolation("another frame came amid the pieces of one")
            return message, len(message)
        whole_bytes, piece = _read(message)
        if self._whole is None:
            if whole_bytes > self._most_bytes:
                raise too_large(whole_bytes)
            self._whole = np.empty(whole_bytes, np.uint8).data
            self._filled = self._sent = 0
        if whole_bytes != len(self._whole) or len(piece) > whole_bytes - self._filled:
            raise ProtocolViolation("the pieces of a frame do not add up to it")
        self._whole[self._filled : self._filled + len(piece)] = piece
        self._filled += len(piece)
        self._sent += len(message)
        if self._filled < whole_bytes:
            return None
        done, self._whole = self._whole, None
        return done, self._sent


def _read(message: bytes) -> tuple[int, memoryview]:
    found = fields(message)
    if [field for field, _, _ in found] != [_WHOLE, _PIECE]:
        raise ProtocolViolation("a piece of a frame is not of whole_bytes and piece")
    whole_bytes, piece = found[0][2], found[1][2]
    if not isinstance(whole_bytes, int) or not isinstance(piece, memoryview):
        raise ProtocolViolation("a piece of a frame is not of whole_bytes and piece")
    if not len(piece) or not whole_bytes:
        raise ProtocolViolation("a piece of a frame is empty")
    return whole_bytes, piece
