"""What people wrote down of what is in pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.box_labels import box_labels
from splitbed.errors import UsageError

PICTURES = [Path("photos/a.jpg"), Path("photos/b.png"), Path("photos/c.jpg")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def coco(path: Path, **changes: Any) -> Path:
    made = {
        "info": {},
        "images": [
            {"id": 7, "file_name": "val/a.jpg", "width": 200, "height": 100},
            {"id": 8, "file_name": "b.png", "width": 10, "height": 10},
            {"id": 9, "file_name": "elsewhere.jpg", "width": 10, "height": 10},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 90, "bbox": [20, 10, 60, 50], "area": 1, "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 200, 100], "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 3}],
    }
    path.write_text(json.dumps(made | changes))
    return path


@pytest.mark.parametrize("place", ["images/labels", "labels"])
def test_yolo_files_are_found_beside_the_pictures(folder: Path, place: str) -> None:
    write(folder.parent / place, a="2 0.5 0.25 0.2 0.1\n\n0 0.1 0.1 0.2 0.2\n", b="")
    found = box_labels(folder, None, PICTURES, 3)
    # A picture without a file has nothing in it.
    assert {name: len(boxes.classes) for name, boxes in found.items()} == {
        "a.jpg": 2,
        "b.png": 0,
        "c.jpg": 0,
    }
    assert found["a.jpg"].classes.tolist() == [2, 0]
    np.testing.assert_allclose(
        found["a.jpg"].corners, [[0.4, 0.2, 0.6, 0.3], [0, 0, 0.2, 0.2]], atol=1e-12
    )
    assert found["b.png"].corners.shape == (0, 4)


def test_nothing_is_known_where_nothing_is_written(folder: Path) -> None:
    assert box_labels(folder, None, PICTURES, 3) == {}


def test_a_coco_file(folder: Path, tmp_path: Path) -> None:
    found = box_labels(folder, coco(tmp_path / "boxes.json"), PICTURES, 3)
    # c.jpg is not listed: nothing is known of it.
    assert sorted(found) == ["a.jpg", "b.png"]
    first = found["a.jpg"]
    assert first.classes.tolist() == [2, 0]  # the third and the first of the categories' numbers
    assert first.crowd.tolist() == [False, True]
    np.testing.assert_allclose(first.corners, [[0.1, 0.1, 0.4, 0.6], [0.0, 0.0, 1.0, 1.0]])
    assert len(found["b.png"].classes) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0.5 0.5 0.1\n", r"a.txt, line 1: a box is written as class, centre x"),
        ("0 0.5 0.5 0.1 0.1\nx 1 1 1 1\n", "a.txt, line 2: a box is written"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3\n", "a.txt, line 1: a box is written"),
        ("3 0.5 0.5 0.1 0.1\n", "line 1: class 3, and the model knows classes 0 to 2"),
        ("-1 0.5 0.5 0.1 0.1\n", "class -1"),
        ("0 200 100 50 50\n", "line 1: the box lies outside of the picture"),
        ("0 0.5 nan 0.1 0.1\n", "line 1: the box lies outside"),
        ("0 0.5 0.5 -0.1 0.1\n", "line 1: the box lies outside"),
    ],
)
def test_mistakes_in_yolo_files(folder: Path, text: str, words: str) -> None:
    write(folder / "labels", a=text)
    with pytest.raises(UsageError, match=words):
        box_labels(folder, None, PICTURES, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": 5}, "cannot read the labels .*boxes.json"),
        ({"categories": [{"id": 1}]}, "has 1 categories where the model knows 3 classes"),
        (
            {"annotations": [{"image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1]}]},
            "a box of a.jpg: category 2 is in no list",
        ),
        (
            {"annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 900, 1]}]},
            "a box of a.jpg: the box lies outside",
        ),
        ({"images": []}, "know none of the 3 pictures"),
        (
            {"images": [{"id": 7, "file_name": "a.jpg", "width": 0, "height": 1}]},
            "the picture a.jpg has no size",
        ),
    ],
)
def test_mistakes_in_a_coco_file(
    folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    labels = coco(tmp_path / "boxes.json", **changes)
    with pytest.raises(UsageError, match=words):
        box_labels(folder, labels, PICTURES, 3)


def test_labels_that_are_not_there_or_of_other_pictures(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent are not there: give a folder of YOLO"):
        box_labels(folder, tmp_path / "absent", PICTURES, 3)
    with pytest.raises(UsageError, match="know none of the 3 pictures"):
        box_labels(folder, write(tmp_path / "other", z="0 0.5 0.5 1 1"), PICTURES, 3)
