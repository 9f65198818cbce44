"""The ideal order-0 length of quantised tensors."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments.symbol_counts import SymbolCounts
from splitbed.tensor import TensorSpec

SPEC = TensorSpec("t", "float32", (1, 3, 4, 5))


def entropy_bits(values: NDArray[np.float32]) -> float:
    _, counts = np.unique(values, return_counts=True)
    shares = counts / values.size
    return float(-(shares * np.log2(shares)).sum() * values.size)


def pictures(seed: int, count: int) -> list[NDArray[np.float32]]:
    """Channels of their own distribution; later pictures have values that earlier ones had not."""
    rng = np.random.default_rng(seed)
    return [
        np.stack([rng.integers(0, 2 + channel + at, (4, 5)) / 3 for channel in range(3)])[
            None
        ].astype(np.float32)
        for at in range(count)
    ]


def test_lengths_are_those_of_the_entropy() -> None:
    arrays = pictures(1, 7)
    counts = SymbolCounts(SPEC)
    for array in arrays:
        counts.add(array)
    whole = np.concatenate(arrays)
    assert counts.bits(by_channel=False) == pytest.approx(entropy_bits(whole))
    wanted = sum(entropy_bits(whole[:, channel]) for channel in range(3))
    assert counts.bits(by_channel=True) == pytest.approx(wanted)


def test_one_value_takes_nothing() -> None:
    counts = SymbolCounts(SPEC)
    counts.add(np.full(SPEC.shape, 2, np.float32))
    assert counts.bits(by_channel=False) == counts.bits(by_channel=True) == 0


@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 3, 4)])
def test_other_shapes(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 4, shape).astype(np.float32)
    counts = SymbolCounts(TensorSpec("t", "float32", shape))
    counts.add(array)
    assert counts.bits(by_channel=False) == pytest.approx(entropy_bits(array))


def test_what_is_no_symbols_is_not_counted() -> None:
    many = SymbolCounts(TensorSpec("t", "float32", (1, 1, 20, 20)))
    many.add(np.zeros((1, 1, 20, 20), np.float32))
    many.add(np.arange(400, dtype=np.float32).reshape(1, 1, 20, 20))
    many.add(np.zeros((1, 1, 20, 20), np.float32))
    assert many.bits(by_channel=False) is None
    nan = SymbolCounts(SPEC)
    nan.add(np.full(SPEC.shape, np.nan, np.float32))
    assert nan.bits(by_channel=True) is None
    empty = SymbolCounts(TensorSpec("t", "float32", (1, 0, 4)))
    empty.add(np.zeros((1, 0, 4), np.float32))
    assert empty.bits(by_channel=True) is None
