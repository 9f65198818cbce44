"""`splitbed link profiles`: every named link, or what a text asks for."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from netem.notation import GRAMMAR, written
from netem.profiles import (
    WRITTEN_FORM,
    describe,
    describe_extras,
    find_profile,
    needs_kernel,
    profiles,
)
from splitbed import config
from splitbed.link import Direction, LinkProfile

_WRAPPER: Final = textwrap.TextWrapper(width=75, break_on_hyphens=False)
_LEGEND: Final = f"""\
Mbit/s of IP packets; delay in ms, one way. Speed tests count payload: their
rates stand here as those of packets (x 1500/1448). BACKEND kernel: packets are
lost or otherwise treated one by one, which the relay cannot do to TCP;
NAME,loss=0% is NAME without loss. Any other link may be written out, as
{WRITTEN_FORM}.
"""


class ProfilesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List every named link profile with the source of its figures, or what a link asks for."""

    link: Annotated[
        tuple[str, ...], config.POSITIONAL, Meta(description="only these, by name or written out")
    ] = ()
    json: Annotated[bool, Meta(description="print them as a JSON list")] = False


def list_profiles(argv: Sequence[str]) -> int:
    """Print every named profile with its source, or those that are asked for."""
    options = config.from_command_line(
        ProfilesOptions, argv, command="splitbed link profiles", table="profiles", epilog=GRAMMAR
    )
    asked = [find_profile(text) for text in options.link] or list(profiles().values())
    if options.json:
        rows = [
            {
                **msgspec.to_builtins(profile),
                "description": describe(profile),
                "needs_kernel": needs_kernel(profile),
                "written": written(profile),
            }
            for profile in asked
        ]
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return 0
    sys.stdout.write(f"{'':22}{'UP':^18} {'DOWN':^18}\n")
    sys.stdout.write(_columns("LINK", "Mbit/s", "delay", "Mbit/s", "delay", "BACKEND"))
    for profile in asked:
        sys.stdout.write(_entry(profile))
    sys.stdout.write(_LEGEND if not options.link else "")
    return 0


def _entry(profile: LinkProfile) -> str:
    name = profile.name
    lines = ""
    if len(name) > 20:  # a written one
        name, lines = "", profile.name + "\n"
    lines += _columns(
        name,
        *(*_figures(profile.up), *_figures(profile.down)),
        "kernel" if needs_kernel(profile) else "any",
    )
    for text in (describe_extras(profile), profile.source or "no source given"):
        if text:
            lines += textwrap.indent(_WRAPPER.fill(text), "    ") + "\n"
    return lines


def _figures(direction: Direction) -> tuple[str, str]:
    rate = "full" if direction.rate_bps is None else f"{direction.rate_bps / 1e6:.4g}"
    return rate, f"{direction.delay_ns / 1e6:g}"


def _columns(name: str, *cells: str) -> str:
    widths = (9, 9, 10, 9)
    numbers = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False))
    return f"{name:20}{numbers}   {cells[-1]}\n"
