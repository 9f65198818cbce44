"""General-purpose compression."""

from __future__ import annotations

from typing import Annotated, ClassVar

import zstandard
from msgspec import Meta

from splitbed.codec.stage import ByteStage
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer


class Zstd(ByteStage, frozen=True):
    """Zstandard (RFC 8878) at the given level. Lossless.

    Every frame stands alone and states its content size, which is checked against the announced
    shape before anything is allocated.
    """

    id: ClassVar[str] = "zstd"
    positional: ClassVar[str | None] = "level"

    level: Annotated[int, Meta(ge=1, le=19)] = 3

    def max_bytes(self, size: int) -> int:
        """Zstandard's own worst case."""
        return size + (size >> 8) + 64 + (max(0, (128 << 10) - size) >> 11)

    def encode(self, payload: Buffer) -> Buffer:
        """One frame with its content size in the header."""
        return zstandard.ZstdCompressor(level=self.level).compress(payload)

    def decode(self, payload: Buffer, limit: int) -> Buffer:
        """The content of exactly one frame."""
        try:
            announced = zstandard.get_frame_parameters(payload).content_size
            if announced > limit:  # CONTENTSIZE_UNKNOWN is the largest value there is
                raise PayloadInvalid(
                    f"a zstd frame announces {announced} bytes where at most {limit} can follow: "
                    "the frame is damaged or hostile"
                )
            return zstandard.ZstdDecompressor().decompress(
                payload, max_output_size=limit, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise PayloadInvalid(f"a zstd frame cannot be decoded: {error}") from error
