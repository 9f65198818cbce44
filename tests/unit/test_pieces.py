"""Frames in pieces: joined they are the frame, and nothing else gets through."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbed.errors import Overloaded, ProtocolViolation
from splitbed.session import Frame
from splitbed.wire import split_pb2 as pb
from splitbed.wire.framing import decode_frame, encode_frame, frame_parts
from splitbed.wire.pieces import PIECE_BYTES, Assembler, cut_frame

LIMIT = 64 << 20


def messages(frame: Frame) -> list[bytes]:
    return [b"".join(parts) for parts in cut_frame(frame_parts(frame))]


def assembled(sent: list[bytes], limit: int = LIMIT) -> list[tuple[bytes, int]]:
    assembler = Assembler(limit)
    taken = [assembler.take(message) for message in sent]
    return [(bytes(found[0]), found[1]) for found in taken if found is not None]


def frame_of(*sizes: int, number: int = 7) -> Frame:
    return Frame(1, number, tuple(random.Random(size).randbytes(size) for size in sizes))


def test_a_small_frame_is_one_message() -> None:
    frame = frame_of(0, 20_000, 5)
    assert messages(frame) == [encode_frame(frame)]


def test_the_largest_whole_frame_and_the_smallest_in_pieces() -> None:
    over = len(encode_frame(frame_of(PIECE_BYTES))) - PIECE_BYTES
    assert len(messages(frame_of(PIECE_BYTES - over))) == 1
    assert len(messages(frame_of(PIECE_BYTES - over + 1))) == 2


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3 * PIECE_BYTES), min_size=1, max_size=4), st.booleans())
def test_pieces_are_the_frame(sizes: list[int], as_views: bool) -> None:
    frame = frame_of(*sizes)
    if as_views:
        frame = Frame(1, 7, tuple(memoryview(bytearray(p)) for p in frame.payloads))
    whole = encode_frame(frame)
    sent = messages(frame)
    assert max(map(len, sent)) <= PIECE_BYTES + 16
    # Of equal size: the last one, which nothing overlaps, is not a large one.
    assert len(sent) == max(1, -(-len(whole) // PIECE_BYTES))
    assert assembled(sent) == [(whole, sum(map(len, sent)))]


def test_protobuf_reads_the_same_pieces() -> None:
    frame = frame_of(2_500_000)
    read = [pb.Frame.FromString(message) for message in messages(frame)]
    assert {item.whole_bytes for item in read} == {len(encode_frame(frame))}
    assert b"".join(item.piece for item in read) == encode_frame(frame)
    assert [item.SerializeToString() for item in read] == messages(frame)


def test_frames_one_after_the_other() -> None:
    frames = [frame_of(3_000_000), frame_of(10), frame_of(1_100_000, 9), frame_of(0)]
    sent = [message for frame in frames for message in messages(frame)]
    assert [found for found, _ in assembled(sent)] == [encode_frame(f) for f in frames]


def test_a_payload_of_an_assembled_frame_is_aligned() -> None:
    frame = frame_of(1_500_000, 1_500_000)
    found = None
    assembler = Assembler(LIMIT)
    for message in messages(frame):
        found = assembler.take(message)
    assert found is not None
    received = decode_frame(found[0])
    assert [bytes(p) for p in received.payloads] == list(frame.payloads)


def test_a_frame_larger_than_allowed_is_refused_at_its_first_piece() -> None:
    sent = messages(frame_of(3_000_000))
    with pytest.raises(Overloaded, match=r"a frame of 30000\d\d bytes .* raise --message-mib"):
        Assembler(2_000_000).take(sent[0])
    assert assembled(sent, len(encode_frame(frame_of(3_000_000))))


def piece(whole_bytes: int, content: bytes) -> bytes:
    return pb.Frame(whole_bytes=whole_bytes, piece=content).SerializeToString()


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ([piece(10, b"12345"), piece(11, b"67890")], "do not add up"),
        ([piece(10, b"12345"), piece(10, b"678901")], "do not add up"),
        ([piece(4, b"12345")], "do not add up"),
        ([piece(10, b"12345"), encode_frame(Frame(1, 1, ()))], "another frame came amid"),
        ([piece(10, b"12345"), b""], "another frame came amid"),
        ([piece(10, b"")], "is not of whole_bytes and piece"),
        ([b"\x28\x0a\x32\x00"], "is empty"),
        ([b"\x28\x00\x32\x01a"], "is empty"),
        ([b"\x28\x0a"], "is not of whole_bytes and piece"),
        ([b"\x28\x0a\x32\x01a\x10\x01"], "is not of whole_bytes and piece"),
        ([b"\x28\x0a\x32\x01a\x32\x01a"], "is not of whole_bytes and piece"),
        ([b"\x28\x0a\x30\x01"], "is not of whole_bytes and piece"),
        ([b"\x28"], "ends within a number"),
        ([b"\x28\x0a\x32\x05abc"], "announces 5 bytes where 3 are left"),
    ],
)
def test_pieces_that_are_none(sent: list[bytes], words: str) -> None:
    with pytest.raises(ProtocolViolation, match=words):
        assembled(sent)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40).map(lambda data: b"\x28" + data), max_size=4))
def test_any_bytes_are_taken_or_refused(sent: list[bytes]) -> None:
    with contextlib.suppress(ProtocolViolation, Overloaded):
        assembled(sent, limit=1000)
