"""Frames and replies without protobuf's runtime: the same meaning, byte for byte, as with it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbed import errors
from splitbed.errors import ProtocolViolation, SplitbedError, TransportError, from_kind
from splitbed.session import Buffer, EdgeTimes, Frame, Reply
from splitbed.wire import framing
from splitbed.wire import split_pb2 as pb
from splitbed.wire.framing import (
    decode_frame,
    decode_reply,
    encode_frame,
    encode_reply,
)

GOLDEN: Final = Path(__file__).resolve().parents[1] / "golden" / "wire"
TIMES: Final = EdgeTimes.__struct_fields__

U64 = st.integers(0, 2**64 - 1)
PAYLOADS = st.lists(st.binary(max_size=70), max_size=6).map(tuple)
TEXT = st.text(max_size=40)
FRAMES = st.builds(Frame, U64, U64, PAYLOADS)
EDGE_TIMES = st.builds(EdgeTimes, U64, U64, U64, U64, U64, U64, st.integers(1, 2**32 - 1))
KINDS = st.sampled_from(["engine", "codec", "overloaded", "transport"])
REPLIES = st.builds(
    Reply, U64, U64, EDGE_TIMES, PAYLOADS, TEXT, st.none() | st.builds(from_kind, KINDS, TEXT)
)
property_test = settings(max_examples=150, deadline=None)

FRAME = Frame(0x0123456789ABCDEF, 300, (b"first payload", b"", bytes(range(40))))
REPLY = Reply(
    session_id=2**64 - 1,
    frame_id=2**64 - 1,
    times=EdgeTimes(10**15, 5_000_000, 0, 1, 2**40, 127, 128),
    payloads=(b"\x00\x01\x02\x03" * 9, b"x"),
    result_json='{"class": "Öl"}',
    error=errors.Overloaded("the edge is full: try later"),
)


def same_reply(ours: Reply, wanted: Reply) -> None:
    """Equality of all that crosses the wire; errors have no equality of their own."""
    assert (ours.session_id, ours.frame_id) == (wanted.session_id, wanted.frame_id)
    assert ours.times == wanted.times
    assert [bytes(p) for p in ours.payloads] == [bytes(p) for p in wanted.payloads]
    assert ours.result_json == wanted.result_json
    assert type(ours.error) is type(wanted.error)
    assert str(ours.error) == str(wanted.error)


def runtime_frame(frame: Frame) -> pb.Frame:
    """The same frame as a message object of the runtime."""
    return pb.Frame(
        session_id=frame.session_id,
        frame_id=frame.frame_id,
        payloads=map(bytes, frame.payloads),
    )


def runtime_reply(reply: Reply) -> pb.Reply:
    """The same reply as a message object of the runtime."""
    times = {name: getattr(reply.times, name) for name in TIMES}
    message = pb.Reply(
        session_id=reply.session_id,
        frame_id=reply.frame_id,
        payloads=map(bytes, reply.payloads),
        times=pb.EdgeTimes(**times),
        result_json=reply.result_json,
    )
    if reply.error is not None:
        message.failure.CopyFrom(pb.Failure(kind=reply.error.kind, sentence=str(reply.error)))
    return message


def varint(value: int) -> bytes:
    """LEB128, written here once more so that the tests do not lean on what they test."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, wire_type: int, content: bytes) -> bytes:
    size = varint(len(content)) if wire_type == 2 else b""
    return varint(number << 3 | wire_type) + size + content


def parts_of(message: pb.Frame | pb.Reply) -> list[bytes]:
    """What the runtime writes, one piece for each field, payloads together."""
    parts = []
    for descriptor, value in message.ListFields():
        single = type(message)()
        if descriptor.name == "payloads":
            single.payloads.extend(value)
        elif descriptor.message_type is not None:
            getattr(single, descriptor.name).CopyFrom(value)
        else:
            setattr(single, descriptor.name, value)
        parts.append(single.SerializeToString())
    return parts


UNKNOWN = st.one_of(
    st.builds(lambda n, v: field(n, 0, varint(v)), st.integers(8, 2**29 - 1), U64),
    st.builds(lambda n, v: field(n, 1, v), st.integers(8, 99), st.binary(min_size=8, max_size=8)),
    st.builds(lambda n, v: field(n, 5, v), st.integers(8, 99), st.binary(min_size=4, max_size=4)),
    st.builds(lambda n, v: field(n, 2, v), st.integers(8, 99), st.binary(max_size=200)),
    # A known number with another wire type is unknown as well.
    st.sampled_from([field(1, 0, b"\x05"), field(2, 2, b"abc"), field(4, 0, b"\x07")]),
)


