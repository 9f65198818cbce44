"""Payloads that a link cut off, in the bench: `uniform:0.4+layers@50%` keeps half of each."""

from __future__ import annotations

import re
from typing import Final

from splitbed import codec
from splitbed.codec import Codec
from splitbed.errors import CodecUnknown
from splitbed.session import Buffer
from splitbed.tensor import Array

_WRITTEN: Final = re.compile(r"(?P<codec>.*)@(?P<share>\d+)%")


class CutOff:
    """Encodes all of a tensor and keeps the first bytes; with the face of `splitbed.codec.Codec`.

    What the cut leaves of a chunk was sent and is of no use: it counts among the bytes.
    """

    def __init__(self, whole: Codec, share_pct: int) -> None:
        self.spec = whole.spec
        self._whole, self._share_pct = whole, share_pct

    def encode(self, array: Array) -> Buffer:
        """The first bytes of the payload, rounded to a whole number of them."""
        payload = memoryview(self._whole.encode(array))
        return payload[: round(len(payload) * self._share_pct / 100)]

    def decode(self, payload: Buffer) -> Array:
        """The tensor, coarser."""
        return self._whole.decode(payload)


def is_cut_off(text: str) -> bool:
    """Whether a written codec is one of these."""
    return _WRITTEN.fullmatch(text) is not None


def parted(text: str) -> tuple[str, int]:
    """The codec of a session, and the percentage of its payloads that is kept: 100 for any other.

    CodecUnknown for a share of more, and for payloads that do not decode when cut off.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        return text, 100
    whole, share_pct = found["codec"], int(found["share"])
    if share_pct > 100:
        raise CodecUnknown(f"codec '{text}': keeps 0 to 100 % of a payload, not {share_pct}")
    if not codec.is_progressive(whole):
        raise CodecUnknown(
            f"codec '{text}': only a payload of layers decodes when it is cut off, as in "
            "uniform:0.4+layers@50%"
        )
    return whole, share_pct
