"""The embedded model by its name alone, and pictures for it: what a run has that was given none."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from experiments.gestures import CALIBRATION_SEED, HELD_OUT_SEED, write_folder
from splitbed.errors import RecordError, UsageError
from splitbed.task import models_folder

EMBEDDED: Final = "gesture"
_PICTURES: Final = 100
"""Measured where nobody says how many."""


def model_file(path: Path) -> Path:
    """The embedded model for its name where no such file is, and for anything else itself."""
    if str(path) == EMBEDDED and not path.is_file():
        return models_folder() / EMBEDDED / f"{EMBEDDED}.onnx"
    return path


def is_embedded(model: Path) -> bool:
    """Whether pictures can be rendered for a model, by its name."""
    return model.stem == EMBEDDED


def rendered_pictures(model: Path, folder: Path, frames: int | None, calibration: int) -> Path:
    """A folder of pictures of hand gestures, rendered from a seed, with labels.

    Enough for `frames` of them to be measured, and for `calibration` others. UsageError for a model
    that knows no gestures.
    """
    if not is_embedded(model):
        raise UsageError(f"{model.name} needs pictures to run on: give a folder with --images")
    # At most a third of a set is kept aside for calibration.
    count = max((frames or _PICTURES) + calibration, 3 * calibration)
    return _rendered(folder / "rendered", HELD_OUT_SEED, count, "let TMPDIR name another folder")


class Apart(NamedTuple):
    """Folders of pictures to measure, and of others to calibrate from.

    So all runs measure the same ones, whether their codec is calibrated or not.
    """

    measured: Path
    calibration: Path

    def render(self, frames: int | None, calibration: int) -> None:
        """Pictures of hand gestures as in `rendered_pictures`, in both."""
        elsewhere = "keep them in another folder"
        _rendered(self.measured, HELD_OUT_SEED, frames or _PICTURES, elsewhere)
        _rendered(self.calibration, CALIBRATION_SEED, calibration, elsewhere)


def _rendered(folder: Path, seed: int, count: int, elsewhere: str) -> Path:
    try:
        write_folder(folder, seed, count)
    except OSError as error:
        raise RecordError(
            f"cannot keep pictures in {folder}: {error.strerror}; free some space, or {elsewhere}"
        ) from error
    return folder
