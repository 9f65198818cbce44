"""Compressed media for the network anchor: the picture itself instead of intermediate data.

These stages code the `@picture` boundary only: uint8, height x width x 3, RGB.
"""

from __future__ import annotations

import io
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from msgspec import Meta
from PIL import Image

from splitbed.codec.stage import ArrayStage
from splitbed.errors import PayloadInvalid
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec

_MOST_SIDE: Final = 65500
"""What JPEG can hold; PNG could hold more, nobody needs it."""

_MOST_SCANS: Final = 10
"""A JPEG of ours has one scan; hundreds of them cost seconds to decode in a small file."""


class PictureStage(ArrayStage, frozen=True):
    """What the picture formats share: Pillow codes, the announced size is checked first."""

    format: ClassVar[Literal["JPEG", "PNG"]]

    def options(self) -> dict[str, Any]:
        """Pillow's options for saving."""
        return {}

    def refuses(self, spec: TensorSpec) -> str | None:
        """Only RGB pictures have a picture format."""
        if spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[2] == 3:
            if all(0 < side <= _MOST_SIDE for side in spec.shape):
                return None
            return f"{self.id} codes pictures of 1 to {_MOST_SIDE} pixels a side, not {spec}"
        return f"{self.id} codes pictures (uint8, height x width x 3), not {spec}: cut at @picture"

    def max_bytes(self, spec: TensorSpec) -> int:
        """Generous: noise at quality 100 stays below twice the raw size, headers included."""
        return 2 * spec.nbytes + 65536

    def encode(self, array: Array) -> Buffer:
        """One file in this format."""
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, self.format, **self.options())
        return buffer.getvalue()

    def decode(self, payload: Buffer, spec: TensorSpec) -> Array:
        """The pixels of a file that has exactly the announced size."""
        height, width, _ = spec.shape
        # Within coded data 0xff is followed by zero, so this counts at least every scan.
        if bytes(payload).count(b"\xff\xda") > _MOST_SCANS and self.format == "JPEG":
            raise PayloadInvalid(f"a JPEG of more than {_MOST_SCANS} scans is refused")
        try:
            with Image.open(io.BytesIO(payload), formats=(self.format,)) as picture:
                if picture.size != (width, height):
                    raise PayloadInvalid(
                        f"a picture of {picture.width}x{picture.height} arrived where the session "
                        f"announced {width}x{height}"
                    )
                return np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
            raise PayloadInvalid(f"a {self.format} picture cannot be decoded: {error}") from error


class Jpeg(PictureStage, frozen=True):
    """JPEG at a quality of 1 to 100 (Pillow's scale, 4:2:0 chroma).

    Lossy without a bound. Decoded pixels are equal where both nodes use the same libjpeg-turbo.
    """

    id: ClassVar[str] = "jpeg"
    positional: ClassVar[str | None] = "quality"
    format: ClassVar[Literal["JPEG", "PNG"]] = "JPEG"

    quality: Annotated[int, Meta(ge=1, le=100)] = 90

    def options(self) -> dict[str, Any]:
        """Quality only; the rest is Pillow's default."""
        return {"quality": self.quality}


class Png(PictureStage, frozen=True):
    """PNG. Lossless."""

    id: ClassVar[str] = "png"
    lossless: ClassVar[bool] = True
    format: ClassVar[Literal["JPEG", "PNG"]] = "PNG"