# What we write, the runtime reads.


@property_test
@given(FRAMES)
def test_the_runtime_reads_our_frames(frame: Frame) -> None:
    message = pb.Frame.FromString(encode_frame(frame))
    message.ClearField("padding")
    assert message == runtime_frame(frame)


@property_test
@given(REPLIES)
def test_the_runtime_reads_our_replies(reply: Reply) -> None:
    message = pb.Reply.FromString(encode_reply(reply))
    message.ClearField("padding")
    assert message == runtime_reply(reply)


# What the runtime writes, we read.


@property_test
@given(FRAMES, st.lists(UNKNOWN, max_size=4), st.randoms(use_true_random=False))
def test_we_read_the_runtimes_frames(
    frame: Frame, unknown: list[bytes], order: random.Random
) -> None:
    parts = [*parts_of(runtime_frame(frame)), *unknown]
    order.shuffle(parts)
    message = b"".join(parts)
    pb.Frame.FromString(message)  # the runtime takes it as well
    decoded = decode_frame(message)
    assert (decoded.session_id, decoded.frame_id) == (frame.session_id, frame.frame_id)
    assert [bytes(p) for p in decoded.payloads] == list(frame.payloads)


@property_test
@given(REPLIES, st.lists(UNKNOWN, max_size=4), st.randoms(use_true_random=False))
def test_we_read_the_runtimes_replies(
    reply: Reply, unknown: list[bytes], order: random.Random
) -> None:
    parts = [*parts_of(runtime_reply(reply)), *unknown]
    order.shuffle(parts)
    message = b"".join(parts)
    pb.Reply.FromString(message)
    same_reply(decode_reply(message), reply)


@property_test
@given(FRAMES, REPLIES)
def test_round_trips(frame: Frame, reply: Reply) -> None:
    decoded = decode_frame(encode_frame(frame))
    assert decoded == Frame(frame.session_id, frame.frame_id, decoded.payloads)
    assert [bytes(p) for p in decoded.payloads] == list(frame.payloads)
    same_reply(decode_reply(encode_reply(reply)), reply)


def test_every_order_of_the_fields_of_a_reply() -> None:
    parts = parts_of(runtime_reply(REPLY))
    assert len(parts) == 6
    for order in permutations(parts):
        same_reply(decode_reply(b"".join(order)), REPLY)


def test_of_a_repeated_number_the_last_counts() -> None:
    message = encode_frame(Frame(1, 2, ())) + encode_frame(Frame(3, 4, ()))
    assert decode_frame(message) == Frame(3, 4, ())
    runtime = pb.Frame.FromString(message)
    assert (runtime.session_id, runtime.frame_id) == (3, 4)


def test_an_empty_message_is_a_frame_of_zeros() -> None:
    assert decode_frame(b"") == Frame(0, 0, ())
    assert decode_reply(b"") == Reply(0, 0, EdgeTimes())
    assert encode_frame(Frame(0, 0, ())) == b""


def test_a_kind_of_failure_that_we_do_not_know_is_a_transport_error() -> None:
    failure = pb.Failure(kind="from-the-future", sentence="what happened")
    reply = decode_reply(pb.Reply(failure=failure).SerializeToString())
    assert type(reply.error) is TransportError
    assert str(reply.error) == "what happened"


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_payloads_of_every_buffer_type(wrap: Any) -> None:
    frame = Frame(FRAME.session_id, FRAME.frame_id, tuple(map(wrap, FRAME.payloads)))
    assert encode_frame(frame) == encode_frame(FRAME)


# Alignment and views.


def address(buffer: Buffer) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


@property_test
@given(
    U64,
    U64,
    st.lists(st.integers(1, 300).map(bytes), min_size=1, max_size=9),
    st.sampled_from(["frame", "reply"]),
)
def test_payloads_are_views_at_multiples_of_16_bytes(
    session_id: int, frame_id: int, payloads: Sequence[bytes], kind: str
) -> None:
    decoded: Frame | Reply
    if kind == "frame":
        message = encode_frame(Frame(session_id, frame_id, tuple(payloads)))
        decoded = decode_frame(message)
    else:
        message = encode_reply(Reply(session_id, frame_id, EdgeTimes(), tuple(payloads)))
        decoded = decode_reply(message)
    start = address(message)
    for payload in decoded.payloads:
        offset = address(payload) - start
        assert offset % framing.ALIGNMENT == 0
        assert 0 < offset < len(message)  # it lies within the message: nothing was copied


