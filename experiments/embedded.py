"""The embedded model by its name alone, and pictures for it: what a run has that was given none."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from experiments.gestures import HELD_OUT_SEED, write_folder
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


def rendered_pictures(model: Path, folder: Path, frames: int | None, calibration: int) -> Path:
    """A folder of pictures of hand gestures, rendered from a seed, with labels.

    Enough for `frames` of them to be measured, and for `calibration` others. UsageError for a model
    that knows no gestures.
    """
    if model.stem != EMBEDDED:
        raise UsageError(f"{model.name} needs pictures to run on: give a folder with --images")
    pictures = folder / "rendered"
    # At most a third of a set is kept aside for calibration.
    count = max((frames or _PICTURES) + calibration, 3 * calibration)
    try:
        write_folder(pictures, HELD_OUT_SEED, count)
    except OSError as error:
        raise RecordError(
            f"cannot keep pictures in {pictures}: {error.strerror}; free some space, or let TMPDIR "
            "name another folder"
        ) from error
    return pictures
