"""Which measure fits a model's answers, and the labels that it takes."""

from __future__ import annotations

from pathlib import Path

import msgspec
from PIL import Image

from experiments.average_precision import TrueBoxes
from experiments.box_labels import box_labels
from experiments.box_metric import BoxMetric
from experiments.class_metric import ClassMetric
from experiments.key_point_metric import KeyPointMetric
from experiments.output_metric import OutputMetric
from experiments.pictures import PictureSet, read_pictures
from experiments.planning import check_labels
from experiments.preparation import PreparedModel
from experiments.score import Answer, PooledScore, Score, TaskMetric, Terms
from splitbed.errors import PictureUnreadable, UsageError
from splitbed.task import BoxFinder, picture_files

__all__ = [
    "Answer",
    "LabelledPictures",
    "PooledScore",
    "Score",
    "TaskMetric",
    "Terms",
    "find_metric",
    "read_labelled",
]


class LabelledPictures(PictureSet, frozen=True):
    """Pictures with what is known of them, in the form that the model's answers have."""

    boxes: dict[str, TrueBoxes] = msgspec.field(default_factory=dict)
    """By file name; of a picture that is not in there nothing is known."""


def read_labelled(model: PreparedModel, folder: Path, labels: Path | None) -> LabelledPictures:
    """The pictures of a folder, and the labels that fit the model's task.

    Classes: a file (`read_pictures`). Boxes: a file or a folder (`box_labels`). Other answers have
    none. UsageError where labels do not fit.
    """
    task = model.task
    if task.output == "argmax":
        pictures = read_pictures(folder, labels)
        check_labels(model, pictures)
        return LabelledPictures(pictures.paths, pictures.labels)
    paths = tuple(picture_files(folder))
    if task.boxes is not None and task.size is not None:
        classes = BoxFinder(task.boxes, task.size, model.canonical.outputs).classes
        return LabelledPictures(paths, {}, box_labels(folder, labels, paths, classes))
    if labels is not None:
        raise UsageError(
            f"--labels {labels}: the answers of {model.name} are compared with those of the uncut "
            "model alone: leave it out"
        )
    return LabelledPictures(paths, {})


def find_metric(model: PreparedModel, pictures: PictureSet, seed: int = 0) -> TaskMetric:
    """The measure for a model's task; `seed` is of the intervals that need one."""
    if model.task.output == "argmax":
        return ClassMetric(model, [pictures.labels.get(path.name) for path in pictures.paths])
    if model.task.output == "boxes":
        known = pictures.boxes if isinstance(pictures, LabelledPictures) else {}
        sizes = [_size(path) for path in pictures.paths]
        return BoxMetric(model, sizes, [known.get(path.name) for path in pictures.paths], seed)
    if model.task.output == "key_points":
        return KeyPointMetric(model)
    return OutputMetric(model, len(pictures.paths))


def _size(path: Path) -> tuple[int, int]:
    """Width and height, of which only the file's head is read."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureUnreadable(f"the picture {path} cannot be read ({error})") from error
