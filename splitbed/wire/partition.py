"""Tensors, cuts, quantisers and parts to and from the wire; what a peer sends is checked here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from splitbed.errors import ProtocolViolation
from splitbed.pair import CodeRange, PairId, Ranges, check_name
from splitbed.quantiser import MOST_CHANNELS, Quantiser
from splitbed.tensor import Cut, DType, ModelId, Partition, TensorSpec
from splitbed.wire import split_pb2 as pb

_DTYPES: Final[dict[str, Any]] = {name: pb.DType.Value(name.upper()) for name in get_args(DType)}
PARTS: Final[dict[str, Any]] = {"first": pb.FIRST, "second": pb.SECOND, "whole": pb.WHOLE}
_MOST_DIMS: Final = 32
_MOST_LEVELS: Final = 4 * MOST_CHANNELS
_MOST_RANGES: Final = 1024
MOST_BYTES: Final = 1 << 40
DIGEST: Final = re.compile("[0-9a-f]{64}")


def name_of(table: Mapping[str, int], number: int) -> Any:
    """The word that a number of the wire stands for; ProtocolViolation for none."""
    for name, value in table.items():
        if value == number:
            return name
    raise ProtocolViolation(f"a message holds {number}, which is none of {', '.join(table)}")


def tensor_message(spec: TensorSpec) -> pb.TensorSpec:
    """To the wire."""
    return pb.TensorSpec(name=spec.name, dtype=_DTYPES[spec.dtype], shape=spec.shape)


def _tensor_of(message: pb.TensorSpec) -> TensorSpec:
    shape = _shape_of(message.name, message.shape)
    return TensorSpec(message.name, name_of(_DTYPES, message.dtype), shape)


def _shape_of(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that numpy can make, even where a dimension of 0 leaves nothing to hold."""
    fits = len(shape) <= _MOST_DIMS and all(size >= 0 for size in shape)
    if not fits or math.prod(max(1, size) for size in shape) >= MOST_BYTES:
        raise ProtocolViolation(f"tensor '{name[:80]}' has an impossible shape")
    return tuple(shape)


def tensors_of(messages: Iterable[pb.TensorSpec]) -> tuple[TensorSpec, ...]:
    """From the wire."""
    return tuple(map(_tensor_of, messages))


def shape_messages(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> list[pb.InputShape]:
    """To the wire."""
    return [pb.InputShape(name=name, shape=shape) for name, shape in shapes]


def shapes_of(messages: Iterable[pb.InputShape]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """From the wire."""
    return tuple((m.name, _shape_of(m.name, m.shape)) for m in messages)


def quantiser_message(quantiser: Quantiser) -> pb.Quantiser:
    """To the wire."""
    return pb.Quantiser(
        tensor=quantiser.tensor,
        low=quantiser.low,
        step=quantiser.step,
        highest=quantiser.highest,
    )


def quantisers_of(messages: Sequence[pb.Quantiser]) -> tuple[Quantiser, ...]:
    """Bounded before anything is made of them."""
    if sum(len(m.low) + len(m.step) for m in messages) > _MOST_LEVELS:
        raise ProtocolViolation("a message holds more quantisers than any cut has channels")
    return tuple(Quantiser(m.tensor, tuple(m.low), tuple(m.step), m.highest) for m in messages)


def pair_message(pair: PairId | None) -> pb.LearnedPair | None:
    """To the wire."""
    if pair is None:
        return None
    return pb.LearnedPair(
        name=pair.name, encoder_sha256=pair.encoder_sha256, decoder_sha256=pair.decoder_sha256
    )


def pair_of(message: pb.LearnedPair) -> PairId:
    """From the wire."""
    check_name(message.name)
    if not (DIGEST.fullmatch(message.encoder_sha256) and DIGEST.fullmatch(message.decoder_sha256)):
        raise ProtocolViolation("a learned codec's digests are no SHA-256 in hexadecimal")
    return PairId(message.name, message.encoder_sha256, message.decoder_sha256)


def range_message(found: CodeRange) -> pb.CodeRange:
    """To the wire."""
    return pb.CodeRange(tensor=found.tensor, low=found.low, high=found.high)


def ranges_of(messages: Sequence[pb.CodeRange]) -> Ranges:
    """Bounded before anything is made of them."""
    if len(messages) > _MOST_RANGES:
        raise ProtocolViolation("a message holds more ranges than any cut has tensors")
    return tuple(CodeRange(m.tensor, m.low, m.high) for m in messages)


def cut_message(cut: Cut) -> pb.Cut:
    """To the wire."""
    return pb.Cut(name=cut.name, boundary=map(tensor_message, cut.boundary))


def cut_of(message: pb.Cut) -> Cut:
    """From the wire."""
    return Cut(message.name, tensors_of(message.boundary))


def partition_message(partition: Partition) -> pb.Partition:
    """To the wire."""
    return pb.Partition(
        model=pb.ModelId(
            source_sha256=partition.model.source_sha256,
            canonicaliser=partition.model.canonicaliser,
            input_shapes=shape_messages(partition.model.input_shapes),
        ),
        cut=cut_message(partition.cut),
        part=PARTS[partition.part],
        sha256=partition.sha256,
        file_bytes=partition.file_bytes,
        inputs=map(tensor_message, partition.inputs),
        outputs=map(tensor_message, partition.outputs),
        quantisers=map(quantiser_message, partition.quantisers),
        pair=pair_message(partition.pair),
    )


def partition_of(message: pb.Partition) -> Partition:
    """From the wire."""
    # The digest names a file in the device's cache, so nothing else may pass for one.
    if not DIGEST.fullmatch(message.sha256):
        raise ProtocolViolation("a part's digest is no SHA-256 in hexadecimal")
    if not 0 <= message.file_bytes <= MOST_BYTES:
        raise ProtocolViolation(f"a part of {message.file_bytes} bytes is impossible")
    return Partition(
        model=ModelId(
            message.model.source_sha256,
            message.model.canonicaliser,
            shapes_of(message.model.input_shapes),
        ),
        cut=cut_of(message.cut),
        part=name_of(PARTS, message.part),
        sha256=message.sha256,
        file_bytes=message.file_bytes,
        inputs=tensors_of(message.inputs),
        outputs=tensors_of(message.outputs),
        quantisers=quantisers_of(message.quantisers),
        pair=pair_of(message.pair) if message.HasField("pair") else None,
    )
