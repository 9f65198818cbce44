"""Bytes or bits of like weight side by side, for a compressor that follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from splitbed.codec.stage import Binding, ByteStage
from splitbed.session import Buffer


class Shuffle(ByteStage, frozen=True):
    """All first bytes of the elements, then all second ones, and so on. Lossless.

    `shuffle` or `shuffle:bytes`: exponents of floats are like each other and mantissas are noise,
    so `raw+shuffle+zstd` takes fewer bytes than `raw+zstd`. `shuffle:bits`: all first bits, then
    all second ones. `size` is the length of an element; left open, it is that of what came before.
    Bytes after the last whole element stay where they are.
    """

    id: ClassVar[str] = "shuffle"
    positional: ClassVar[str | None] = "of"

    of: Literal["bytes", "bits"] = "bytes"
    size: Annotated[int, Meta(ge=1, le=16)] = 1

    @classmethod
    def bind(cls, arguments: Mapping[str, str], binding: Binding) -> Shuffle:
        """The size of an element from the array stage."""
        stage = super().bind({"size": str(binding.unit_bytes)} | dict(arguments), binding)
        assert isinstance(stage, Shuffle)
        return stage

    def max_bytes(self, size: int) -> int:
        """As long as what goes in."""
        return size

    def encode(self, payload: Buffer) -> Buffer:
        """Planes, first that of the elements' first byte or of its highest bit."""
        whole, rest = self._split(payload)
        if self.of == "bytes":
            planes = whole.reshape(-1, self.size).T.tobytes()
        else:
            bits = np.unpackbits(whole).reshape(-1, 8 * self.size)
            planes = np.packbits(np.ascontiguousarray(bits.T)).tobytes()
        return planes + bytes(rest)

    def decode(self, payload: Buffer, limit: int) -> Buffer:
        """The elements again; any bytes are some."""
        del limit  # nothing grows
        whole, rest = self._split(payload)
        if self.of == "bytes":
            elements = whole.reshape(self.size, -1).T.tobytes()
        else:
            bits = np.unpackbits(whole).reshape(8 * self.size, -1)
            elements = np.packbits(np.ascontiguousarray(bits.T)).tobytes()
        return elements + bytes(rest)

    def _split(self, payload: Buffer) -> tuple[NDArray[np.uint8], memoryview]:
        data = memoryview(payload)
        end = len(data) - len(data) % self.size
        return np.frombuffer(data[:end], np.uint8), data[end:]
