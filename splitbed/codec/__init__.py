"""Coding the intermediate data: stages, one file each, combined into a codec per tensor.

A codec is written `uniform:0.5+ans` or `quantize:4+zstd:3`: one array stage, then a symbol stage
where the array stage makes symbols, then any number of byte stages. `plan`
turns that text, a boundary and its calibration into the specification that two nodes agree on;
`build` turns the specification into something that encodes and decodes.
"""

from splitbed.codec.calibration import Calibration, CalibrationFrames, read_calibration
from splitbed.codec.codec import Codec
from splitbed.codec.pipeline import (
    as_sent,
    build,
    by_numpy,
    plan,
    quantisers,
    written,
)
from splitbed.codec.planned import (
    FILE_MARK,
    PLANNED_FORMAT,
    PlannedCodec,
    plan_command,
    read_planned,
)
from splitbed.codec.raw import raw_array, raw_bytes
from splitbed.codec.stage import ArrayStage, Binding, ByteStage, SymbolSource, SymbolStage
from splitbed.codec.statistics import TensorStatistics
from splitbed.codec.target import Target, find_target
from splitbed.codec.text import (
    is_lossless,
    is_progressive,
    learned,
    needs_calibration,
    needs_sensitivity,
    parse,
)

__all__ = [
    "FILE_MARK",
    "PLANNED_FORMAT",
    "ArrayStage",
    "Binding",
    "ByteStage",
    "Calibration",
    "CalibrationFrames",
    "Codec",
    "PlannedCodec",
    "SymbolSource",
    "SymbolStage",
    "Target",
    "TensorStatistics",
    "as_sent",
    "build",
    "by_numpy",
    "find_target",
    "is_lossless",
    "is_progressive",
    "learned",
    "needs_calibration",
    "needs_sensitivity",
    "parse",
    "plan",
    "plan_command",
    "quantisers",
    "raw_array",
    "raw_bytes",
    "read_calibration",
    "read_planned",
    "written",
]
