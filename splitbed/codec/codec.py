"""The working codec of one boundary tensor: stages in a row, with bounds on what each may give."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

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
from splitbed.errors import CodecError, PayloadInvalid, SplitbedError
from splitbed.quantiser import Quantiser
from splitbed.session import Buffer
from splitbed.tensor import Array, TensorSpec


class ForeignFault(Exception):
    """The cause of an error: what a stage of another package raised or did, and must not."""


@contextlib.contextmanager
def translated(foreign: str, kind: type[SplitbedError]) -> Iterator[str]:
    """What code of other packages (`foreign` names them) raises becomes an error of `kind`.

    Our own mistakes stay what they are: they are ours to mend.
    """
    try:
        yield foreign
    except SplitbedError:
        raise
    except Exception as error:
        if not foreign:
            raise
        why = " ".join(str(error).split())[:300]
        raise kind(
            f"a codec stage of {foreign} failed with {type(error).__name__}: {why or 'no reason'}"
        ) from ForeignFault(f"{type(error).__name__}: {why}")


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
        foreign: str = "",
    ) -> None:
        self.spec = boundary if quantiser is None else boundary.symbols
        """What `encode` takes and `decode` gives."""
        self.quantiser = quantiser
        self._foreign = foreign
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
        self._leaves_out = symbol_stage is not None and symbol_stage.leaves_out
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
        with translated(self._foreign, CodecError):
            payload = self._encoded(array)
        if self._foreign and len(payload) > self.max_bytes:
            raise CodecError(
                f"a codec stage of {self._foreign} made {len(payload)} bytes of tensor "
                f"'{self.spec.name}', and says that they are at most {self.max_bytes}"
            ) from ForeignFault
        return payload

    def bound(self, array: Array) -> Any:
        """Largest error of decoding each element of a tensor, None where nothing is promised."""
        return None if self._leaves_out else self._array_stage.bound(array)

    def _encoded(self, array: Array) -> Buffer:
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
        with translated(self._foreign, PayloadInvalid):
            decoded = self._decoded(payload)
        if self._foreign and not self.spec.matches(decoded):
            raise PayloadInvalid(
                f"a codec stage of {self._foreign} decoded something else than {self.spec}"
            ) from ForeignFault
        return decoded

    def _decoded(self, payload: Buffer) -> Array:
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
