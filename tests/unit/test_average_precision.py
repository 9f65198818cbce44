"""COCO's average precision: cases worked by hand, and its definition taken literally."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.average_precision import (
    IOUS,
    Matched,
    TrueBoxes,
    assigned,
    average_precision,
    matched,
)

Found = NDArray[np.float64]


def found(*rows: tuple[float, ...]) -> Found:
    """Class, score, left, top, right, bottom; put in order."""
    boxes = np.array(rows, np.float64).reshape(-1, 6)
    return boxes[np.argsort(-boxes[:, 1], kind="stable")]


def there(*rows: tuple[float, ...], crowd: tuple[int, ...] = ()) -> TrueBoxes:
    boxes = np.array(rows, np.float64).reshape(-1, 5)
    flags = np.isin(np.arange(len(boxes)), crowd)
    return TrueBoxes(boxes[:, 0].astype(np.int64), boxes[:, 1:], flags)


def precision(boxes: list[Found], truth: list[TrueBoxes]) -> NDArray[np.float64]:
    """By IoU, of the pictures themselves."""
    found_ap: NDArray[np.float64] = average_precision(
        matched(boxes, truth, IOUS), np.ones((1, len(truth)))
    )[0]
    return found_ap


ONE = (0, 0.0, 0.0, 1.0, 1.0)
FAR = (0, 2.0, 2.0, 3.0, 3.0)
THIRD = (0, 4.0, 4.0, 5.0, 5.0)


def hit(score: float, of: tuple[float, ...] = ONE) -> tuple[float, ...]:
    return (of[0], score, *of[1:])


def miss(score: float) -> tuple[float, ...]:
    return (0, score, 8.0, 8.0, 9.0, 9.0)


@pytest.mark.parametrize(
    ("boxes", "truth", "wanted"),
    [
        ([hit(0.9)], [ONE], 1.0),
        ([], [ONE], 0.0),
        ([miss(0.9), hit(0.8)], [ONE], 0.5),
        ([hit(0.9), miss(0.8)], [ONE], 1.0),
        # The second box on the same thing is wrong.
        ([hit(0.9), hit(0.8)], [ONE, FAR], 51 / 101),
        # Half of them found: 51 of the 101 recalls are reached.
        ([hit(0.9)], [ONE, FAR], 51 / 101),
        # Precision 1 up to a recall of 0.5, and 2/3 from there on.
        ([hit(0.9), miss(0.8), hit(0.7, FAR)], [ONE, FAR], (51 + 50 * 2 / 3) / 101),
        # Precision 1/2, then 2/3: the best one further down counts for all.
        ([miss(0.9), hit(0.8), hit(0.7, FAR)], [ONE, FAR], 2 / 3),
        # A third found: recalls up to 0.33 are reached, 34 of them.
        ([hit(0.9)], [ONE, FAR, THIRD], 34 / 101),
        # Of another class: as if it were not there.
        ([(1, 0.99, *ONE[1:]), hit(0.5)], [ONE], 1.0),
    ],
)
def test_cases_worked_by_hand(
    boxes: list[tuple[float, ...]], truth: list[tuple[float, ...]], wanted: float
) -> None:
    got = precision([found(*boxes)], [there(*truth)])
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_the_overlap_decides_at_which_levels_a_box_is_right() -> None:
    """A box of 0.72 within a true one of 1: right at 0.50 to 0.70."""
    got = precision([found((0, 0.9, 0, 0, 0.9, 0.8))], [there(ONE)])
    np.testing.assert_array_equal(got, [1] * 5 + [0] * 5)


def test_the_mean_is_over_classes_that_are_there() -> None:
    truth = [there(ONE, (4, *FAR[1:]))]
    got = precision([found(hit(0.9), (7, 0.9, *ONE[1:]))], truth)
    np.testing.assert_allclose(got, 0.5)


def test_scores_are_sorted_over_all_pictures() -> None:
    """The better score is wrong, in another picture."""
    got = precision([found(hit(0.6)), found(miss(0.9))], [there(ONE), there()])
    np.testing.assert_allclose(got, 0.5)


def test_crowds_are_neither_found_nor_missed() -> None:
    crowd = (0, 4.0, 4.0, 6.0, 6.0)
    small = (0, 0.95, 4.5, 4.5, 5.0, 5.0)
    truth = [there(ONE, crowd, crowd=(1,))]
    np.testing.assert_allclose(precision([found(small, small, hit(0.5))], truth), 1.0)
    np.testing.assert_allclose(precision([found(small)], [there(crowd, crowd=(0,))]), 0.0)
    # A true box beside the crowd comes first.
    beside = [there(small[:1] + small[2:], crowd, crowd=(1,))]
    np.testing.assert_allclose(precision([found(small)], beside), 1.0)


def test_no_more_than_a_hundred_boxes_of_a_class_count_in_a_picture() -> None:
    misses = [miss(0.9)] * 100
    assert precision([found(*misses, hit(0.5))], [there(ONE)]).max() == 0
    assert precision([found(*misses[:99], hit(0.5))], [there(ONE)]).min() > 0


def test_nothing_there_and_nothing_found() -> None:
    assert precision([found()], [there()]).max() == 0
    right, ignored = assigned(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0, bool), IOUS)
    assert right.shape == ignored.shape == (10, 0)


Numbers = st.integers(0, 6)
Corners = st.tuples(Numbers, Numbers, st.integers(1, 4), st.integers(1, 4))


@st.composite
def sets(draw: st.DrawFn) -> tuple[list[Found], list[TrueBoxes]]:
    """Pictures with boxes on a coarse grid, so that they often overlap; no score twice."""
    boxes, truth = [], []
    scores = iter(draw(st.permutations(range(60))))
    for _ in range(draw(st.integers(1, 4))):
        real = [
            (draw(st.integers(0, 2)), x, y, x + w, y + h)
            for x, y, w, h in draw(st.lists(Corners, max_size=5))
        ]
        # Most boxes are on true ones, or many a case would have nothing right in it.
        spots = [(of, x, y, r - x, b - y) for of, x, y, r, b in real] + [(0, 0, 0, 2, 2)]
        rows = [
            (of, (next(scores) + 1) / 61, x, y, x + w + more, y + h)
            for (of, x, y, w, h), more in draw(
                st.lists(st.tuples(st.sampled_from(spots), st.sampled_from([0, 0, 1])), max_size=8)
            )
        ]
        crowd = tuple(draw(st.sets(st.integers(0, 4), max_size=2)))
        boxes.append(found(*rows))
        truth.append(there(*real, crowd=crowd))
    return boxes, truth


@settings(max_examples=60, deadline=None)
@given(sets())
def test_the_definition_taken_literally(case: tuple[list[Found], list[TrueBoxes]]) -> None:
    boxes, truth = case
    wanted = [literal(boxes, truth, iou) for iou in IOUS]
    np.testing.assert_allclose(precision(boxes, truth), wanted, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(sets(), st.data())
def test_a_weight_is_a_picture_several_times(
    case: tuple[list[Found], list[TrueBoxes]], data: st.DataObject
) -> None:
    boxes, truth = case
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(truth), max_size=len(truth)))
    got = average_precision(matched(boxes, truth, IOUS), np.array([times], np.float64))[0]
    places = [place for place, count in enumerate(times) for _ in range(count)]
    wanted = np.zeros(len(IOUS))
    if places:
        wanted = precision([boxes[at] for at in places], [truth[at] for at in places])
    np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_sets_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((10, 300)) < 0.5
    one = Matched(rng.integers(0, 9, 300), right, np.zeros_like(right), rng.integers(20, 60, 9))
    weights = rng.integers(0, 4, (50, 9)).astype(np.float64)
    together = average_precision([one], weights)
    for row in (0, 17, 49):
        alone = average_precision([one], weights[[row]])[0]
        np.testing.assert_allclose(together[row], alone, rtol=1e-12)


def literal(boxes: list[Found], truth: list[TrueBoxes], iou: float) -> float:
    """One box after the other, one recall after the other."""
    areas = []
    for of in range(3):
        listed: list[tuple[float, bool]] = []
        wanted = 0
        for found_here, here in zip(boxes, truth, strict=True):
            mine = [i for i in range(len(here.classes)) if here.classes[i] == of]
            wanted += sum(not here.crowd[i] for i in mine)
            taken: set[int] = set()
            for row in found_here[found_here[:, 0] == of]:
                best, at = iou, -1
                for i in mine:
                    overlap = _iou(row[2:], here.corners[i], bool(here.crowd[i]))
                    if not here.crowd[i] and i not in taken and overlap >= best:
                        best, at = overlap, i
                if at >= 0:
                    taken.add(at)
                    listed.append((row[1], True))
                elif not any(
                    here.crowd[i] and _iou(row[2:], here.corners[i], True) >= iou for i in mine
                ):
                    listed.append((row[1], False))
        if not wanted:
            continue
        listed.sort(key=lambda item: -item[0])
        points = []
        for number in range(1, len(listed) + 1):
            hits = sum(right for _, right in listed[:number])
            points.append((hits / wanted, hits / number))
        areas.append(
            sum(
                max((p for r, p in points if r >= recall / 100 - 1e-12), default=0.0)
                for recall in range(101)
            )
            / 101
        )
    return sum(areas) / len(areas) if areas else 0.0


def _iou(a: NDArray[np.float64], b: NDArray[np.float64], crowd: bool) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    own, other = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    union = own if crowd else own + other - width * height
    return float(width * height / union)


@pytest.mark.parametrize("seed", range(12))
def test_the_authors_own_code_says_the_same(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """COCO's evaluation, on pictures with crowds, near misses and many classes."""
    rng = np.random.default_rng(seed)
    side, classes = 1000, 5
    images: list[Any] = []
    annotations: list[Any] = []
    detections: list[Any] = []
    left = rng.permutation(1000) / 1000
    found: list[Found] = []
    there: list[TrueBoxes] = []
    for picture in range(1, 9):
        images.append({"id": picture, "width": side, "height": side})
        count = int(rng.integers(0, 7))
        kinds = rng.integers(0, classes, count)
        low = rng.integers(0, 700, (count, 2))
        corners = np.concatenate([low, low + rng.integers(20, 300, (count, 2))], axis=1)
        crowd = rng.random(count) < 0.15
        there.append(TrueBoxes(kinds, corners / side, crowd))
        again = np.repeat(np.arange(count), 3)
        moved = corners[again] + rng.integers(-40, 41, (again.size, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        scores, left = left[: again.size], left[again.size :]  # no score twice: ties are open
        guessed = np.where(rng.random(again.size) < 0.8, kinds[again], rng.integers(0, classes))
        rows = np.column_stack([guessed, scores, moved / side])
        found.append(rows[np.argsort(-scores, kind="stable")])
        for kind, box, is_crowd in zip(kinds, corners, crowd, strict=True):
            x, y, right, below = map(float, box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture,
                    "category_id": int(kind) + 1,
                    "iscrowd": int(is_crowd),
                    "bbox": [x, y, right - x, below - y],
                    "area": (right - x) * (below - y),
                }
            )
        for kind, score, (x, y, right, below) in zip(guessed, scores, moved.tolist(), strict=True):
            detections.append(
                {
                    "image_id": picture,
                    "category_id": int(kind) + 1,
                    "score": float(score),
                    "bbox": [x, y, right - x, below - y],
                }
            )
    truth = COCO()
    categories = [{"id": kind + 1, "name": str(kind)} for kind in range(classes)]
    truth.dataset = {"info": {}, "images": images, "annotations": annotations}
    truth.dataset["categories"] = categories
    truth.createIndex()
    theirs = COCOeval(truth, truth.loadRes(detections), "bbox")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    capsys.readouterr()
    ours = average_precision(matched(found, there, IOUS), np.ones((1, len(found))))[0]
    assert ours.mean() == pytest.approx(theirs.stats[0], abs=1e-9)
    assert ours[0] == pytest.approx(theirs.stats[1], abs=1e-9)
