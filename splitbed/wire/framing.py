"""Frames and replies as protobuf bytes, written and read without protobuf's runtime.

The runtime would copy every payload once more into a message object and once more out of it. Here
a message is joined once, straight from the codec's buffers, and received payloads are views of the
message's own memory. The bytes are what the runtime makes and reads (tests compare the two).

Payloads start at multiples of 16 bytes, so that a received float tensor can be used where it lies.
"""

from __future__ import annotations

import struct
from typing import Final

from splitbed.errors import ProtocolViolation, SplitbedError, from_kind
from splitbed.session import Buffer, EdgeTimes, Frame, Reply

ALIGNMENT: Final = 16
_MOST_PAYLOADS: Final = 4096
_MOST_TEXT_BYTES: Final = 1 << 20

_FIXED64: Final = struct.Struct("<Q")
_FIXED32: Final = struct.Struct("<I")
_SMALL: Final = tuple(bytes([value]) for value in range(1 << 7))
"""Numbers of one byte, keys of fields among them."""
VARINT, _I64, LEN, _I32 = 0, 1, 2, 5
_TIMES: Final = ("edge_ns", "queue_ns", "decode_ns", "tail_ns", "encode_ns", "batch")


def encode_frame(frame: Frame) -> bytes:
    """A Frame message."""
    return b"".join(frame_parts(frame))


def frame_parts(frame: Frame) -> list[Buffer]:
    """The same in parts to join, payloads where they lie."""
    head = _fixed64(1, frame.session_id) + _varint_field(2, frame.frame_id)
    return _aligned(head, frame.payloads, b"")


def decode_frame(message: Buffer) -> Frame:
    """The frame in a message, its payloads as views; ProtocolViolation for anything else."""
    session_id = frame_id = 0
    payloads: list[Buffer] = []
    for field, wire_type, value in fields(message):
        if field == 1 and wire_type == _I64:
            session_id = _as_int(value)
        elif field == 2 and wire_type == VARINT:
            frame_id = _as_int(value)
        elif field == 4 and wire_type == LEN:
            payloads.append(_as_view(value))
            if len(payloads) > _MOST_PAYLOADS:
                raise ProtocolViolation(f"a frame holds more than {_MOST_PAYLOADS} payloads")
    return Frame(session_id, frame_id, tuple(payloads))


def encode_reply(reply: Reply) -> bytes:
    """A Reply message."""
    return b"".join(_reply_parts(reply))


def _reply_parts(reply: Reply) -> list[Buffer]:
    head = _fixed64(1, reply.session_id) + _varint_field(2, reply.frame_id)
    spent = reply.times
    times = b"".join(
        (
            _fixed64(1, spent.received_ns),
            _varint_field(2, spent.edge_ns),
            _varint_field(3, spent.queue_ns),
            _varint_field(4, spent.decode_ns),
            _varint_field(5, spent.tail_ns),
            _varint_field(6, spent.encode_ns),
            _varint_field(7, spent.batch),
        )
    )
    tail = _bytes_field(5, times)
    if reply.result_json:
        tail += _bytes_field(6, _text(reply.result_json))
    if reply.error is not None:
        failure = _bytes_field(1, reply.error.kind.encode())
        sentence = str(reply.error).encode("utf-8", "replace")[:_MOST_TEXT_BYTES]
        # What the cut left of a last character goes too.
        failure += _bytes_field(2, _text(sentence.decode("utf-8", "ignore")))
        tail += _bytes_field(7, failure)
    return _aligned(head, reply.payloads, tail)


def decode_reply(message: bytes) -> Reply:
    """The reply in a message, its payloads as views; ProtocolViolation for anything else."""
    session_id = frame_id = 0
    payloads: list[Buffer] = []
    times, result, error = EdgeTimes(), "", None
    for field, wire_type, value in fields(message):
        if field == 1 and wire_type == _I64:
            session_id = _as_int(value)
        elif field == 2 and wire_type == VARINT:
            frame_id = _as_int(value)
        elif field == 4 and wire_type == LEN:
            payloads.append(_as_view(value))
            if len(payloads) > _MOST_PAYLOADS:
                raise ProtocolViolation(f"a reply holds more than {_MOST_PAYLOADS} payloads")
        elif field == 5 and wire_type == LEN:
            times = _decode_times(_as_view(value))
        elif field == 6 and wire_type == LEN:
            result = _as_text(value)
        elif field == 7 and wire_type == LEN:
            error = _decode_failure(_as_view(value))
    return Reply(session_id, frame_id, times, tuple(payloads), result, error)


