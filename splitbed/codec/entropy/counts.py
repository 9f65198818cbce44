"""Whole numbers before a stream: seven bits a byte, the lowest first, the last byte below 128."""

from __future__ import annotations


def counted(count: int) -> bytes:
    """A number as bytes."""
    found = bytearray()
    while count >= 128:
        found.append(count & 127 | 128)
        count >>= 7
    found.append(count)
    return bytes(found)


def count_at(data: memoryview, at: int, most_bytes: int) -> tuple[int, int] | None:
    """The number at a place, and where it ends; None where the bytes end first.

    ValueError for a number of more than `most_bytes`.
    """
    count = 0
    for number in range(most_bytes):
        if at + number == len(data):
            return None
        byte = data[at + number]
        count |= (byte & 127) << 7 * number
        if not byte & 128:
            return count, at + number + 1
    raise ValueError(f"a number of more than {most_bytes} bytes")
