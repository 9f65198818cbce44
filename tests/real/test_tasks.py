"""Boxes and key points of the uncut models are as good as the data's own README states."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from experiments.cut_rule import branched_cuts_by_rule
from experiments.preparation import prepare_model
from experiments.task_metric import find_metric, read_labelled
from splitbed.engine import Engine
from splitbed.graph import list_cuts
from splitbed.task import KeyPointFinder


@pytest.mark.parametrize("given", [None, "boxes_coco.json"])
def test_nanodet_reaches_its_average_precision(data: Path, given: str | None) -> None:
    """Stated: AP 50:95 of 0.259, AP 50 of 0.422, by another evaluation and another resize."""
    folder = data / "images" / "coco_val2017_128"
    model = prepare_model(data / "models" / "nanodet_m_416.onnx")
    labels = None if given is None else folder / given
    pictures = read_labelled(model, folder / "images", labels)
    metric = find_metric(model, pictures)
    assert metric.labelled == 128
    assert sum(len(boxes.classes) for boxes in pictures.boxes.values()) == 898
    engine = model.canonical.file().opened(partial(Engine, threads=1))
    answers = []
    for place, path in enumerate(pictures.paths):
        outputs = dict(zip(engine.outputs, engine.run(model.feeds(path)), strict=True))
        answers.append(metric.answer(place, outputs))
    metric.compare_with(answers)
    score = metric.score(answers)
    assert score.agreement.pct == 100
    assert score.accuracy is not None
    assert 25.9 <= score.accuracy.pct < 26.7
    ap50 = getattr(score, "ap50", None)
    assert ap50 is not None
    assert 42.2 <= ap50.pct < 43.4


def test_nanodet_is_cut_where_its_pyramid_has_several_tensors(data: Path) -> None:
    model = prepare_model(data / "models" / "nanodet_m_416.onnx")
    found = branched_cuts_by_rule(list_cuts(model.canonical))
    assert [(cut.share_pct, cut.is_near, cut.nbytes) for cut in found] == [
        (50, True, 1_881_984),
        (75, True, 1_611_584),
    ]


def test_posenet_finds_the_key_points_of_its_publisher(data: Path) -> None:
    """Two people: all 30 key points of a score of 0.6 are near, half of them within 1.7 pixels."""
    folder = data / "images" / "pose_reference"
    rows = np.loadtxt(next(folder.glob("*.csv")), delimiter=",", skiprows=1)
    model = prepare_model(data / "models" / "posenet_mobilenet_v1_0.75_353x481.onnx")
    task = model.task
    assert task.key_points is not None
    assert task.size is not None
    finder = KeyPointFinder(task.key_points, task.size, model.canonical.outputs)
    engine = model.canonical.file().opened(partial(Engine, threads=1))
    feeds = model.feeds(folder / "test_image.bmp")
    outputs = dict(zip(engine.outputs, engine.run(feeds), strict=True))
    distances: list[float] = []
    for pose in (0, 1):
        wanted = rows[rows[:, 0] == pose]
        found = finder.find_near(outputs, wanted[:, [4, 5, 3]])
        off = (found[:, :2] - wanted[:, [4, 5]]) * [task.size[1], task.size[0]]
        distances += np.hypot(off[:, 0], off[:, 1])[wanted[:, 3] >= 0.6].tolist()
    assert len(distances) == 30
    assert max(distances) < 8
    assert np.median(distances) < 1.7
    # Of the best places in the whole picture each is near one of the two people.
    best = finder.find(outputs)
    off = (best[:, :2] - rows[:, [4, 5]].reshape(2, 17, 2)) * [task.size[1], task.size[0]]
    assert np.hypot(off[..., 0], off[..., 1]).min(axis=0).max() < 8
