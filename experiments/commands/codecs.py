"""`splitbed codec list`: the stages, from their own docstrings, with the package they come from."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Sequence
from typing import Final

import msgspec

from splitbed import config
from splitbed.codec.entropy import implementation
from splitbed.codec.registry import ARRAY_STAGES, BYTE_STAGES, SYMBOL_STAGES, extensions
from splitbed.codec.stage import ArrayStage, ByteStage, Stage, SymbolStage

_KINDS: Final[dict[str, type[Stage]]] = {
    "array": ArrayStage,
    "symbols": SymbolStage,
    "bytes": ByteStage,
}

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
    ours = {**ARRAY_STAGES, **SYMBOL_STAGES, **BYTE_STAGES}
    for stage in ours.values():
        out.write(_described(stage, ""))
    for offered, trouble in extensions():
        if trouble:
            out.write(
                f"\n{offered.id}  (cannot be used)\n{_indented(textwrap.fill(trouble, 90))}\n"
            )
        else:
            out.write(_described(offered.load(), f"; from {offered.origin}"))
    out.write("\nlearned:NAME  (before all stages, lossy)\n" + _indented(_LEARNED) + "\n")
    out.write(f"\nans codes in {implementation()} here.\n")
    return 0


def _described(stage: type[Stage], origin: str) -> str:
    written = stage.id if stage.positional is None else f"{stage.id}:{stage.positional.upper()}"
    kind = next(name for name, face in _KINDS.items() if issubclass(stage, face))
    loss = "lossless" if stage.lossless else "lossy"
    needs = ", needs calibration" if stage.calibrated else ""
    about = _indented(inspect.cleandoc(stage.__doc__ or ""))
    return f"\n{written}  ({kind} stage, {loss}{needs}{origin})\n{about}\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
