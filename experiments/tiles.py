"""Channels side by side in one grey picture, coded as pictures and video frames are.

What the field compares with: the features are quantised to 8 bits within their range, tiled into a
frame near a square, and given to an ordinary encoder. So do Choi and Bajic (Deep feature
compression for collaborative object detection, ICIP 2018) and the test model of MPEG's Feature
Coding for Machines (arXiv 2512.10209), which takes 10 bits, reduces the channels by a trained
network first, and codes with VVC. These codecs live in the bench: no edge would accept them.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.tile_formats import Format, find_format, require
from splitbed import codec
from splitbed.codec import Calibration, Codec
from splitbed.errors import CodecError, CodecUnknown
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec

PREFIX: Final = "tiles:"

_SYMBOLS: Final = "quantize:bits=8,clip=minmax"
"""How elements become pixels: a byte each, over all of the calibrated range."""

_LONGEST: Final = 4
"""A grid of just the right number of tiles may be so many times longer than wide; beyond that,
tiles are left empty (a prime number of channels would make a single row)."""


class Layout(msgspec.Struct, frozen=True):
    """A grid of channels."""

    channels: int
    height: int
    width: int
    """Pixels of one channel."""
    rows: int
    columns: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole picture in pixels."""
        return self.rows * self.height, self.columns * self.width

    def tiled(self, symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture of a tensor's symbols, row-major, channels from left to right, then down."""
        missing = self.rows * self.columns - self.channels
        planes = symbols.reshape(self.channels, self.height, self.width)
        if missing:
            planes = np.concatenate([planes, np.zeros((missing, *planes.shape[1:]), np.uint8)])
        grid = planes.reshape(self.rows, self.columns, self.height, self.width)
        return np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(self.size)

    def untiled(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The symbols again, row-major."""
        grid = picture.reshape(self.rows, self.height, self.columns, self.width).swapaxes(1, 2)
        planes = grid.reshape(-1, self.height, self.width)[: self.channels]
        return np.ascontiguousarray(planes).reshape(-1)


def layout_of(spec: TensorSpec) -> Layout:
    """The grid for a tensor: its last two dimensions are a channel, the others count channels.

    A tensor without any plane (batch x features) has channels of one pixel.
    """
    shape = spec.shape if len(spec.shape) > 2 else (*spec.shape, 1, 1)
    *leading, height, width = shape
    channels = math.prod(leading)
    rows = next((r for r in range(math.isqrt(channels), 0, -1) if channels % r == 0), 1)
    columns = channels // rows
    if columns > _LONGEST * rows:
        rows = math.isqrt(channels)
        columns = -(-channels // rows)
    if height < width:  # the longer side of the grid along the shorter one of a channel
        rows, columns = columns, rows
    return Layout(channels, height, width, rows, columns)


class TileCodec:
    """Codes one tensor as a picture; with the face of `splitbed.codec.Codec`."""

    def __init__(self, spec: TensorSpec, symbols: Codec, kind: Format, value: int) -> None:
        self.spec = spec
        self._symbols, self._format, self._value = symbols, kind, value
        self._layout = layout_of(spec)

    def encode(self, array: Array) -> Buffer:
        """Quantise, tile, code; CodecError for what makes no picture of this format."""
        symbols = np.frombuffer(self._symbols.encode(array), np.uint8)
        picture = self._layout.tiled(symbols)
        try:
            return self._format.encode(picture, self._value)
        except Exception as error:  # Pillow and FFmpeg have their own for each format
            height, width = self._layout.size
            raise CodecError(
                f"tensor '{self.spec.name}' makes a picture of {width}x{height}, which cannot be "
                f"coded ({error}): use another format"
            ) from error

    def decode(self, payload: Buffer) -> Array:
        """The tensor again."""
        picture = self._format.decode(payload, self._layout.size)
        return self._symbols.decode(self._layout.untiled(picture).data)


def is_tiles(text: str) -> bool:
    """Whether a written codec is one of these."""
    return text.startswith(PREFIX)


def check_tiles(text: str) -> None:
    """CodecUnknown for what names none of them, UsageError where its library is missing."""
    name, colon, value = text.removeprefix(PREFIX).partition(":")
    if "+" in text:
        raise CodecUnknown(f"codec '{text}': no stage can follow tiles")
    find_format(name, value if colon else None)
    require(name)


def build_tiles(text: str, spec: TensorSpec, calibration: Calibration) -> TileCodec:
    """`tiles:jpeg:85`, `tiles:webp:80`, `tiles:png`, `tiles:h264:30`, `tiles:hevc:30`."""
    if not spec.elements:
        raise CodecError(f"tensor '{spec.name}' is empty and makes no picture")
    name, colon, value = text.removeprefix(PREFIX).partition(":")
    kind, number = find_format(name, value if colon else None)
    (written,) = codec.plan(_SYMBOLS, (spec,), calibration)
    return TileCodec(spec, codec.build(written, spec), kind, number)
