"""Sets of pictures with their labels, and which of them a calibration may see."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from splitbed.errors import UsageError
from splitbed.task import picture_files


class PictureSet(msgspec.Struct, frozen=True):
    """Pictures in a fixed order; `labels` holds the class of those that have one."""

    paths: tuple[Path, ...]
    labels: dict[str, int]
    """By file name; empty where nothing is known."""

    def spread(self, count: int) -> tuple[Path, ...]:
        """`count` pictures evenly spaced through the set (all of it where it has no more).

        Sets are often sorted by class, so the first few would be all of one.
        """
        return tuple(self.paths[place] for place in evenly(len(self.paths), count))

    def without(self, taken: Sequence[Path]) -> PictureSet:
        """The same set less some pictures."""
        gone = set(taken)
        return PictureSet(tuple(p for p in self.paths if p not in gone), self.labels)


def evenly(size: int, count: int) -> list[int]:
    """`count` of `size` places, evenly spaced; all of them where there are no more."""
    count = min(size, count)
    return [i * size // count for i in range(count)]


def read_pictures(folder: Path, labels: Path | None) -> PictureSet:
    """All pictures of a folder by name, with `labels.tsv` in it unless another file is given.

    A label file has a file name and a class index in its first two columns, separated by tabs; a
    first line without a class index is a header. Raises UsageError.
    """
    found = tuple(picture_files(folder))
    path = labels or folder / "labels.tsv"
    if labels is None and not path.is_file():
        return PictureSet(found, {})
    return PictureSet(found, _read_labels(path))


def _read_labels(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the labels {path}: {error}") from error
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if len(cells) < 2 or not cells[1].removeprefix("-").isdecimal():
            if number == 1:
                continue
            raise UsageError(
                f"line {number} of {path} should hold a file name, a tab and a class index"
            )
        found[cells[0]] = int(cells[1])
    return found


def digests(paths: Sequence[Path]) -> dict[Path, str]:
    """SHA-256 of each file; UsageError for one that cannot be read."""
    found = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                found[path] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UsageError(f"cannot read the picture {path}: {error.strerror}") from error
    return found


def hold_out(pictures: PictureSet, count: int, seed: int) -> tuple[Path, ...]:
    """Pictures for calibration, drawn from the set by a seed; at most a third of it."""
    count = min(count, len(pictures.paths) // 3)
    if count == 0:
        raise UsageError(
            f"{len(pictures.paths)} pictures are too few to keep some for calibration: give others "
            "with --calibration-images, or a file with --calibration"
        )
    return tuple(random.Random(seed).sample(pictures.paths, count))


def folds(pictures: PictureSet, count: int, seed: int) -> tuple[tuple[Path, ...], ...]:
    """The pictures in `count` groups of equal size, to within one, drawn by a seed.

    What is evaluated on one group is calibrated from the others, so that every picture counts once
    and none is seen by its own calibration. UsageError for fewer pictures than groups.
    """
    if len(pictures.paths) < count:
        raise UsageError(
            f"{len(pictures.paths)} pictures are too few for {count} folds: give more pictures, or "
            "fewer folds with --folds"
        )
    mixed = random.Random(seed).sample(pictures.paths, len(pictures.paths))
    return tuple(tuple(mixed[group::count]) for group in range(count))
