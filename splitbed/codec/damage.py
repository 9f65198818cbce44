"""What a hostile peer may make of payloads and of configurations."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

import msgspec

_NASTY: Final[tuple[Any, ...]] = (
    *(None, True, -1, 0, 1, 255, 256, 1 << 31, 1 << 60, (1 << 64) - 1, 0.5, 1e-320, 1e308, -1e308),
    *("", "x", "x" * 5000, "numpy", "AAAA", "////" * 4000),
    *([], [0.0], [0.0] * 3, [1e308] * 3, [0] * 20_000, [[[]]], {}, {"x": [{}]}),
)
"""Values that a configuration of JSON may hold."""


def damaged(payload: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """One to four damages: flipped bits, replaced, inserted, removed and repeated bytes, lengths
    that are far too large, a cut, and the end of another payload.
    """
    data = bytearray(payload)
    for _ in range(rng.randrange(1, 5)):
        at, size = rng.randrange(len(data) + 1), rng.randrange(1, 9)
        match rng.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + size] = rng.randbytes(size)
            case 2:
                data[at:at] = rng.randbytes(size)
            case 3:
                del data[at : at + size]
            case 4:
                data += data[at : at + 100]
            case 5:
                width = rng.choice((2, 4, 8))
                length = min(1 << rng.choice((15, 31, 60, 63)), (1 << 8 * width) - 1)
                data[at : at + width] = length.to_bytes(width, rng.choice(("little", "big")))
            case 6 if rng.randrange(3) == 0:
                del data[at:]
            case 6:
                data[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                data[at : at + size] = b"\xff" * size
    return bytes(data)


def hostile(config: dict[str, Any], rng: random.Random, count: int) -> Iterator[dict[str, Any]]:
    """`count` configurations of JSON that are nearly this one: keys left out, added and given odd
    values, list elements too, and bytes of its text changed.
    """
    for _ in range(count):
        found = dict(config)
        keys = [*found]
        match rng.randrange(8):
            case 0 if keys:
                del found[rng.choice(keys)]
            case 1:
                found[rng.choice(("x", "id", "__class__", "bits"))] = rng.choice(_NASTY)
            case 2 | 3 | 4 if keys:
                found[rng.choice(keys)] = rng.choice(_NASTY)
            case 5 if keys:
                key = rng.choice(keys)
                found[key] = _nearly(found[key], rng)
            case _:
                text = damaged(msgspec.json.encode(config), rng)
                try:
                    found = msgspec.json.decode(text, type=dict[str, Any])
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue
        yield found


def _nearly(value: Any, rng: random.Random) -> Any:
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 7, 1 << 20))
    if isinstance(value, float):
        return value * rng.choice((-1.0, 0.0, 1e-30, 1e30, 1 + 1e-9))
    if isinstance(value, str):
        return damaged(value.encode(), rng).decode(errors="replace")
    if isinstance(value, list) and value:
        changed = list(value)
        at = rng.randrange(len(changed))
        if rng.randrange(2):
            changed[at] = rng.choice((*_NASTY, _nearly(changed[at], rng)))
        else:
            changed = changed[at:] + changed * rng.randrange(3)
        return changed
    return rng.choice(_NASTY)
