"""What symbol stages learn from calibration frames, and how what is learnt travels."""

from __future__ import annotations

from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from splitbed.codec.layout import planes
from splitbed.codec.stage import Binding, SymbolSource
from splitbed.codec.zstd import Zstd
from splitbed.errors import CodecError, CodecUnknown, UsageError

MOST_MODEL_BYTES: Final = 5 << 18
"""Of a model in a session's specification, before compression."""

_MOST_SYMBOLS: Final = 6_000_000
"""That a model is learnt from: frames are left out evenly where there are more, which costs under
1 % of the bytes (16 frames of MobileNetV2's 64x14x14 against 40) and saves time and memory."""


def symbols_seen(stage: str, binding: Binding) -> tuple[SymbolSource, NDArray[np.uint8]]:
    """The source, and its symbols of calibration frames: uint8 [frames, channels, height, width].

    CodecUnknown where nothing makes symbols, CodecError where there are no frames.
    """
    source, spec = binding.source, binding.spec
    if source is None:
        raise CodecUnknown(f"'{stage}' codes symbols: it follows uniform, shaped or quantize")
    if not binding.samples:
        raise CodecError(
            f"{stage} needs calibration frames of tensor '{spec.name}': make a calibration with "
            "`splitbed calibrate` and give it with --calibration"
        )
    most = max(4, _MOST_SYMBOLS // spec.elements)
    samples = binding.samples[:: -(-len(binding.samples) // most)]
    return source, np.stack([planes(source.symbols(array)) for array in samples])


def compressed(model: bytes) -> bytes:
    """As one zstd frame, for a stage's configuration."""
    return zstandard.ZstdCompressor(level=19).compress(model)


def decompressed(stage: str, data: bytes) -> bytes:
    """The model's bytes again; UsageError for anything else, bounded before memory is taken."""
    try:
        return bytes(Zstd().decode(data, MOST_MODEL_BYTES))
    except CodecError as error:
        raise UsageError(f"{stage} has no model: {error}") from error
