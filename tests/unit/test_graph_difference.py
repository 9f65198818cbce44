"""What counts as equal, and what proves nothing."""

from __future__ import annotations

import numpy as np
import pytest

from splitbed.graph.difference import Comparison, distance
from splitbed.tensor import Array


def compared(got: Array, wanted: Array) -> Comparison:
    found = Comparison()
    found.add({"y": got}, {"y": wanted})
    return found


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_whole_numbers_are_equal_or_not(dtype: str) -> None:
    wanted = np.array([100, 1, 0]).astype(dtype)
    other = wanted.copy()
    other[-1] = 1
    assert compared(wanted, wanted).result().max_rel == 0
    assert compared(other, wanted).result().max_rel == 1


def test_large_indices_that_are_off_by_one_differ() -> None:
    found = compared(np.array([100_001]), np.array([100_000])).result()
    assert found.max_rel == 1


def test_numbers_differ_relative_to_the_largest() -> None:
    wanted = np.array([4.0, -8.0], np.float32)
    assert compared(wanted + np.float32(0.5), wanted).result().max_rel == 0.5 / 8


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_only_the_cut_makes_infinite_is_a_difference(wrong: float) -> None:
    wanted = np.array([1.0, 2.0], np.float32)
    found = compared(np.array([1.0, wrong], np.float32), wanted)
    assert not found.problem
    assert found.result().max_rel == np.inf
    assert distance(np.array([1.0, wrong], np.float32), wanted) == np.inf


def test_reference_that_is_not_finite_proves_nothing() -> None:
    assert "not finite" in compared(np.ones(2), np.array([1.0, np.nan])).problem


def test_outputs_without_elements_prove_nothing() -> None:
    assert "empty" in compared(np.ones((0, 4)), np.ones((0, 4))).problem
    assert distance(np.ones(0), np.ones(0)) == 0


def test_other_shape_is_told() -> None:
    assert "has shape (1, 2) instead of (2,)" in compared(np.ones((1, 2)), np.ones(2)).problem
