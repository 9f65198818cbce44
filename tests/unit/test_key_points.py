"""From a pose network's tensors to key points."""

from __future__ import annotations

import numpy as np
import pytest

from splitbed.errors import TaskError
from splitbed.task import Answerer, KeyPointFinder, KeyPointsSpec, TaskSpec, result_boundary
from splitbed.tensor import Array, TensorSpec

OUTPUTS = (
    TensorSpec("heat", "float32", (1, 2, 3, 4)),
    TensorSpec("short", "float32", (1, 4, 3, 4)),
)
SPEC = KeyPointsSpec(heat_maps="heat", offsets="short", stride=16)
SIZE = (33, 49)


def outputs() -> dict[str, Array]:
    return {spec.name: np.zeros(spec.shape, np.float32) for spec in OUTPUTS}


def test_key_points_worked_by_hand() -> None:
    given = outputs()
    given["heat"][0, 0, 2, 1] = np.log(4)  # row 2, column 1
    given["short"][0, 0, 2, 1], given["short"][0, 2, 2, 1] = -3.5, 4.25  # y, x of the first
    given["heat"][0, 1] = -5
    given["short"][0, 1, 0, 0], given["short"][0, 3, 0, 0] = 1.0, 2.0
    found = KeyPointFinder(SPEC, SIZE, OUTPUTS).find(given)
    wanted = [
        [(16 + 4.25) / 49, (32 - 3.5) / 33, 0.8],
        [2 / 49, 1 / 33, 1 / (1 + np.exp(5))],  # of equals the first cell
    ]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_near_a_known_place_only_two_cells_to_either_side_count() -> None:
    given = outputs()
    given["heat"][0, :, 0, 0] = 1
    given["heat"][0, :, 2, 3] = 3
    given["short"][0, 0, 0, 0] = 5
    finder = KeyPointFinder(SPEC, SIZE, OUTPUTS)
    # Columns 0 and 1 of 0..3: from the first the last is three cells away, from the second two.
    known = np.array([[0 / 49, 0 / 33, 1], [16 / 49, 0 / 33, 1]], np.float32)
    found = finder.find_near(given, known)
    np.testing.assert_allclose(found[:, :2], [[0, 5 / 33], [48 / 49, 32 / 33]], rtol=1e-6)


def test_what_is_no_number_does_not_count() -> None:
    given = outputs()
    given["heat"][0, 0] = np.nan
    given["heat"][0, 0, 1, 1] = -2
    given["heat"][0, 1] = np.nan
    given["short"][0, 2, 1, 1] = np.inf
    found = KeyPointFinder(SPEC, SIZE, OUTPUTS).find(given)
    np.testing.assert_array_equal(found, np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (KeyPointsSpec(heat_maps="heat", offsets="none", stride=16), "names the output 'none'"),
        (KeyPointsSpec(heat_maps="short", offsets="heat", stride=16), "offsets of 2n x rows"),
        (KeyPointsSpec(heat_maps="heat", offsets="heat", stride=16), "'heat' 1x2x3x4"),
    ],
)
def test_a_description_that_contradicts_the_model(spec: KeyPointsSpec, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        KeyPointFinder(spec, SIZE, OUTPUTS)


def test_a_peer_reads_the_same_key_points_off_the_result_boundary() -> None:
    task = TaskSpec(output="key_points", key_points=SPEC, size=SIZE)
    answerer = Answerer(task, OUTPUTS)
    rng = np.random.default_rng(1)
    given: dict[str, Array] = {
        spec.name: rng.normal(0, 3, spec.shape).astype(np.float32) for spec in OUTPUTS
    }
    crossing = answerer.boundary(given)
    (spec,) = result_boundary(task, OUTPUTS)
    assert spec.matches(crossing[spec.name])
    answer = answerer.answer(given)
    assert answerer.answer_from_boundary(crossing) == answer
    assert len(answer["key_points"]) == 2
