"""A codec as a person writes it, and what its text alone tells."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from splitbed.codec import registry
from splitbed.codec.codec import translated
from splitbed.codec.registry import ARRAY_STAGES
from splitbed.codec.stage import ArrayStage, ByteStage, Stage, SymbolSource, SymbolStage
from splitbed.errors import CodecUnknown, UsageError
from splitbed.pair import check_name

LEARNED: Final = "learned"
"""`learned:NAME` before everything else: a pair of networks whose code the stages after it code."""


class Written(msgspec.Struct, frozen=True):
    """One stage as a person wrote it: its id and its arguments as text."""

    id: str
    arguments: dict[str, str]


def parse(text: str) -> tuple[Written, ...]:
    """`quantize:4+zstd:3` or `quantize:bits=4,clip=p99.9+zstd` in its parts.

    A text that begins with a byte stage is coded `raw` before it. The `learned:NAME` before all
    stages is none of them. Raises CodecUnknown.
    """
    _, *parts = _split(text)
    stages = [_parse_stage(part) for part in parts or ["raw"]]
    if is_a(stages[0], ByteStage):
        stages.insert(0, Written("raw", {}))
    for stage in stages[1:]:
        if is_a(stage, ArrayStage):
            raise CodecUnknown(
                f"codec '{text}': '{stage.id}' codes a tensor, so it can only come first"
            )
    for index, stage in enumerate(stages):
        if is_a(stage, SymbolStage) and not (index == 1 and is_a(stages[0], SymbolSource)):
            makers = (name for name, kind in ARRAY_STAGES.items() if issubclass(kind, SymbolSource))
            raise CodecUnknown(
                f"codec '{text}': '{stage.id}' codes symbols, so it comes right after "
                + " or ".join(makers)
            )
        if index == 2 and _is_progressive(stages[1].id):
            raise CodecUnknown(
                f"codec '{text}': nothing can follow '{stages[1].id}', whose payloads may be cut "
                "off"
            )
    return tuple(stages)


def learned(text: str) -> str:
    """The name of the learned codec that a text begins with, "" without one; CodecUnknown."""
    return _split(text)[0]


def _split(text: str) -> list[str]:
    """The learned codec's name, and each stage as it was written."""
    # A plus begins a stage where a name follows; in 1e+3 it does not.
    first, *rest = [part.strip() for part in re.split(r"\+(?!\d)", text)]
    if any(part.partition(":")[0] == LEARNED for part in rest):
        raise CodecUnknown(f"codec '{text}': '{LEARNED}' can only come first, and only once")
    kind, _, name = first.partition(":")
    if kind != LEARNED:
        return ["", first, *rest]
    try:
        check_name(name)
    except UsageError as error:
        raise CodecUnknown(f"codec '{text}': {error}") from error
    return [name, *rest]


def is_a(stage: Written, face: type[Stage]) -> bool:
    """Whether a written stage is an array stage, a symbol stage, ...; CodecUnknown."""
    return issubclass(registry.stage(stage.id), face)


def _is_progressive(name: str) -> bool:
    kind = registry.stage(name)
    return issubclass(kind, SymbolStage) and kind.progressive


def _parse_stage(text: str) -> Written:
    name, colon, tail = text.partition(":")
    kind = registry.stage(name)
    arguments: dict[str, str] = {}
    for item in tail.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if not equals:
            if kind.positional is None or arguments:
                raise CodecUnknown(f"codec stage '{text}': '{item}' should be written name=value")
            key, value = kind.positional, item
        if not value.strip() or key.strip() in arguments:
            raise CodecUnknown(
                f"codec stage '{name}': each parameter is given once and with a value, not '{tail}'"
            )
        arguments[key.strip()] = value.strip()
    with translated(registry.origin(name), CodecUnknown):
        kind.check(arguments)
    return Written(name, arguments)


def needs_calibration(text: str, *, known: bool = False) -> bool:
    """Whether this codec looks at statistics of the tensor. `known`: the ranges of all are."""
    first, *rest = parse(text)
    kind = registry.stage(first.id)
    given = {"low", "high"} <= set(first.arguments) or (
        known and kind.takes_limits(first.arguments)
    )
    return (kind.calibrated and not given) or any(
        registry.stage(stage.id).calibrated for stage in rest
    )


def needs_sensitivity(text: str) -> bool:
    """Whether this codec looks at how the tail answers to disturbances. Raises CodecUnknown."""
    return any(registry.stage(stage.id).wants_sensitivity(stage.arguments) for stage in parse(text))


def is_lossless(text: str) -> bool:
    """Whether a written codec gives back what went in; False for a text that is none."""
    try:
        stages = parse(text)
    except CodecUnknown:
        return False
    return not learned(text) and all(registry.stage(stage.id).lossless for stage in stages)


def is_progressive(text: str) -> bool:
    """Whether any beginning of a payload decodes, coarser. Raises CodecUnknown."""
    return any(_is_progressive(stage.id) for stage in parse(text))
