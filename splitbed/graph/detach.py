"""Taking the weights out of an ONNX file's bytes without reading them.

`detach` makes every large tensor *external data of that same file*: the place where its raw data
lie anyway. What comes out is a small, ordinary ONNX model, and reading it costs the size of the
graph, not the size of the weights. It walks the wire format of protocol buffers (varints, and
fields with a length) only as far as it has to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec
from onnx import TensorProto

DETACHED_BYTES: Final = 32768
"""Data up to this size stay in the graph: shapes may depend on their values (4096 int64 fit)."""

GRAPH, NODE, INITIALIZER = 7, 1, 5
"""Fields of a model and of its graph that are written here, too."""

DEEPEST: Final = 100
"""Messages within messages; protocol buffers' own readers stop there as well."""

_Kind = Literal["model", "graph", "node", "attribute", "tensor"]

# Numbers of fields that hold other messages, from onnx.proto; everything else is copied as it is.
_INSIDE: Final[Mapping[_Kind, Mapping[int, _Kind]]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
_DATA_TYPE, _FLOAT_DATA, RAW_DATA, _DOUBLE_DATA = 2, 4, 9, 10
# Packed float_data and double_data are the little-endian values themselves, as raw_data are.
_DATA_FIELDS: Final = {
    RAW_DATA: None,
    _FLOAT_DATA: TensorProto.FLOAT,
    _DOUBLE_DATA: TensorProto.DOUBLE,
}
_VARINT, _EIGHT_BYTES, _WITH_LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def detach(content: memoryview, location: str) -> bytes:
    """The ONNX model `content` with its large data replaced by references to file `location`.

    Raises ValueError where the bytes are no message of the format.
    """
    return b"".join(_rewritten(content, 0, len(content), "model", location))


def varint(value: int) -> bytes:
    """A number as protocol buffers write it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def with_length(field: int, length: int) -> bytes:
    """The tag and length that stand before a field's bytes."""
    return varint(field << 3 | _WITH_LENGTH) + varint(length)


class _Field(msgspec.Struct, frozen=True):
    number: int
    wire: int
    start: int
    """Of the tag."""
    body: int
    end: int
    value: int
    """Of a varint."""


def _fields(view: memoryview, start: int, end: int) -> Iterator[_Field]:
    at = start
    while at < end:
        begin = at
        tag, at = _read_varint(view, at, end)
        number, wire, value, body = tag >> 3, tag & 7, 0, at
        if wire == _VARINT:
            value, at = _read_varint(view, at, end)
        elif wire == _EIGHT_BYTES:
            at += 8
        elif wire == _FOUR_BYTES:
            at += 4
        elif wire == _WITH_LENGTH:
            length, body = _read_varint(view, at, end)
            at = body + length
        else:
            raise ValueError(f"byte {begin} begins no field")
        if at > end or not number:
            raise ValueError(f"it ends in the middle of what begins at byte {begin} (cut off?)")
        yield _Field(number, wire, begin, body, at, value)


def _read_varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            break
    raise ValueError(f"byte {at} ends no number")


def _rewritten(
    view: memoryview, start: int, end: int, kind: _Kind, location: str, depth: int = 0
) -> list[memoryview | bytes]:
    if kind == "tensor":
        return _tensor(view, start, end, location)
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    pieces: list[memoryview | bytes] = []
    copied = start
    for field in _fields(view, start, end):
        inner = _INSIDE[kind].get(field.number)
        if inner is None or field.wire != _WITH_LENGTH or field.end - field.body <= DETACHED_BYTES:
            continue
        inside = _rewritten(view, field.body, field.end, inner, location, depth + 1)
        length = sum(map(len, inside))
        pieces += [view[copied : field.start], with_length(field.number, length), *inside]
        copied = field.end
    pieces.append(view[copied:end])
    return pieces


def _tensor(view: memoryview, start: int, end: int, location: str) -> list[memoryview | bytes]:
    fields = list(_fields(view, start, end))
    types = [field.value for field in fields if field.number == _DATA_TYPE]
    data = [
        field
        for field in fields
        if field.number in _DATA_FIELDS
        and field.wire == _WITH_LENGTH
        and field.end - field.body > DETACHED_BYTES
        and _DATA_FIELDS[field.number] in (None, types[-1] if types else 0)
    ]
    if len(data) != 1:
        return [view[start:end]]
    field = data[0]
    entries = {
        "location": location,
        "offset": str(field.body),
        "length": str(field.end - field.body),
    }
    reference = TensorProto(data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        reference.external_data.add(key=key, value=value)
    # Messages are joined by writing one after the other.
    return [view[start : field.start], view[field.end : end], reference.SerializeToString()]
