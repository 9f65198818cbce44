"""Every codec stage there is. One literal table: what is not here, no edge accepts."""

from __future__ import annotations

from typing import Final

from splitbed.codec.cast import Cast
from splitbed.codec.picture import Jpeg, Png
from splitbed.codec.quantize import Quantize
from splitbed.codec.raw import Raw
from splitbed.codec.stage import ArrayStage, ByteStage
from splitbed.codec.zstd import Zstd

ARRAY_STAGES: Final[dict[str, type[ArrayStage]]] = {
    "raw": Raw,
    "cast": Cast,
    "quantize": Quantize,
    "jpeg": Jpeg,
    "png": Png,
}

BYTE_STAGES: Final[dict[str, type[ByteStage]]] = {
    "zstd": Zstd,
}
