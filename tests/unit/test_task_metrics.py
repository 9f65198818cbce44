"""Measures of boxes, key points and outputs, on answers made up here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from experiments.average_precision import TrueBoxes
from experiments.box_metric import BoxMetric
from experiments.key_point_metric import KeyPointMetric
from experiments.output_metric import OutputMetric
from experiments.preparation import PreparedModel, prepare_model
from experiments.statistics import clustered_share, share
from experiments.task_metric import find_metric, read_labelled
from splitbed.errors import UsageError
from splitbed.tensor import Array
from tests.answering import detector, pose, upscaler

Rows = NDArray[np.float64]
SQUARE = (32, 32)


@pytest.fixture
def boxes_model(tmp_path: Path) -> PreparedModel:
    return prepare_model(detector(tmp_path))


def boxes(*rows: tuple[float, ...]) -> Rows:
    return np.array(rows, np.float64).reshape(-1, 6)


def truth(*rows: tuple[float, ...]) -> TrueBoxes:
    found = np.array(rows, np.float64).reshape(-1, 5)
    return TrueBoxes(found[:, 0].astype(int), found[:, 1:], np.zeros(len(found), bool))


LEFT = (0.0, 0.1, 0.1, 0.4, 0.9)
RIGHT = (1.0, 0.6, 0.1, 0.9, 0.9)


def scored(score: float, of: tuple[float, ...]) -> tuple[float, ...]:
    return (of[0], score, *of[1:])


def test_precision_lost_is_paired_with_the_uncut_model(boxes_model: PreparedModel) -> None:
    labels = [truth(LEFT, RIGHT), truth(LEFT), None]
    metric = BoxMetric(boxes_model, [SQUARE] * 3, labels)
    assert metric.labelled == 2
    both = boxes(scored(0.9, LEFT), scored(0.8, RIGHT))
    metric.compare_with([both, boxes(scored(0.7, LEFT)), both])
    same = metric.score([both, boxes(scored(0.6, LEFT)), both])
    assert same.accuracy is not None
    assert same.loss is not None
    assert (same.accuracy.pct, same.loss.points, same.agreement.pct) == (100, 0, 100)
    assert (same.loss.low, same.loss.high) == (0, 0)
    # The second class is found no more: half of the mean over two classes.
    less = metric.score([both[:1], boxes(scored(0.7, LEFT)), both])
    assert less.loss is not None
    assert less.ap50_loss is not None
    assert less.loss.points == pytest.approx(50)
    assert less.ap50_loss.points == pytest.approx(50)
    assert less.loss.low < 50 < less.loss.high
    # Of nine boxes seen (five and four), one has no counterpart.
    assert (less.agreement.successes, less.agreement.count) == (8, 9)
    pooled = metric.pooled([[both, boxes(scored(0.7, LEFT)), both], [both[:1]] + [both] * 2])
    assert pooled.loss is not None
    assert pooled.loss.points == pytest.approx(25)


def test_intervals_are_those_of_the_seed(boxes_model: PreparedModel) -> None:
    labels = [truth(LEFT, RIGHT), truth(LEFT), truth(RIGHT)]
    answers = [boxes(scored(0.9, LEFT)), boxes(), boxes(scored(0.5, LEFT), scored(0.4, RIGHT))]

    def losses(seed: int) -> object:
        metric = BoxMetric(boxes_model, [SQUARE] * 3, labels, seed)
        metric.compare_with([boxes(scored(0.9, LEFT), scored(0.8, RIGHT))] * 3)
        return metric.score(answers).loss

    assert losses(3) == losses(3)
    assert losses(3) != losses(4)


def test_the_letterbox_is_undone(boxes_model: PreparedModel) -> None:
    """A picture of 64 x 32 fills rows 8 to 24 of the input: y = 0.5 +- 0.25 is all of it."""
    metric = BoxMetric(boxes_model, [(64, 32)], [truth((0, 0.0, 0.0, 0.5, 1.0))])
    metric.compare_with([boxes((0, 0.9, 0.0, 0.25, 0.5, 0.75))])
    found = metric.score([boxes((0, 0.9, -0.2, 0.1, 0.5, 0.8))])  # what sticks out is cut off
    assert found.accuracy is not None
    assert found.accuracy.pct == 100


@pytest.mark.parametrize(
    ("row", "same"),
    [
        (scored(0.9, LEFT), True),
        (scored(0.16, LEFT), True),
        (scored(0.14, LEFT), False),
        ((1.0, 0.9, *LEFT[1:]), False),
        ((0.0, 0.9, 0.1, 0.1, 0.4, 0.51), True),  # IoU 0.51
        ((0.0, 0.9, 0.1, 0.1, 0.4, 0.49), False),
    ],
)
def test_which_box_is_found_again(
    boxes_model: PreparedModel, row: tuple[float, ...], same: bool
) -> None:
    metric = BoxMetric(boxes_model, [SQUARE], [None])
    metric.compare_with([boxes(scored(0.31, LEFT), scored(0.29, RIGHT))])
    found = metric.score([boxes(row)])
    assert (found.accuracy, found.loss, found.ap50) == (None, None, None)
    assert (found.agreement.successes > 0) == same
    # A box that nobody had before is a change as well.
    more = metric.score([boxes(scored(0.31, LEFT), scored(0.9, (2.0, 0, 0, 0.1, 0.1)))])
    assert (more.agreement.successes, more.agreement.count) == (2, 3)


def test_nothing_seen_by_either_is_the_same_answer(boxes_model: PreparedModel) -> None:
    metric = BoxMetric(boxes_model, [SQUARE] * 2, [None] * 2)
    metric.compare_with([boxes(), boxes(scored(0.2, LEFT))])
    assert metric.score([boxes(), boxes()]).agreement.pct == 100


def moves(rows: list[list[float]]) -> Rows:
    """Of the best place, and none of the best one near."""
    return np.concatenate([np.array(rows), np.zeros((len(rows), 3))], axis=1)


def test_distances_of_the_key_points_that_are_seen(tmp_path: Path) -> None:
    metric = KeyPointMetric(prepare_model(pose(tmp_path)))
    first = np.array([[0.2, 0.3, 0.9], [0.5, 0.5, 0.5], [0.1, 0.1, 0.49]])
    first = np.concatenate([first, first], axis=1)
    none = np.array([[0.2, 0.3, 0.4] * 2] * 3)
    metric.compare_with([first, first, none])
    moved = first + moves([[0.006, 0.008, 0], [0.0, 0.009, -0.4], [0.5, 0.5, 0]])
    far = first + moves([[0.006, 0.0081, 0], [0, 0, 0], [0, 0, 0]])
    found = metric.score([moved - [1e-9, 0, 0, 0, 0, 0], far, none])
    assert (found.agreement.successes, found.agreement.count) == (3, 4)
    assert found.largest_distance == pytest.approx(np.hypot(0.006, 0.0081))
    assert found.median_distance == pytest.approx((0.009 + 0.01) / 2)
    assert found.pictures is not None
    assert (found.pictures.successes, found.pictures.count) == (1, 2)
    assert found.largest_by_picture[2] is None
    assert found.jumped == 0
    jumping = metric.score([first + np.array([0.2, 0, 0, 0.001, 0, 0]), far, none])
    assert (jumping.jumped, jumping.agreement.successes, jumping.near.successes) == (2, 1, 4)
    assert metric.pooled([[first] * 3, [far] * 3]).agreement_pct == 75


def test_outputs_against_the_uncut_model(tmp_path: Path) -> None:
    metric = OutputMetric(prepare_model(upscaler(tmp_path)), 2)
    ramp = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 4, 4, 4)

    def outputs(array: Array) -> dict[str, Array]:
        return {"y": array.astype(np.float32)}

    uncut = [metric.answer(place, outputs(ramp / (place + 1))) for place in range(2)]
    metric.compare_with(uncut)
    same = metric.score(uncut)
    assert (same.agreement.pct, same.nmse, same.psnr_db.value) == (100, 0, 200)
    # The range of all pictures is 2: an error of 0.02 everywhere is 40 dB less a rounding.
    off = [metric.answer(0, outputs(ramp + 0.0199)), metric.answer(1, outputs(ramp / 2 + 0.2))]
    found = metric.score(off)
    assert (found.agreement.successes, found.agreement.count) == (1, 2)
    levels = 20 * np.log10([2 / 0.0199, 2 / 0.2])
    assert found.psnr_db.value == pytest.approx(levels.mean(), abs=1e-3)
    energy = float((ramp.astype(np.float64) ** 2).sum()) * 1.25
    assert found.nmse == pytest.approx(64 * (0.0199**2 + 0.2**2) / energy, rel=1e-5)
    lost = metric.score([metric.answer(place, outputs(ramp * np.inf)) for place in range(2)])
    assert lost.agreement.pct == 0
    metric.close()


def test_a_share_of_groups_knows_them() -> None:
    assert clustered_share([10, 10], [10, 10]).low_pct == pytest.approx(share(2, 2).low_pct)
    # All of a picture or nothing of it: as many trials as pictures, nearly.
    lumped = clustered_share([10, 0] * 10, [10] * 20)
    even = clustered_share([5, 5] * 10, [10] * 20)
    assert lumped.pct == even.pct == 50
    assert lumped.low_pct == pytest.approx(share(10, 20).low_pct, abs=1)
    assert even.low_pct == pytest.approx(share(100, 200).low_pct)


def test_labels_fit_the_task(tmp_path: Path) -> None:
    photos = tmp_path / "images"
    photos.mkdir()
    Image.new("RGB", (64, 32)).save(photos / "a.png")
    (photos / "labels.tsv").write_text("a.png\tno class, and nobody asks\nb\tx\n")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("2 0.5 0.5 1 1\n")
    model = prepare_model(detector(tmp_path))
    found = read_labelled(model, photos, None)
    assert found.boxes["a.png"].classes.tolist() == [2]
    assert find_metric(model, found).labelled == 1
    (tmp_path / "labels" / "a.txt").write_text("3 0.5 0.5 1 1\n")
    with pytest.raises(UsageError, match="class 3, and the model knows classes 0 to 2"):
        read_labelled(model, photos, None)
    for other in (pose, upscaler):
        with pytest.raises(UsageError, match="uncut model alone: leave it out"):
            read_labelled(prepare_model(other(tmp_path)), photos, tmp_path / "labels")
