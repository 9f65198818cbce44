"""Moves of answers as vectors: what is read counts, in the measure that the docstrings say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiments.answer_metric import answer_metric
from splitbed.task import BoxesSpec, KeyPointsSpec, TaskSpec

CLASSES = TaskSpec(scores="y")
POSE = TaskSpec(
    output="key_points", key_points=KeyPointsSpec(heat_maps="heat", offsets="off", stride=16)
)
BOXES = TaskSpec(
    output="boxes",
    boxes=BoxesSpec(scores=("s",), distances=("d",), strides=(8,), bins=4),
)


def squared(task: TaskSpec, here: dict[str, Any], about: dict[str, Any]) -> float:
    moved = answer_metric(task, [about]).moved(here, about)
    return float(moved @ moved)


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


@pytest.mark.parametrize("probabilities", [False, True])
def test_classes_move_as_far_as_they_diverge(probabilities: bool) -> None:
    rng = np.random.default_rng(0)
    about = rng.normal(0, 3, 50)
    here = about + rng.normal(0, 1e-2, 50)
    one, other = softmax(about / 2), softmax(here / 2)
    divergence = float(one @ (np.log(one) - np.log(other)))
    given = [softmax(v) if probabilities else v for v in (here, about)]
    found = squared(CLASSES, {"y": given[0]}, {"y": given[1]})
    assert found == pytest.approx(2 * 2**2 * divergence, rel=0.02)
    shifted = squared(CLASSES, {"y": about + 5}, {"y": about})
    assert shifted == pytest.approx(0, abs=1e-12)  # a softmax does not see that


def test_key_points_move_by_their_cell_and_its_offset_alone() -> None:
    rng = np.random.default_rng(1)
    heat = rng.normal(-3, 1, (2, 4, 5)).astype(np.float32)
    heat[0, 1, 2], heat[1, 3, 0] = 9, -8  # one is seen, and one is not
    heat[1] -= 20
    about: dict[str, Any] = {"heat": heat, "off": np.zeros((4, 4, 5)), "mid": np.zeros(3)}
    offsets = about["off"].copy()
    offsets[0, 1, 2] = 16
    assert squared(POSE, about | {"off": offsets}, about) == pytest.approx(1, rel=1e-3)
    offsets[0, 1, 2], offsets[0, 0, 0] = 0, 16
    assert squared(POSE, about | {"off": offsets}, about) == 0
    assert squared(POSE, about | {"mid": np.ones(3)}, about) == 0
    raised = heat.copy()
    raised[0, 0, 0] = 8.5  # a rival of the best cell
    unseen = heat.copy()
    unseen[1, 0, 0] += raised[0, 0, 0] - heat[0, 0, 0]
    assert squared(POSE, about | {"heat": raised}, about) > 1e-3
    assert squared(POSE, about | {"heat": unseen}, about) < 1e-3


def test_boxes_move_by_scores_and_by_sides_that_are_seen() -> None:
    scores = np.full((6, 3), 0.01, np.float32)
    scores[2, 1] = 0.8
    bins = np.zeros((6, 16), np.float32)
    about = {"s": scores, "d": bins}
    higher = scores.copy()
    higher[4, 0] += 0.5
    assert squared(BOXES, {"s": higher, "d": bins}, about) == pytest.approx(0.25, rel=1e-5)
    wider = bins.copy()
    wider[2, 3] = 50  # all in the last of four bins, whose mean was 1.5
    assert squared(BOXES, {"s": scores, "d": wider}, about) == pytest.approx(
        (1.5 * 0.8) ** 2, rel=1e-3
    )
    wider[2, 3], wider[0, 3] = 0, 50
    assert squared(BOXES, {"s": scores, "d": wider}, about) == 0


def test_folding_keeps_lengths_on_average() -> None:
    rng = np.random.default_rng(2)
    task = TaskSpec(output="raw")
    still = [{"y": rng.normal(0, 7, 20_000), "n": np.arange(3)} for _ in range(3)]
    metric = answer_metric(task, still)
    moves: Any = rng.normal(0, 7, (20, 20_000))
    lengths = [
        float(np.square(metric.moved({"y": still[0]["y"] + move}, still[0])).sum())
        for move in moves
    ]
    assert np.mean(lengths) == pytest.approx(1, rel=0.1)  # one spread each
