"""`splitbed codec list`: the stages, from their own docstrings."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence

import msgspec

from splitbed import config
from splitbed.codec.entropy import implementation
from splitbed.codec.registry import ARRAY_STAGES, BYTE_STAGES, SYMBOL_STAGES
from splitbed.codec.stage import Stage


class CodecsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List the stages that a codec is made of, with what each loses and how it is written."""


def main(argv: Sequence[str]) -> int:
    """Print every stage; an exit code."""
    config.from_command_line(CodecsOptions, argv, command="splitbed codec list", table="run")
    out = sys.stdout
    out.write(
        "A codec is one array stage, a symbol stage where that makes symbols, then any byte\n"
        "stages: uniform:0.5+ans, quantize:4+zstd:3. In its place may stand auto:1pp, the\n"
        "smallest found within a loss (auto:0.5pp,99%: and so much agreement; auto:nmse=0.01:\n"
        "error of the outputs), or @FILE, one that `splitbed calibrate --codec` planned.\n"
    )
    kinds: dict[str, Mapping[str, type[Stage]]] = {
        "array": ARRAY_STAGES,
        "symbols": SYMBOL_STAGES,
        "bytes": BYTE_STAGES,
    }
    for kind, name, stage in (
        (k, n, s) for k, of_kind in kinds.items() for n, s in of_kind.items()
    ):
        written = name if stage.positional is None else f"{name}:{stage.positional.upper()}"
        loss = "lossless" if stage.lossless else "lossy"
        needs = ", needs calibration" if stage.calibrated else ""
        out.write(f"\n{written}  ({kind} stage, {loss}{needs})\n")
        out.write(_indented(inspect.cleandoc(stage.__doc__ or "")) + "\n")
    out.write(f"\nans codes in {implementation()} here.\n")
    return 0


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
