"""Stages in a row: the written form, the specification two nodes agree on, the working codec."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from splitbed.codec.calibration import Calibration
from splitbed.codec.codec import Codec
from splitbed.codec.quantize import Quantize
from splitbed.codec.registry import ARRAY_STAGES, BYTE_STAGES, SYMBOL_STAGES
from splitbed.codec.stage import (
    ArrayStage,
    Binding,
    Stage,
    SymbolSource,
    SymbolStage,
)
from splitbed.errors import CodecError, CodecUnknown, SplitbedError, UsageError
from splitbed.pair import CodeRange, check_name
from splitbed.quantiser import Quantiser
from splitbed.session import StageSpec, TensorCodec
from splitbed.tensor import TensorSpec

LEARNED: Final = "learned"
"""`learned:NAME` before everything else: a pair of networks whose code the stages after it code."""

_MOST_STAGES: Final = 8
_STAGES: Final[dict[str, type[Stage]]] = {**ARRAY_STAGES, **SYMBOL_STAGES, **BYTE_STAGES}

Quantisers = tuple[Quantiser, ...]


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
    if stages[0].id in BYTE_STAGES:
        stages.insert(0, Written("raw", {}))
    for stage in stages[1:]:
        if stage.id in ARRAY_STAGES:
            raise CodecUnknown(
                f"codec '{text}': '{stage.id}' codes a tensor, so it can only come first"
            )
    for index, stage in enumerate(stages):
        if stage.id in SYMBOL_STAGES and not (index == 1 and _makes_symbols(stages[0].id)):
            makers = " or ".join(name for name in ARRAY_STAGES if _makes_symbols(name))
            raise CodecUnknown(
                f"codec '{text}': '{stage.id}' codes symbols, so it comes right after {makers}"
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


def _makes_symbols(name: str) -> bool:
    return name in ARRAY_STAGES and issubclass(ARRAY_STAGES[name], SymbolSource)


def _is_progressive(name: str) -> bool:
    return name in SYMBOL_STAGES and SYMBOL_STAGES[name].progressive


def _parse_stage(text: str) -> Written:
    name, colon, tail = text.partition(":")
    kind = _STAGES.get(name)
    known = [*_STAGES]
    if kind is None:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise CodecUnknown(f"unknown codec stage '{name}' (known: {', '.join(known)}){hint}")
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
    kind.check(arguments)
    return Written(name, arguments)


def needs_calibration(text: str, *, known: bool = False) -> bool:
    """Whether this codec looks at statistics of the tensor. `known`: the ranges of all are."""
    first, *rest = parse(text)
    given = {"low", "high"} <= set(first.arguments)
    if known and first.id == Quantize.id:
        given = given or "clip" not in first.arguments
    return (_STAGES[first.id].calibrated and not given) or any(
        _STAGES[stage.id].calibrated for stage in rest
    )


def is_lossless(text: str) -> bool:
    """Whether a written codec gives back what went in; False for a text that is none."""
    try:
        stages = parse(text)
    except CodecUnknown:
        return False
    return not learned(text) and all(_STAGES[stage.id].lossless for stage in stages)


def is_progressive(text: str) -> bool:
    """Whether any beginning of a payload decodes, coarser. Raises CodecUnknown."""
    return any(_is_progressive(stage.id) for stage in parse(text))


def plan(
    text: str,
    boundary: Sequence[TensorSpec],
    calibration: Calibration | None,
    ranges: Sequence[CodeRange] = (),
) -> tuple[TensorCodec, ...]:
    """One complete codec specification for each boundary tensor, in order.

    With a learned codec, that is the boundary of its code. `ranges` are those that are known.

    A tensor that the array stage cannot code because it holds no floating-point numbers (indices,
    masks) goes `raw` instead, followed by the same byte stages; a boundary of nothing else is
    refused. Raises CodecUnknown and CodecError.
    """
    written = parse(text)
    if ARRAY_STAGES[written[0].id].floats_only and not any(spec.is_float for spec in boundary):
        names = ", ".join(spec.name for spec in boundary)
        raise CodecError(
            f"{written[0].id} codes floating-point numbers, and nothing at this cut holds any "
            f"({names}): use raw+zstd, or jpeg and png for @picture"
        )
    codecs = []
    limits = {known.tensor: (known.low, known.high) for known in ranges}
    for spec in boundary:
        first, *tail = written
        if ARRAY_STAGES[first.id].floats_only and not spec.is_float:
            first = Written("raw", {})
            tail = [stage for stage in tail if stage.id in BYTE_STAGES]
        stages = _bound(first, tail, spec, calibration, limits.get(spec.name))
        specs = tuple(StageSpec(s.id, msgspec.to_builtins(s)) for s in stages)
        codec = TensorCodec(spec.name, specs)
        build(codec, spec)
        codecs.append(codec)
    return tuple(codecs)


def _bound(
    first: Written,
    tail: Sequence[Written],
    spec: TensorSpec,
    calibration: Calibration | None,
    limits: tuple[float, float] | None,
) -> list[Stage]:
    """Stages with complete configurations."""
    binding = Binding(
        spec=spec,
        statistics=calibration.tensors.get(spec.name) if calibration else None,
        last=not tail,
        limits=limits,
    )
    array_stage = ARRAY_STAGES[first.id].bind(first.arguments, binding)
    assert isinstance(array_stage, ArrayStage)
    if tail and tail[0].id in SYMBOL_STAGES:
        assert isinstance(array_stage, SymbolSource)
        samples = calibration.arrays(spec) if calibration else ()
        binding = msgspec.structs.replace(binding, samples=samples, source=array_stage)
    binding = msgspec.structs.replace(binding, unit_bytes=array_stage.unit_bytes(spec))
    return [array_stage, *(_STAGES[stage.id].bind(stage.arguments, binding) for stage in tail)]


def written(codec: TensorCodec) -> str:
    """A specification in its short written form, without calibration."""
    parts = []
    for stage in codec.stages:
        kind = _STAGES[stage.id]
        value = stage.config.get(kind.positional) if kind.positional else None
        text = stage.id if value is None else f"{stage.id}:{value}"
        text += ",where=graph" * (stage.config.get("where") == "graph")
        budget = stage.config.get("budget_bytes")
        parts.append(text if budget is None else f"{text},budget_bytes={budget}")
    return "+".join(parts)


def build(codec: TensorCodec, spec: TensorSpec) -> Codec:
    """The working codec for `spec`; CodecUnknown for a specification that none of ours can be."""
    if codec.tensor != spec.name:
        raise CodecUnknown(f"a codec for tensor '{codec.tensor}' came where '{spec.name}' is next")
    if not codec.stages:
        raise CodecUnknown(f"tensor '{spec.name}' has a codec without stages")
    if len(codec.stages) > _MOST_STAGES:
        raise CodecUnknown(f"tensor '{spec.name}' has a codec of more than {_MOST_STAGES} stages")
    first, *rest = codec.stages
    if first.id not in ARRAY_STAGES:
        raise CodecUnknown(f"codec stage '{first.id}' is not known here as a first stage")
    array_stage = _convert(first, ARRAY_STAGES[first.id])
    symbol_stage: SymbolStage | None = None
    if rest and rest[0].id in SYMBOL_STAGES:
        if not isinstance(array_stage, SymbolSource):
            raise CodecUnknown(f"'{rest[0].id}' codes symbols, and '{first.id}' makes none")
        symbol_stage = _convert(rest[0], SYMBOL_STAGES[rest.pop(0).id])
        if rest and symbol_stage.progressive:
            raise CodecUnknown(
                f"'{rest[0].id}' cannot follow '{symbol_stage.id}', whose payloads may be cut off"
            )
    byte_stages = []
    for stage in rest:
        if stage.id not in BYTE_STAGES:
            raise CodecUnknown(f"codec stage '{stage.id}' is not known here as a later stage")
        byte_stages.append(_convert(stage, BYTE_STAGES[stage.id]))
    why_not = array_stage.refuses(spec)
    if why_not is None and symbol_stage is not None:
        assert isinstance(array_stage, SymbolSource)
        why_not = symbol_stage.refuses(spec, array_stage)
    if why_not is not None:
        raise CodecError(why_not)
    in_graph = array_stage.in_graph(spec)
    if in_graph is None:
        return Codec(spec, array_stage, symbol_stage, tuple(byte_stages))
    quantiser, array_stage = in_graph
    return Codec(spec, array_stage, symbol_stage, tuple(byte_stages), quantiser)


def quantisers(codecs: Sequence[TensorCodec], boundary: Sequence[TensorSpec]) -> Quantisers:
    """What the two parts of a cut do of these codecs themselves; raises as `build`."""
    built = (build(codec, spec) for codec, spec in zip(codecs, boundary, strict=True))
    return tuple(codec.quantiser for codec in built if codec.quantiser is not None)


S = TypeVar("S", bound=Stage)


def _convert(stage: StageSpec, kind: type[S]) -> S:
    try:
        return msgspec.convert(stage.config, kind)
    except (msgspec.ValidationError, SplitbedError) as error:
        raise CodecUnknown(f"codec stage '{stage.id}' is configured wrongly: {error}") from error


def by_numpy(codecs: Sequence[TensorCodec]) -> tuple[TensorCodec, ...]:
    """The same codecs, nothing of them left to the graph: they make the same bytes."""
    return tuple(
        TensorCodec(
            codec.tensor,
            tuple(
                StageSpec(stage.id, {k: v for k, v in stage.config.items() if k != "where"})
                for stage in codec.stages
            ),
        )
        for codec in codecs
    )
