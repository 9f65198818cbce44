"""Arrays of many pictures, kept while codecs are tried on them: each head runs once a picture."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from experiments.files import refused
from splitbed.tensor import Array, TensorSpec

IN_MEMORY_BYTES: Final = 512 << 20
"""More than this is kept in a file that is mapped into memory."""


class KeptArrays:
    """One array for each tensor and place; to be closed, which takes its file away.

    Read what was kept, without writing to it: codecs are handed the very memory.
    """

    def __init__(
        self, specs: Sequence[TensorSpec], places: int, in_memory_bytes: int = IN_MEMORY_BYTES
    ) -> None:
        self._file = None
        self._held: dict[str, Array] = {}
        if places * sum(spec.nbytes for spec in specs) <= in_memory_bytes:
            for spec in specs:
                self._held[spec.name] = np.empty((places, *spec.shape), spec.dtype)
            return
        # Each tensor begins on a multiple of 64 bytes, which every element type is content with.
        sizes = [places * spec.nbytes + 63 & ~63 for spec in specs]
        folder = Path(tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
            # Taken now: a full disk would end the process at the first write to a mapped page.
            os.posix_fallocate(self._file.fileno(), 0, sum(sizes))
        except OSError as error:
            self.close()
            raise refused(folder, error) from error
        start = 0
        for spec, size in zip(specs, sizes, strict=True):
            shape = (places, *spec.shape)
            self._held[spec.name] = np.memmap(self._file, spec.dtype, "r+", start, shape)
            start += size

    @property
    def is_in_memory(self) -> bool:
        """Whether no file was needed."""
        return self._file is None

    def keep(self, place: int, arrays: dict[str, Array]) -> None:
        """Keep one picture's arrays."""
        for name, held in self._held.items():
            held[place] = arrays[name]

    def at(self, place: int) -> dict[str, Array]:
        """One picture's arrays again, without a copy."""
        return {name: np.asarray(held[place]) for name, held in self._held.items()}

    def close(self) -> None:
        """Let go of everything."""
        self._held.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> KeptArrays:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