@pytest.mark.parametrize("first", range(1, 130))
def test_padding_of_every_length(first: int) -> None:
    message = encode_frame(Frame(1, 1, (bytes(first), b"second")))
    assert (address(decode_frame(message).payloads[1]) - address(message)) % 16 == 0
    assert len(message) < first + 70


# Limits: each sentence of a refusal, and how far one may go.


LONG: Final = framing._MOST_TEXT_BYTES
REFUSED: Final[dict[str, tuple[bytes, str]]] = {
    "payload of 2**60 bytes": (field(1, 1, bytes(8)) + b"\x22" + varint(2**60), "announces"),
    "payload of 2**64-1 bytes": (b"\x22" + varint(2**64 - 1), "announces"),
    "one byte short": (b"\x22\x03ab", "announces 3 bytes where 2 are left"),
    "ends within a key": (b"\xff", "ends within a number"),
    "ends within a number": (b"\x10\x80\x80", "ends within a number"),
    "ends before a number": (b"\x10", "ends within a number"),
    "ends before a length": (b"\x22", "ends within a number"),
    "ends within eight bytes": (b"\x09" + bytes(7), "fixed-size"),
    "ends within four bytes": (field(9, 5, bytes(3)), "fixed-size"),
    "number of eleven bytes": (b"\x10" + b"\x80" * 10 + b"\x00", "ten bytes"),
    "number of 65 bits": (b"\x10" + b"\xff" * 9 + b"\x02", "64 bits"),
    "field number 0": (b"\x02\x00", "number 0"),
    "group": (b"\x0b\x0c", "wire type 3"),
    "end of a group": (b"\x0c", "wire type 4"),
    "wire type 6": (b"\x0e", "wire type 6"),
    "wire type 7": (b"\x0f", "wire type 7"),
    "too many payloads": (b"\x22\x00" * 4097, "more than 4096 payloads"),
    "too many fields": (b"\x10\x00" * 20000, "too many fields"),
}


@pytest.mark.parametrize(("message", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_breaks_the_contract_is_refused(message: bytes, sentence: str) -> None:
    for decode in (decode_frame, decode_reply):
        with pytest.raises(ProtocolViolation, match=sentence):
            decode(message)
    if b"\x22" not in message:  # within a part of a reply as well
        with pytest.raises(ProtocolViolation, match=sentence):
            decode_reply(field(5, 2, message))


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (field(6, 2, b"\xff\xfe"), "not UTF-8"),
        (field(7, 2, field(1, 2, b"\xc3")), "not UTF-8"),
        (field(7, 2, field(2, 2, b"\xed\xa0\x80")), "not UTF-8"),
        (field(6, 2, bytes(LONG + 1)), "longer than allowed"),
        (field(7, 2, field(2, 2, bytes(LONG + 1))), "longer than allowed"),
        (field(5, 2, b"\x10"), "ends within a number"),
    ],
    ids=["result", "kind", "sentence", "long result", "long sentence", "times"],
)
def test_what_no_reply_may_hold(message: bytes, sentence: str) -> None:
    with pytest.raises(ProtocolViolation, match=sentence):
        decode_reply(message)


def test_as_much_as_is_allowed() -> None:
    assert len(decode_frame(encode_frame(Frame(1, 1, (b"",) * 4096))).payloads) == 4096
    assert len(decode_frame(encode_frame(Frame(1, 1, (b"x",) * 4096))).payloads) == 4096
    assert len(decode_reply(field(6, 2, b"x" * LONG)).result_json) == LONG


def test_a_number_that_fits_no_field_is_refused_when_writing() -> None:
    with pytest.raises(ProtocolViolation, match="is no unsigned 64-bit number"):
        encode_frame(Frame(1, -1, ()))
    with pytest.raises(ProtocolViolation, match="is no unsigned 64-bit number"):
        encode_reply(Reply(1, 1, EdgeTimes(edge_ns=2**64)))


def test_a_long_sentence_is_cut() -> None:
    reply = decode_reply(
        encode_reply(Reply(1, 1, EdgeTimes(), error=SplitbedError("x" * 2 * LONG)))
    )
    assert str(reply.error) == "x" * LONG


# Fuzz: nothing but ProtocolViolation, and agreement with the runtime where both accept.


