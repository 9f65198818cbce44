"""Traces as a person names them: a file, a file for each direction, or the generator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

import msgspec

from netem.trace_files import load_trace
from netem.trace_generator import GENERATE, generated
from netem.trace_importers import BIN_NS
from netem.trace_steps import joined, pieces
from splitbed.errors import UsageError
from splitbed.link import Change, LinkProfile, Step, Trace

WRITTEN_TRACE: Final = "FILE, or up=FILE,down=FILE, or generate:seed=1,cv=0.6"
_SIDES: Final = re.compile(r"(up|down)=(.+?)(?:,(up|down)=(.+))?")
_OTHER: Final = {".up": ".down", ".down": ".up"}


def find_trace(text: str, profile: LinkProfile, bin_ns: int = BIN_NS) -> Trace:
    """The trace that is written so.

    `FILE`: what it says of both directions; a format of one direction is meant for the downlink.
    `X.up` brings the `X.down` beside it, and the other way round, as mahimahi names them.
    `up=FILE,down=FILE`, or one of the two: that direction, of each file. `generate:...`: see
    `netem.trace_generator`; only that looks at the profile. Raises UsageError.
    """
    if text.startswith(GENERATE):
        return generated(text, profile)
    match = None if Path(text).is_file() else _SIDES.fullmatch(text)
    if match is None:
        return _whole(Path(text), bin_ns)
    first, first_file, second, second_file = match.groups()
    if first == second:
        raise UsageError(f"trace '{text}': '{first}' stands there twice")
    given = {first: first_file} | ({second: second_file} if second else {})
    sides = {way: _side(Path(file), way, bin_ns) for way, file in given.items()}
    return _joined(text, sides.get("up"), sides.get("down"))


def _whole(path: Path, bin_ns: int) -> Trace:
    way, other = path.suffix, _OTHER.get(path.suffix, "")
    if not other:
        return load_trace(path, bin_ns=bin_ns)
    sides = {way: _side(path, way.removeprefix("."), bin_ns)}
    beside = path.with_suffix(other)
    if beside.is_file():
        sides[other] = _side(beside, other.removeprefix("."), bin_ns)
    return _joined(
        path.stem if beside.is_file() else path.name, sides.get(".up"), sides.get(".down")
    )


def _side(path: Path, word: str, bin_ns: int) -> Trace:
    way: Literal["up", "down"] = "up" if word == "up" else "down"
    trace = load_trace(path, way, bin_ns)
    if pieces(trace, way) == ((0, Change()),):
        raise UsageError(f"the trace {path} says nothing of the {way}link")
    return trace


def _joined(name: str, up: Trace | None, down: Trace | None) -> Trace:
    """Of both, or of one and nothing for the other direction."""
    there = up or down
    assert there is not None
    nothing = msgspec.structs.replace(there, steps=(Step(0),))
    return joined(name, up or nothing, down or nothing)
