"""`splitbed codec list`: the stages, from their own docstrings."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from splitbed import config
from splitbed.codec.entropy import implementation
from splitbed.codec.registry import ARRAY_STAGES, BYTE_STAGES, SYMBOL_STAGES
from splitbed.codec.stage import Stage

_LEARNED: Final = """\
A pair of networks in the folder NAME beside the model, described by bottleneck.toml: the head
ends in its encoder, the tail begins with its decoder, and its code crosses instead of the
boundary. The stages after it code the code, as in learned:bottleneck+quantize:4+zstd:3. An edge
finds the folder beside the model in its model folder, or anywhere below that where it is the only
one of its name.

Loss: what the pair loses. Where the description knows the code's range, quantize needs no
calibration; any other is made on the code. Contract: models/gesture/bottleneck/README.md."""


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
    out.write("\nlearned:NAME  (before all stages, lossy)\n" + _indented(_LEARNED) + "\n")
    out.write(f"\nans codes in {implementation()} here.\n")
    return 0


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
