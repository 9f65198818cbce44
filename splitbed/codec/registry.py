"""Every codec stage there is. One literal table: what is not here, no edge accepts."""

from __future__ import annotations

from typing import Final

from splitbed.codec.ans import Ans
from splitbed.codec.cast import Cast
from splitbed.codec.layers import Layers
from splitbed.codec.picture import Jpeg, Png
from splitbed.codec.quantize import Quantize
from splitbed.codec.raw import Raw
from splitbed.codec.shuffle import Shuffle
from splitbed.codec.stage import ArrayStage, ByteStage, SymbolStage
from splitbed.codec.uniform import Uniform
from splitbed.codec.zstd import Zstd

ARRAY_STAGES: Final[dict[str, type[ArrayStage]]] = {
    "raw": Raw,
    "cast": Cast,
    "quantize": Quantize,
    "uniform": Uniform,
    "jpeg": Jpeg,
    "png": Png,
}

SYMBOL_STAGES: Final[dict[str, type[SymbolStage]]] = {
    "ans": Ans,
    "layers": Layers,
}

BYTE_STAGES: Final[dict[str, type[ByteStage]]] = {
    "shuffle": Shuffle,
    "zstd": Zstd,
}
