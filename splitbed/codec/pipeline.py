"""Stages in a row: the specification two nodes agree on, the working codec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET

from splitbed.codec import registry
from splitbed.codec.calibration import Calibration
from splitbed.codec.codec import Codec, translated
from splitbed.codec.stage import (
    ArrayStage,
    Binding,
    ByteStage,
    Stage,
    SymbolSource,
    SymbolStage,
)
from splitbed.codec.text import Written, is_a, parse
from splitbed.errors import CodecError, CodecUnknown, SplitbedError
from splitbed.pair import CodeRange
from splitbed.quantiser import Quantiser
from splitbed.session import StageSpec, TensorCodec
from splitbed.tensor import TensorSpec

_MOST_STAGES: Final = 8
_MOST_SAID: Final = 400
"""Characters of what is wrong with a configuration: a sentence goes back in a bounded header."""

Quantisers = tuple[Quantiser, ...]


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
    face = registry.stage(written[0].id)
    assert issubclass(face, ArrayStage)
    if face.floats_only and not any(spec.is_float for spec in boundary):
        names = ", ".join(spec.name for spec in boundary)
        raise CodecError(
            f"{written[0].id} codes floating-point numbers, and nothing at this cut holds any "
            f"({names}): use raw+zstd, or jpeg and png for @picture"
        )
    codecs = []
    limits = {known.tensor: (known.low, known.high) for known in ranges}
    for spec in boundary:
        first, *tail = written
        if face.floats_only and not spec.is_float:
            first = Written("raw", {})
            tail = [stage for stage in tail if is_a(stage, ByteStage)]
        stages = _bound(first, tail, spec, calibration, limits.get(spec.name))
        specs = tuple(_specified(stage) for stage in stages)
        codec = TensorCodec(spec.name, specs)
        build(codec, spec)
        codecs.append(codec)
    return tuple(codecs)


def _specified(stage: Stage) -> StageSpec:
    """As it comes out of JSON, where there are no tuples."""
    config = msgspec.json.decode(msgspec.json.encode(stage))
    return StageSpec(stage.id, config, registry.origin(stage.id) or UNSET)


def _bound(
    first: Written,
    tail: Sequence[Written],
    spec: TensorSpec,
    calibration: Calibration | None,
    limits: tuple[float, float] | None,
) -> list[Stage]:
    """Stages with complete configurations."""
    wanted = any(registry.stage(s.id).wants_frames(s.arguments) for s in (first, *tail))
    binding = Binding(
        spec=spec,
        statistics=calibration.tensors.get(spec.name) if calibration else None,
        last=not tail,
        limits=limits,
        samples=calibration.arrays(spec) if calibration and wanted else (),
        sensitivity=calibration.sensitivities.get(spec.name) if calibration else None,
    )
    array_stage = _completed(first, binding)
    assert isinstance(array_stage, ArrayStage)
    if tail and is_a(tail[0], SymbolStage):
        assert isinstance(array_stage, SymbolSource)
        binding = msgspec.structs.replace(binding, source=array_stage)
    binding = msgspec.structs.replace(binding, unit_bytes=array_stage.unit_bytes(spec))
    return [array_stage, *(_completed(stage, binding) for stage in tail)]


def _completed(stage: Written, binding: Binding) -> Stage:
    with translated(registry.origin(stage.id), CodecError):
        return registry.stage(stage.id).bind(stage.arguments, binding)


def written(codec: TensorCodec) -> str:
    """A specification in its short written form, without calibration."""
    parts = []
    for stage in codec.stages:
        try:
            parts.append(registry.stage(stage.id).written(stage.config))
        except CodecUnknown:  # in the record of a run with a package that is not here
            parts.append(stage.id)
    return "+".join(parts)


def build(codec: TensorCodec, spec: TensorSpec) -> Codec:
    """The working codec for `spec`; CodecUnknown for a specification that none of ours can be."""
    if codec.tensor != spec.name:
        raise CodecUnknown(f"a codec for tensor '{codec.tensor}' came where '{spec.name}' is next")
    if not codec.stages:
        raise CodecUnknown(f"tensor '{spec.name}' has a codec without stages")
    if len(codec.stages) > _MOST_STAGES:
        raise CodecUnknown(f"tensor '{spec.name}' has a codec of more than {_MOST_STAGES} stages")
    origins = [origin for stage in codec.stages if (origin := _checked_origin(stage))]
    with translated(" and ".join(dict.fromkeys(origins)), CodecError) as foreign:
        return _built(codec, spec, foreign)


def _built(codec: TensorCodec, spec: TensorSpec, foreign: str) -> Codec:
    first, *rest = codec.stages
    array_stage = _convert(first, ArrayStage, "a first")
    symbol_stage: SymbolStage | None = None
    if rest and issubclass(registry.stage(rest[0].id), SymbolStage):
        if not isinstance(array_stage, SymbolSource):
            raise CodecUnknown(f"'{rest[0].id}' codes symbols, and '{first.id}' makes none")
        symbol_stage = _convert(rest.pop(0), SymbolStage, "a symbol")
        if rest and symbol_stage.progressive:
            raise CodecUnknown(
                f"'{rest[0].id[:80]}' cannot follow '{symbol_stage.id}', whose payloads may be cut "
                "off"
            )
    byte_stages = tuple(_convert(stage, ByteStage, "a later") for stage in rest)
    why_not = array_stage.refuses(spec)
    if why_not is None and symbol_stage is not None:
        assert isinstance(array_stage, SymbolSource)
        why_not = symbol_stage.refuses(spec, array_stage)
    if why_not is not None:
        raise CodecError(why_not)
    in_graph = array_stage.in_graph(spec)
    if in_graph is None:
        return Codec(spec, array_stage, symbol_stage, byte_stages, foreign=foreign)
    quantiser, array_stage = in_graph
    return Codec(spec, array_stage, symbol_stage, byte_stages, quantiser, foreign)


def quantisers(codecs: Sequence[TensorCodec], boundary: Sequence[TensorSpec]) -> Quantisers:
    """What the two parts of a cut do of these codecs themselves; raises as `build`."""
    built = (build(codec, spec) for codec, spec in zip(codecs, boundary, strict=True))
    return tuple(codec.quantiser for codec in built if codec.quantiser is not None)


S = TypeVar("S", bound=Stage)


def _convert(stage: StageSpec, face: type[S], which: str) -> S:
    kind = registry.stage(stage.id)
    if not issubclass(kind, face):
        raise CodecUnknown(f"codec stage '{stage.id}' is not known here as {which} stage")
    try:
        return msgspec.convert(stage.config, kind)
    except (msgspec.ValidationError, SplitbedError) as error:
        why = str(error)
        why = why if len(why) < _MOST_SAID else f"{why[:_MOST_SAID]}..."  # a peer's own values
        raise CodecUnknown(f"codec stage '{stage.id}' is configured wrongly: {why}") from error


def _checked_origin(stage: StageSpec) -> str:
    """Package and version of a stage, "" for ours; CodecUnknown where they are others here."""
    here = registry.origin(stage.id)
    if stage.origin == here:
        return here
    theirs = f"the package {stage.origin[:160]}" if stage.origin else "splitbed itself"
    if here:
        ours = f"that of {here}"
    else:
        try:
            registry.stage(stage.id)
            ours = "splitbed's own"
        except CodecUnknown:
            ours = "not installed"
    raise CodecUnknown(
        f"codec stage '{stage.id[:80]}' comes from {theirs} in this session, and here it is "
        f"{ours}: install the same package in the same version on both nodes"
    )


def as_sent(codecs: Sequence[TensorCodec]) -> tuple[TensorCodec, ...]:
    """What travels in a session's specification: nothing that only the encoder needs."""

    def sent(stage: StageSpec) -> StageSpec:
        with translated(registry.origin(stage.id), CodecError):
            return _specified(_convert(stage, Stage, "any").as_sent())

    return tuple(TensorCodec(one.tensor, tuple(map(sent, one.stages))) for one in codecs)


def by_numpy(codecs: Sequence[TensorCodec]) -> tuple[TensorCodec, ...]:
    """The same codecs, nothing of them left to the graph: they make the same bytes."""
    return tuple(
        TensorCodec(
            codec.tensor,
            tuple(
                msgspec.structs.replace(
                    stage, config={k: v for k, v in stage.config.items() if k != "where"}
                )
                for stage in codec.stages
            ),
        )
        for codec in codecs
    )
