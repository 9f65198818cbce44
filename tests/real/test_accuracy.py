"""The uncut models give the accuracy that the data's own README states, through our preprocessing.

The figures belong to the data: `top1` and `top5` are counts of right pictures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.pictures import read_pictures
from experiments.preparation import prepare_model, reference

CASES = [
    ("mobilenet_v2_1.0_224", "imagenet", "labels.tsv", 109, 122, 124),
    ("mobilenet_v1_0.5_160", "imagenet", "labels.tsv", 84, 105, 124),
    ("mobilenet_v1_0.25_128", "imagenet", "labels.tsv", 61, 91, 124),
    ("resnet20_cifar10", "cifar10_test_1000", "labels.tsv", 804, None, 1000),
    ("resnet56_cifar10", "cifar10_test_1000", "labels.tsv", 825, None, 1000),
    ("resnet8_cifar10", "cifar10_test_1000", "labels.tsv", 751, None, 1000),
    ("vww_mobilenet_v1_0.25_96", "coco_val2017_128", "person_labels.tsv", 111, None, 128),
]


@pytest.mark.parametrize(("name", "images", "labels", "top1", "top5", "count"), CASES)
def test_stated_accuracy(
    data: Path, name: str, images: str, labels: str, top1: int, top5: int | None, count: int
) -> None:
    folder = data / "images" / images
    photos = folder / "images" if (folder / "images").is_dir() else folder
    pictures = read_pictures(photos, folder / labels)
    model = prepare_model(data / "models" / f"{name}.onnx")
    answers = reference(model, pictures.paths, 0, keep_outputs=False).answers
    assert len(answers) == count
    assert sum(answers[p]["label"] == label for p, label in pictures.labels.items()) == top1
    if top5 is not None:
        found = sum(label in answers[p]["top"] for p, label in pictures.labels.items())
        assert found == top5
