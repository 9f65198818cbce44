"""`splitbed codec check`: the examination that every codec must pass, of any written codec."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from splitbed import codec, config
from splitbed.codec.examination import examine
from splitbed.codec.registry import origin
from splitbed.config import POSITIONAL
from splitbed.errors import CodecError, CodecUnknown

_SHOWN: Final = 5
"""Failures of one check that are printed."""


class CheckOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Try a codec on tensors of every type, on odd values and layouts, and on hostile payloads and
    configurations; say what it coded, what it refused, and what it must not do. Exit code 3 where
    anything fails.
    """

    codec: Annotated[str, POSITIONAL, Meta(description="as in quantize:4+zstd:3")]
    mutations: Annotated[
        int, Meta(ge=0, le=1_000_000, description="damaged payloads and configurations")
    ] = 2000


def main(argv: Sequence[str]) -> int:
    """Run the examination and print its table; an exit code."""
    options = config.from_command_line(
        CheckOptions, argv, command="splitbed codec check", table="codec_check"
    )
    out = sys.stdout
    if codec.learned(options.codec):
        raise CodecUnknown(
            f"codec '{options.codec}': a learned codec is verified at its cut, in every run and "
            "bench: check what comes after it"
        )
    brought = {one.id: origin(one.id) for one in codec.parse(options.codec)}
    packages = "".join(
        f"; {name} is from {package}" for name, package in brought.items() if package
    )
    out.write(f"{options.codec}{packages}\n")
    out.write(f"{'check':<28}{'coded':>8}{'refused':>9}{'failed':>8}\n")
    failed = checks = 0
    for outcome in examine(options.codec, options.mutations):
        checks, count = checks + 1, len(outcome.failures)
        failed += bool(count)
        out.write(f"{outcome.check:<28}{outcome.coded:>8,}{outcome.refused:>9,}{count:>8,}")
        out.write(f"  {outcome.note}".rstrip() + "\n")
        for sentence in outcome.failures[:_SHOWN]:
            out.write(textwrap.indent(textwrap.fill(sentence, 90), "    ") + "\n")
        if count > _SHOWN:
            out.write(f"    and {count - _SHOWN:,} more\n")
        out.flush()
    if failed:
        raise CodecError(f"codec '{options.codec}' fails {failed} of {checks} checks")
    out.write(f"passes all {checks} checks\n")
    return 0
