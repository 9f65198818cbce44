"""The working codec of one boundary tensor: stages in a row, with bounds on what each may give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np

from splitbed.codec.quantize import NOT_A_NUMBER
from splitbed.codec.stage import (
    ArrayStage,
    ByteStage,
    ProgressiveCoder,
    SymbolCoder,
    SymbolSource,
    SymbolStage,
)
from splitbed.errors import CodecError, PayloadInvalid
from splitbed.quantiser import Quantiser
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec


class Codec:
    """Codes one boundary tensor. Not safe for use by two threads at once.

    With a `quantiser`, that is done in the graph: what is coded are the symbols that the head makes
    of the tensor, and what is decoded are those that the tail takes.
    """

    def __init__(
        self,
        boundary: TensorSpec,
        array_stage: ArrayStage,
        symbol_stage: SymbolStage | None,
        byte_stages: tuple[ByteStage, ...],
        quantiser: Quantiser | None = None,
    ) -> None:
        self.spec = boundary if quantiser is None else boundary.symbols
        """What `encode` takes and `decode` gives."""
        self.quantiser = quantiser
        self._shape = boundary.shape
        self._sums = () if quantiser is None else (boundary.symbol_sum.name,)
        self.lossless = array_stage.lossless and quantiser is None
        self._array_stage = array_stage
        self._byte_stages = byte_stages
        self._symbols: tuple[SymbolSource, SymbolCoder] | None = None
        if symbol_stage is not None:
            assert isinstance(array_stage, SymbolSource)
            self._symbols = array_stage, symbol_stage.opened(boundary)
        self.progressive = symbol_stage is not None and symbol_stage.progressive
        """Whether any beginning of a payload decodes, coarser."""
        # limits[i] bounds what goes into byte stage i when encoding, and so what may come out of
        # it when decoding; the last bounds the payload.
        self._limits = [(symbol_stage or array_stage).max_bytes(boundary)]
        for stage in byte_stages:
            self._limits.append(stage.max_bytes(self._limits[-1]))

    @property
    def taken(self) -> tuple[str, ...]:
        """Names of all that `encode_from` looks at."""
        return (self.spec.name, *self._sums)

    @property
    def max_bytes(self) -> int:
        """No payload of this codec is longer."""
        return self._limits[-1]

    def encode_from(self, values: Mapping[str, Array]) -> Buffer:
        """The payload of this tensor among a head's values; CodecError if it cannot be coded."""
        if any(np.isnan(values[name]).any() for name in self._sums):
            raise CodecError(NOT_A_NUMBER)
        return self.encode(values[self.spec.name])

    def encode(self, array: Array) -> Buffer:
        """The payload of one tensor; CodecError if it cannot be coded."""
        if not self.spec.matches(array):
            raise CodecError(
                f"tensor '{self.spec.name}' should be {self.spec} in this machine's byte order, "
                f"not {array.dtype.str}[{'x'.join(map(str, array.shape))}]"
            )
        if self._symbols is None:
            payload = self._array_stage.encode(array)
        else:
            source, coder = self._symbols
            payload = coder.encode(source.symbols(array).reshape(self._shape))
        for stage in self._byte_stages:
            payload = stage.encode(payload)
        return payload

    def decode(self, payload: Buffer) -> Array:
        """The tensor of one payload, always of the announced type and shape, or PayloadInvalid."""
        if len(payload) > self.max_bytes:
            raise PayloadInvalid(
                f"tensor '{self.spec.name}' takes at most {self.max_bytes} coded bytes, the "
                f"payload has {len(payload)}"
            )
        for index in range(len(self._byte_stages) - 1, -1, -1):
            payload = self._byte_stages[index].decode(payload, self._limits[index])
        if self._symbols is None:
            return self._array_stage.decode(payload, self.spec)
        source, coder = self._symbols
        return source.values(coder.decode(payload), self.spec)

    def cuts(self, payload: Buffer) -> tuple[int, ...]:
        """At how many bytes a payload can be cut off and still decode, in ascending order.

        With a progressive codec from 0 up to the payload's length; cut between two of these, it
        decodes as cut at the lower one. With any other codec there is only the payload's length.
        PayloadInvalid for what no encoder made.
        """
        if not self.progressive or self._symbols is None:
            return (len(payload),)
        return cast(ProgressiveCoder, self._symbols[1]).cuts(payload)
