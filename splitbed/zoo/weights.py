"""Where a network's numbers come from: drawn at random, left out, or given by trained arrays."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from splitbed.errors import UsageError
from splitbed.tensor import Array

Floats = NDArray[np.float32]
Shape = tuple[int, ...]

HOLLOW_ELEMENTS: Final = 4096
"""In a hollow network, tensors with more elements than this have no data."""

_IGNORED_PREFIXES: Final = ("aux1.", "aux2.", "AuxLogits.")
"""Auxiliary heads of GoogLeNet and Inception v3: they serve training only."""
_IGNORED_SUFFIX: Final = ".num_batches_tracked"


class Draw(Protocol):
    """A distribution to draw a tensor from."""

    def __call__(self, generator: np.random.Generator, shape: Shape) -> Floats:
        """One float32 array of this shape."""


class Weights(Protocol):
    """A source of arrays by parameter name."""

    def array(self, name: str, shape: Shape, draw: Draw) -> Floats | None:
        """The parameter `name`; None where it shall have no data."""

    def has(self, name: str) -> bool:
        """Whether `name` is among trained arrays; never, where there are none."""

    def finish(self) -> None:
        """Say that the network is complete; UsageError for arrays that nothing asked for."""


def normal(deviation: float) -> Draw:
    """Normal around 0."""

    def draw(generator: np.random.Generator, shape: Shape) -> Floats:
        values = generator.standard_normal(shape, np.float32)
        values *= np.float32(deviation)
        return values

    return draw


def he(fan_in: int) -> Draw:
    """Normal with deviation sqrt(2 / fan_in), which keeps magnitudes through ReLUs (He et al.)."""
    return normal(math.sqrt(2 / fan_in))


def near(centre: float) -> Draw:
    """Uniform within ten percent of `centre`."""

    def draw(generator: np.random.Generator, shape: Shape) -> Floats:
        values = generator.random(shape, np.float32)
        return (np.float32(0.9 * centre) + np.float32(0.2 * centre) * values).astype(np.float32)

    return draw


class RandomWeights:
    """Every tensor drawn from its own generator, seeded by the seed and the tensor's name.

    So a tensor's values depend neither on the order of building nor on the rest of the network.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def array(self, name: str, shape: Shape, draw: Draw) -> Floats | None:
        """The same array for the same seed and name."""
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        generator = np.random.Generator(np.random.SFC64(int.from_bytes(digest[:16], "little")))
        return draw(generator, shape)

    def has(self, name: str) -> bool:
        """False."""
        return False

    def finish(self) -> None:
        """Nothing to check."""


class HollowWeights(RandomWeights):
    """Random where a tensor is small, nothing where it is large: enough to list and count."""

    def array(self, name: str, shape: Shape, draw: Draw) -> Floats | None:
        """None above HOLLOW_ELEMENTS."""
        return None if math.prod(shape) > HOLLOW_ELEMENTS else super().array(name, shape, draw)


class TrainedWeights:
    """Arrays by the framework's own parameter names, in ONNX's layout (as PyTorch's is)."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._used: set[str] = set()

    def array(self, name: str, shape: Shape, draw: Draw) -> Floats | None:
        """The array of this name as float32; UsageError where it is missing or misshapen."""
        if name not in self._arrays:
            close = difflib.get_close_matches(name, list(self._arrays), 3)
            hint = f"; near it are {', '.join(close)}" if close else ""
            raise UsageError(f"the trained weights lack '{name}' ({_text(shape)}){hint}")
        self._used.add(name)
        array = np.asarray(self._arrays[name])
        if array.shape != shape:
            raise UsageError(
                f"the trained weight '{name}' is {_text(array.shape)}, this network needs "
                f"{_text(shape)}"
            )
        if not np.issubdtype(array.dtype, np.floating):
            raise UsageError(f"the trained weight '{name}' has elements of type {array.dtype.name}")
        return np.ascontiguousarray(array, np.float32)

    def has(self, name: str) -> bool:
        """Whether there is such an array."""
        return name in self._arrays

    def finish(self) -> None:
        """Raise UsageError for arrays of another network; auxiliary heads may be left over."""
        left = [
            name
            for name in self._arrays
            if name not in self._used
            and not name.endswith(_IGNORED_SUFFIX)
            and not name.startswith(_IGNORED_PREFIXES)
        ]
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise UsageError(
                f"this network has no place for the trained weights {', '.join(left[:3])}{more}"
            )


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a single number"