def _decode_times(message: memoryview) -> EdgeTimes:
    values: dict[str, int] = {"batch": 0}  # what protobuf leaves out is zero
    for field, wire_type, value in fields(message):
        if field == 1 and wire_type == _I64:
            values["received_ns"] = _as_int(value)
        elif 2 <= field < 2 + len(_TIMES) and wire_type == VARINT:
            values[_TIMES[field - 2]] = _as_int(value)
    return EdgeTimes(**values)


def _decode_failure(message: memoryview) -> SplitbedError:
    kind = sentence = ""
    for field, wire_type, value in fields(message):
        if field == 1 and wire_type == LEN:
            kind = _as_text(value)
        elif field == 2 and wire_type == LEN:
            sentence = _as_text(value)
    return from_kind(kind, sentence)


def _aligned(head: bytes, payloads: tuple[Buffer, ...], tail: bytes) -> list[Buffer]:
    """Message parts in order: before each payload as much padding as its alignment needs."""
    parts: list[Buffer] = []
    pending, offset = head, 0
    for payload in payloads:
        before = key(4, LEN) + varint(len(payload))
        start = offset + len(pending) + len(before)
        short = -start % ALIGNMENT
        if short:
            # The padding field itself takes two bytes.
            pending += _bytes_field(3, bytes((short - 2) % ALIGNMENT))
        parts += [pending + before, payload]
        offset += len(pending) + len(before) + len(payload)
        pending = b""
    parts.append(pending + tail)
    return parts


def key(field: int, wire_type: int) -> bytes:
    """What stands before a field's value."""
    return _SMALL[field << 3 | wire_type]


def varint(value: int) -> bytes:
    """An unsigned number in as many bytes as it needs, seven bits in each."""
    if 0 <= value < 1 << 7:
        return _SMALL[value]
    # Most others are times of up to 2 ms: written out, as this is on every frame's way.
    if 0 <= value < 1 << 21:
        if value < 1 << 14:
            return bytes((value & 0x7F | 0x80, value >> 7))
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    if not 0 <= value < 1 << 64:
        raise ProtocolViolation(f"{value} is no unsigned 64-bit number")
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _varint_field(field: int, value: int) -> bytes:
    return key(field, VARINT) + varint(value) if value else b""


def _fixed64(field: int, value: int) -> bytes:
    if not 0 <= value < 1 << 64:
        raise ProtocolViolation(f"{value} is no unsigned 64-bit number")
    return key(field, _I64) + _FIXED64.pack(value) if value else b""


def _text(text: str) -> bytes:
    """Text as UTF-8; what it cannot carry (bytes of a strange file name) becomes `?`."""
    data = text.encode("utf-8", "replace")
    if len(data) > _MOST_TEXT_BYTES:
        raise ProtocolViolation(f"a text of {len(data)} bytes is longer than a message may hold")
    return data


def _bytes_field(field: int, value: bytes) -> bytes:
    return key(field, LEN) + varint(len(value)) + value


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(view):
            raise ProtocolViolation("a message ends within a number")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                raise ProtocolViolation("a message holds a number of more than 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            raise ProtocolViolation("a message holds a number of more than ten bytes")


def fields(message: Buffer) -> list[tuple[int, int, int | memoryview]]:
    """Every field of a message: number, wire type, value."""
    view = memoryview(message)
    found: list[tuple[int, int, int | memoryview]] = []
    at = 0
    end = len(view)
    while at < end:
        tag = view[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _read_varint(view, at)
        field, wire_type = tag >> 3, tag & 7
        value: int | memoryview
        if field == 0:
            raise ProtocolViolation("a message holds a field with number 0")
        if wire_type == VARINT:
            value, at = _read_varint(view, at)
        elif wire_type in (_I64, _I32):
            fixed = _FIXED64 if wire_type == _I64 else _FIXED32
            if at + fixed.size > end:
                raise ProtocolViolation("a message ends within a fixed-size field")
            (value,) = fixed.unpack_from(view, at)
            at += fixed.size
        elif wire_type == LEN:
            size, at = _read_varint(view, at)
            if size > end - at:
                raise ProtocolViolation(f"a field announces {size} bytes where {end - at} are left")
            value = view[at : at + size]
            at += size
        else:
            raise ProtocolViolation(f"a message holds a field of unknown wire type {wire_type}")
        if len(found) > 2 * _MOST_PAYLOADS + 64:
            raise ProtocolViolation("a message holds too many fields")
        found.append((field, wire_type, value))
    return found


def _as_int(value: int | memoryview) -> int:
    assert isinstance(value, int)
    return value


def _as_view(value: int | memoryview) -> memoryview:
    assert isinstance(value, memoryview)
    return value


def _as_text(value: int | memoryview) -> str:
    view = _as_view(value)
    if len(view) > _MOST_TEXT_BYTES:
        raise ProtocolViolation(f"a text of {len(view)} bytes is longer than allowed")
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolViolation("a text is not UTF-8") from error
