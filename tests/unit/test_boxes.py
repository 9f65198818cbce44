"""From a detector's tensors to boxes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitbed.errors import TaskError
from splitbed.task import Answerer, BoxesSpec, BoxFinder, TaskSpec, overlaps, result_boundary
from splitbed.task.boxes import suppressed
from splitbed.tensor import Array, TensorSpec

OUTPUTS = (
    TensorSpec("fine", "float32", (1, 8, 2)),
    TensorSpec("far", "float32", (1, 8, 16)),
    TensorSpec("coarse", "float32", (2, 2)),
    TensorSpec("farther", "float32", (2, 16)),
)
SPEC = BoxesSpec(scores=("fine", "coarse"), distances=("far", "farther"), strides=(8, 16), bins=4)
SIZE = (16, 32)
"""Two rows of four cells at stride 8, one of two at stride 16."""


def outputs() -> dict[str, Array]:
    return {spec.name: np.zeros(spec.shape, np.float32) for spec in OUTPUTS}


def peaked(bins: tuple[int, int, int, int]) -> Array:
    """Distributions that are all in one bin: left, top, right, bottom."""
    made = np.full((4, 4), -100, np.float32)
    made[np.arange(4), bins] = 100
    return made.reshape(-1)


def test_a_box_worked_by_hand() -> None:
    given = outputs()
    given["fine"][0, 6, 1] = 0.75  # row 1, column 2: centre at 2 x 8 + 3.5 and 1 x 8 + 3.5
    given["far"][0, 6] = peaked((1, 0, 1, 0))
    found = BoxFinder(SPEC, SIZE, OUTPUTS).find(given)
    assert found.dtype == np.float32
    wanted = [[1, 0.75, (19.5 - 8) / 32, 11.5 / 16, (19.5 + 8) / 32, 11.5 / 16]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_flat_distribution_is_its_mean_and_the_stride_counts() -> None:
    given = outputs()
    given["coarse"][1, 0] = 0.5  # centre at 16 + 7.5 and 7.5; the mean of 0..3 is 1.5
    found = BoxFinder(SPEC, SIZE, OUTPUTS).find(given)
    wanted = [[0, 0.5, (23.5 - 24) / 32, (7.5 - 24) / 16, (23.5 + 24) / 32, (7.5 + 24) / 16]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_cell_may_hold_several_classes_and_the_best_comes_first() -> None:
    given = outputs()
    given["fine"][0, 0] = 0.3, 0.9
    given["fine"][0, 7] = 0.6, 0.049  # below the least score
    found = BoxFinder(SPEC, SIZE, OUTPUTS).find(given)
    assert found[:, 0].tolist() == [1, 0, 0]
    np.testing.assert_allclose(found[:, 1], [0.9, 0.6, 0.3], rtol=1e-6)


def test_scores_may_be_logits() -> None:
    spec = msgspec.structs.replace(SPEC, logits=True, least_score=0.6)
    given = outputs()
    given["fine"][0, 3, 0] = np.log(3)
    (found,) = BoxFinder(spec, SIZE, OUTPUTS).find(given)
    assert found[1] == pytest.approx(0.75)


def test_of_two_that_overlap_the_better_stays_if_of_one_class() -> None:
    best = (0, 0.9, 0.0, 0.0, 1.0, 1.0)
    boxes = np.array(
        [
            best,
            (0, 0.8, 0.0, 0.0, 1.0, 0.7),  # IoU 0.7
            (1, 0.7, 0.0, 0.0, 1.0, 1.0),  # another class
            (0, 0.6, 0.0, 0.0, 1.0, 0.5),  # IoU 0.5; 0.71 with the one that went
        ]
    )
    assert suppressed(boxes, 0.6, 10)[:, 1].tolist() == [0.9, 0.7, 0.6]
    assert suppressed(boxes, 0.6, 2)[:, 1].tolist() == [0.9, 0.7]
    assert suppressed(boxes[:0], 0.6, 2).shape == (0, 6)


def test_overlaps() -> None:
    one = np.array([[0, 0, 2, 2], [0, 0, 0, 0]], np.float64)
    other = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6], [2, 2, 1, 1]], np.float64)
    np.testing.assert_allclose(overlaps(one, other), [[1 / 7, 1.0, 0.0, 0.0], [0.0] * 4])


@pytest.mark.filterwarnings("error")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0, 3e38, -3e38, 0.5]),
        min_size=6,
        max_size=6,
    ),
    st.integers(0, 2**32 - 1),
)
def test_damaged_tensors_make_finite_boxes(values: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    given: dict[str, Array] = {
        spec.name: rng.choice(np.array(values, np.float32), spec.shape) for spec in OUTPUTS
    }
    for spec in (SPEC, msgspec.structs.replace(SPEC, logits=True, most=5)):
        found = BoxFinder(spec, SIZE, OUTPUTS).find(given)
        assert len(found) <= spec.most
        assert np.isfinite(found).all()
        assert (np.diff(found[:, 1]) <= 0).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": ("fine", "none")}, "names the output 'none', and the model has fine, far"),
        ({"strides": (8, 8)}, "'coarse' has shape 2x2 where stride 8 makes 8 cells"),
        ({"bins": 8}, "'far' has 16 values a cell where 4 x 8 bins are wanted"),
        ({"scores": ("fine", "farther")}, "different numbers of classes"),
    ],
)
def test_a_description_that_contradicts_the_model(changes: dict[str, Any], words: str) -> None:
    spec = msgspec.structs.replace(SPEC, **changes)
    with pytest.raises(TaskError, match=words):
        BoxFinder(spec, SIZE, OUTPUTS)


@pytest.mark.parametrize(
    "table",
    [
        {"strides": [8], "scores": ["a"], "distances": []},
        {"strides": [], "scores": [], "distances": []},
    ],
)
def test_every_stride_has_its_outputs(table: dict[str, Any]) -> None:
    with pytest.raises((TaskError, msgspec.ValidationError), match="one of each"):
        msgspec.convert(table, BoxesSpec)


def test_a_description_from_the_network_is_bounded() -> None:
    names = ["a"] * 65
    with pytest.raises(msgspec.ValidationError, match="length <= 64"):
        msgspec.convert({"strides": [8] * 65, "scores": names, "distances": names}, BoxesSpec)


@pytest.mark.parametrize(
    "table",
    [{"output": "boxes"}, {"output": "key_points"}, {"boxes": msgspec.to_builtins(SPEC)}],
)
def test_kind_and_table_belong_together(table: dict[str, Any]) -> None:
    with pytest.raises((TaskError, msgspec.ValidationError), match="belong together"):
        msgspec.convert(table, TaskSpec)


def test_a_peer_reads_the_same_boxes_off_the_result_boundary() -> None:
    task = TaskSpec(output="boxes", boxes=msgspec.structs.replace(SPEC, most=4), size=SIZE)
    answerer = Answerer(task, OUTPUTS)
    given = outputs()
    for hot in (0, 3, 7):
        given["fine"][0, hot, hot % 2] = 0.5 + hot / 100
        crossing = answerer.boundary(given)
        (spec,) = result_boundary(task, OUTPUTS)
        assert spec.matches(crossing[spec.name])
        answer = answerer.answer(given)
        assert answerer.answer_from_boundary(crossing) == answer
    assert [row[:2] for row in answer["boxes"]] == [[1, 0.57], [1, 0.53], [0, 0.5]]
    assert answerer.answer(outputs()) == {"boxes": []}