def taken(message: bytes) -> bool:
    """Whether `decode_frame` takes it; and if the runtime takes it too, what both read."""
    try:
        ours = decode_frame(message)
    except ProtocolViolation:
        return False
    try:
        theirs = pb.Frame.FromString(message)
    except DecodeError:  # the runtime also checks what it skips (field numbers above 2**29)
        return True
    assert (ours.session_id, ours.frame_id) == (theirs.session_id, theirs.frame_id)
    assert [bytes(p) for p in ours.payloads] == list(theirs.payloads)
    return True


def reply_taken(message: bytes) -> bool:
    try:
        decode_reply(message)
    except ProtocolViolation:
        return False
    return True


def test_every_beginning_of_a_message() -> None:
    for whole, decode in ((encode_frame(FRAME), taken), (encode_reply(REPLY), reply_taken)):
        accepted = [decode(whole[:end]) for end in range(len(whole) + 1)]
        assert accepted[0]
        assert accepted[-1]
        assert accepted.count(True) < 15  # only where a field ends


def mutated(message: bytes, rng: random.Random) -> bytes:
    data = bytearray(message)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.randrange(256)
        else:
            data[at : at + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
        data = data or bytearray(b"\x00")
    return bytes(data)


def test_mutated_messages() -> None:
    rng = random.Random(20240229)
    frame, reply = encode_frame(FRAME), encode_reply(REPLY)
    frames = sum(taken(mutated(frame, rng)) for _ in range(8000))
    replies = sum(reply_taken(mutated(reply, rng)) for _ in range(8000))
    assert 500 < frames < 7500  # both outcomes were met often
    assert 500 < replies < 7500


def test_random_bytes() -> None:
    rng = random.Random(7)
    accepted = 0
    for _ in range(8000):
        message = rng.randbytes(rng.randint(0, 24))
        accepted += taken(message)
        reply_taken(message)
    assert accepted > 100


# Golden messages: written once, read for ever.


def test_golden_frame() -> None:
    """Regenerate after a change of the contract, in tests/unit:

    python -c "import test_framing as t; t.write_golden()"
    """
    message = bytes.fromhex((GOLDEN / "frame.hex").read_text())
    assert message == encode_frame(FRAME)
    decoded = decode_frame(message)
    assert (decoded.session_id, decoded.frame_id) == (FRAME.session_id, FRAME.frame_id)
    assert [bytes(p) for p in decoded.payloads] == list(FRAME.payloads)


def test_golden_reply() -> None:
    message = bytes.fromhex((GOLDEN / "reply.hex").read_text())
    assert message == encode_reply(REPLY)
    same_reply(decode_reply(message), REPLY)


def test_the_example_in_the_contract() -> None:
    example = (GOLDEN / "example.hex").read_text().strip()
    contract = (GOLDEN.parents[2] / "proto" / "README.md").read_text(encoding="utf-8")
    assert example in contract
    assert bytes.fromhex(example) == encode_frame(Frame(1, 2, (b"abc",)))


def write_golden() -> None:
    """16 bytes a line, so that the alignment can be seen."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, message in (("frame", encode_frame(FRAME)), ("reply", encode_reply(REPLY))):
        lines = [message[at : at + 16].hex(" ") + "\n" for at in range(0, len(message), 16)]
        (GOLDEN / f"{name}.hex").write_text("".join(lines))


# What was wrong once.


def test_a_batch_of_zero_comes_back() -> None:
    times = EdgeTimes(edge_ns=5, batch=0)
    assert decode_reply(encode_reply(Reply(1, 1, times))).times == times


def test_a_long_sentence_is_cut_between_characters() -> None:
    error = SplitbedError("x" + "é" * LONG)
    assert str(decode_reply(encode_reply(Reply(1, 1, EdgeTimes(), error=error))).error)[-1] == "é"


def test_a_sentence_that_is_no_text_can_be_sent() -> None:
    error = SplitbedError("cannot read caf\udce9.png")
    reply = decode_reply(encode_reply(Reply(1, 1, EdgeTimes(), error=error)))
    assert str(reply.error).startswith("cannot read caf")


@pytest.mark.parametrize("session_id", [-1, 2**64])
def test_a_session_id_that_does_not_fit_is_refused_when_writing(session_id: int) -> None:
    with pytest.raises(ProtocolViolation):
        encode_frame(Frame(session_id, 1, ()))


def test_a_result_that_nobody_takes_is_refused_when_writing() -> None:
    with pytest.raises(SplitbedError):
        encode_reply(Reply(1, 1, EdgeTimes(), result_json="x" * (LONG + 1)))
