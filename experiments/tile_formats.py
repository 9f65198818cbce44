"""One grey picture in the formats that others code features with: JPEG, PNG, WebP, H.264, HEVC.

For comparison in the bench only. Pillow codes the picture formats; PyAV, which brings x264 and x265
along, the two video formats, as one intra frame that stands alone. Everything that it takes to open
an encoder and a decoder counts as a frame's time, since every frame stands alone here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitbed.errors import CodecUnknown, UsageError
from splitbed.session import Buffer

Grey = NDArray[np.uint8]

_LEAST_SIDE: Final = 16
"""x265 takes no smaller pictures."""

_USER_DATA: Final = 6
"""The kind of H.264's unit in which x264 writes its own name and settings, 600 bytes of them."""


class Format(msgspec.Struct, frozen=True):
    """How one format codes a grey picture."""

    encode: Callable[[Grey, int], bytes]
    decode: Callable[[Buffer, tuple[int, int]], Grey]
    """The picture of this height and width again."""
    values: range | None
    """What may stand after its name; None for a format without a setting."""
    usual: int = 0
    is_video: bool = False


def video_missing() -> str | None:
    """Why the video formats cannot be used here, None where they can."""
    try:
        import av

        av.Codec("libx264", "w"), av.Codec("libx265", "w")
    except ImportError:
        return "PyAV is not installed: pip install 'splitbed[bench]'"
    except (ValueError, av.FFmpegError):
        return "this PyAV was built without x264 or x265: pip install --force-reinstall av"
    return None


def _still(kind: str, **options: Any) -> Callable[[Grey, int], bytes]:
    def encode(picture: Grey, value: int) -> bytes:
        file = io.BytesIO()
        settings = {name: value if given is None else given for name, given in options.items()}
        Image.fromarray(picture).save(file, kind, **settings)
        return file.getvalue()

    return encode


def _decode_still(payload: Buffer, size: tuple[int, int]) -> Grey:
    with Image.open(io.BytesIO(payload)) as picture:
        found = np.asarray(picture.convert("L"))
    assert found.shape == size
    return found


def _video(encoder: str, options: Callable[[int], dict[str, str]]) -> Callable[[Grey, int], bytes]:
    def encode(picture: Grey, value: int) -> bytes:
        import av

        height, width = (max(0, _LEAST_SIDE - side) for side in picture.shape)
        picture = np.pad(picture, ((0, height), (0, width)), "edge")
        context: Any = av.CodecContext.create(encoder, "w")
        context.height, context.width = picture.shape
        context.pix_fmt = "gray"
        context.time_base, context.framerate = Fraction(1, 1), Fraction(1, 1)
        context.thread_count = 1
        # Psychovisual tuning would spend bits on what looks good, which no network asks for.
        context.options = {"preset": "medium", "tune": "psnr"} | options(value)
        frame = av.VideoFrame.from_ndarray(picture, format="gray")
        frame.pts = 0
        packets = [*context.encode(frame), *context.encode(None)]
        return _without_user_data(b"".join(map(bytes, packets)), encoder)

    return encode


def _without_user_data(stream: bytes, encoder: str) -> bytes:
    if encoder != "libx264":
        return stream  # x265 is told not to write any
    # A start code never occurs within a unit (ITU-T H.264, 7.4.1).
    units = [unit for unit in re.split(b"\0?\0\0\1", stream) if unit]
    return b"".join(b"\0\0\1" + unit for unit in units if unit[0] & 31 != _USER_DATA)


def _decode_video(decoder: str) -> Callable[[Buffer, tuple[int, int]], Grey]:
    def decode(payload: Buffer, size: tuple[int, int]) -> Grey:
        import av

        context: Any = av.CodecContext.create(decoder, "r")
        context.thread_count = 1
        frames: list[Any] = [*context.decode(av.Packet(bytes(payload))), *context.decode(None)]
        # The luma as it is: to convert a frame to grey would stretch its values.
        plane = frames[0].planes[0]
        luma = np.frombuffer(plane, np.uint8).reshape(frames[0].height, plane.line_size)
        return luma[: size[0], : size[1]]

    return decode


FORMATS: Final[dict[str, Format]] = {
    "jpeg": Format(_still("JPEG", quality=None), _decode_still, range(1, 101), 85),
    "webp": Format(_still("WEBP", quality=None), _decode_still, range(101), 80),
    "png": Format(_still("PNG"), _decode_still, None),
    "h264": Format(
        _video("libx264", lambda qp: {"qp": str(qp), "x264-params": "threads=1"}),
        _decode_video("h264"),
        range(52),
        30,
        is_video=True,
    ),
    "hevc": Format(
        _video(
            "libx265",
            lambda qp: {"x265-params": f"qp={qp}:pools=none:frame-threads=1:log-level=none:info=0"},
        ),
        _decode_video("hevc"),
        range(52),
        30,
        is_video=True,
    ),
}


def find_format(name: str, value: str | None) -> tuple[Format, int]:
    """A format and its setting as a person wrote them; CodecUnknown, UsageError without PyAV."""
    found = FORMATS.get(name)
    if found is None:
        raise CodecUnknown(f"tiles are coded as one of {', '.join(FORMATS)}, not '{name}'")
    if found.values is None:
        if value is not None:
            raise CodecUnknown(f"tiles:{name} takes no setting: leave '{value}' out")
        return found, 0
    if value is None:
        return found, found.usual
    if not value.isdecimal() or int(value) not in found.values:
        raise CodecUnknown(
            f"tiles:{name} takes {found.values[0]} to {found.values[-1]}, not '{value}'"
        )
    return found, int(value)


def require(name: str) -> None:
    """Raise UsageError where a format's library is missing here."""
    missing = video_missing() if FORMATS[name].is_video else None
    if missing:
        raise UsageError(f"tiles:{name} cannot be coded here: {missing}")
