"""`splitbed codec list`: the stages, from their own docstrings, with the package they come from."""

from __future__ import annotations

import inspect
import re
import shutil
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

_WIDEST: Final = 100
_ABOUT: Final = """\
A codec is one array stage, a symbol stage where that makes symbols, then any byte stages:
uniform:0.5+ans, quantize:4+zstd:3. In its place may stand auto:1pp, the smallest found within a
loss (auto:0.5pp,99%: and so much agreement; auto:nmse=0.01: error of the outputs), or @FILE, one
that `splitbed calibrate --codec` planned."""
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
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    out.write(textwrap.fill(_ABOUT, width) + "\n")
    ours = {**ARRAY_STAGES, **SYMBOL_STAGES, **BYTE_STAGES}
    for stage in ours.values():
        out.write(_described(stage, "", width))
    for offered, trouble in extensions():
        if trouble:
            out.write(f"\n{offered.id}  (cannot be used)\n{_indented(trouble, width)}\n")
        else:
            out.write(_described(offered.load(), f"; from {offered.origin}", width))
    out.write("\nlearned:NAME  (before all stages, lossy)\n" + _indented(_LEARNED, width) + "\n")
    out.write(f"\nans codes in {implementation()} here.\n")
    return 0


def _described(stage: type[Stage], origin: str, width: int) -> str:
    written = stage.id if stage.positional is None else f"{stage.id}:{stage.positional.upper()}"
    kind = next(name for name, face in _KINDS.items() if issubclass(stage, face))
    loss = "lossless" if stage.lossless else "lossy"
    needs = ", needs calibration" if stage.calibrated else ""
    about = _indented(inspect.cleandoc(stage.__doc__ or ""), width)
    return f"\n{written}  ({kind} stage, {loss}{needs}{origin})\n{about}\n"


def _indented(text: str, width: int) -> str:
    """Paragraphs, filled anew: docstrings are wider than a terminal. Lists stay lists."""
    filled = []
    for paragraph in re.split(r"\n\n|(?<=\.)\n(?=`)", text):
        lines = paragraph.splitlines()
        if any(line.startswith((" ", "-", "*", ">")) for line in lines):
            filled.append("\n".join(f"    {line}" for line in lines))
        else:
            filled.append(
                textwrap.fill(
                    " ".join(lines),
                    width,
                    initial_indent="    ",
                    subsequent_indent="    ",
                    break_on_hyphens=False,
                )
            )
    return "\n\n".join(filled)
