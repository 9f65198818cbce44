"""What is in pictures, as people wrote it down: YOLO text files or a COCO file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from experiments.average_precision import TrueBoxes
from splitbed.errors import UsageError

_FORMATS = (
    "a folder of YOLO text files named like the pictures, or a COCO .json file with images and "
    "annotations"
)


class _Picture(msgspec.Struct):
    id: int
    file_name: str
    width: int
    height: int


class _Category(msgspec.Struct):
    id: int


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    """Left, top, width, height in pixels."""
    iscrowd: int = 0


class _Coco(msgspec.Struct):
    images: list[_Picture]
    annotations: list[_Annotation]
    categories: list[_Category] = []


def box_labels(
    folder: Path, labels: Path | None, pictures: Sequence[Path], classes: int
) -> dict[str, TrueBoxes]:
    """What is in the pictures of `folder`, by file name, for a model of so many classes.

    Without `labels`, a folder `labels` in that of the pictures or beside it is taken, if there is
    one; else nothing is known, and the answer is empty. UsageError says which line is wrong.
    """
    if labels is None:
        places = (folder / "labels", folder.resolve().parent / "labels")
        labels = next((place for place in places if any(place.glob("*.txt"))), None)
        if labels is None:
            return {}
    if labels.is_dir():
        found = _from_texts(labels, pictures, classes)
    elif labels.is_file():
        found = _from_coco(labels, pictures, classes)
    else:
        raise UsageError(f"the labels {labels} are not there: give {_FORMATS}")
    if not found:
        raise UsageError(
            f"the labels {labels} know none of the {len(pictures)} pictures in {folder}: give "
            f"{_FORMATS}"
        )
    return found


def _from_texts(labels: Path, pictures: Sequence[Path], classes: int) -> dict[str, TrueBoxes]:
    """A picture without a file has nothing in it, as YOLO has it, if any has one."""
    files = {path: labels / f"{path.stem}.txt" for path in pictures}
    if not any(file.is_file() for file in files.values()):
        return {}
    return {
        path.name: _from_text(file, classes) if file.is_file() else _boxes([], [])
        for path, file in files.items()
    }


def _from_text(path: Path, classes: int) -> TrueBoxes:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the labels {path}: {error}") from error
    of: list[int] = []
    corners: list[tuple[float, ...]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            first, *rest = line.split()
            index, (x, y, width, height) = int(first), map(float, rest)
        except ValueError:
            raise UsageError(
                f"{where}: a box is written as class, centre x, centre y, width, height, with "
                "spaces between them and relative to the picture"
            ) from None
        of.append(_known(index, classes, where))
        corners.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        _check(corners[-1], where)
    return _boxes(of, corners)


def _from_coco(path: Path, pictures: Sequence[Path], classes: int) -> dict[str, TrueBoxes]:
    """Only pictures that the file lists are known."""
    try:
        coco = msgspec.json.decode(path.read_bytes(), type=_Coco)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"cannot read the labels {path}: {error}; give {_FORMATS}") from error
    index = _indices(coco, classes, path)
    by_picture: dict[int, list[_Annotation]] = {}
    for item in coco.annotations:
        by_picture.setdefault(item.image_id, []).append(item)
    names = {picture.name for picture in pictures}
    found = {}
    for listed in coco.images:
        name = Path(listed.file_name).name
        if name not in names:
            continue
        if listed.width < 1 or listed.height < 1:
            raise UsageError(f"{path}: the picture {name} has no size")
        of, corners, crowd = [], [], []
        for item in by_picture.get(listed.id, ()):
            where = f"{path}, a box of {name}"
            of.append(index.get(item.category_id, -1))
            if of[-1] < 0:
                raise UsageError(f"{where}: category {item.category_id} is in no list of them")
            left, top, width, height = item.bbox
            box = (
                *(left / listed.width, top / listed.height),
                *((left + width) / listed.width, (top + height) / listed.height),
            )
            _check(box, where)
            corners.append(box)
            crowd.append(bool(item.iscrowd))
        found[name] = _boxes(of, corners, crowd)
    return found


def _indices(coco: _Coco, classes: int, path: Path) -> Mapping[int, int]:
    """Categories in the order of their numbers are the classes: COCO's own leave numbers out."""
    if not coco.categories:
        return {number: number for number in range(classes)}
    numbers = sorted(category.id for category in coco.categories)
    if len(numbers) != classes:
        raise UsageError(
            f"{path} has {len(numbers)} categories where the model knows {classes} classes: is it "
            "the right label file for this model?"
        )
    return {number: at for at, number in enumerate(numbers)}


def _known(index: int, classes: int, where: str) -> int:
    if not 0 <= index < classes:
        raise UsageError(
            f"{where}: class {index}, and the model knows classes 0 to {classes - 1}: is it the "
            "right label file for this model?"
        )
    return index


def _check(corners: Sequence[float], where: str) -> None:
    """Boxes may stick out a little, by rounding or where a thing goes on; pixels do not pass."""
    left, top, right, bottom = corners
    if not (-1 <= left <= right <= 2 and -1 <= top <= bottom <= 2):
        raise UsageError(f"{where}: the box lies outside of the picture: give a box within it")


def _boxes(
    of: Sequence[int], corners: Sequence[Sequence[float]], crowd: Sequence[bool] = ()
) -> TrueBoxes:
    return TrueBoxes(
        classes=np.array(of, np.int64),
        corners=np.array(corners, np.float64).reshape(-1, 4),
        crowd=np.array(crowd or [False] * len(of), np.bool_),
    )
