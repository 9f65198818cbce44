"""From a picture file to a model's input, in two steps that the network anchor can separate."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitbed.errors import PictureUnreadable, TaskError, UsageError
from splitbed.task.spec import TaskSpec
from splitbed.tensor import Array, DType

_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


SUFFIXES: Final = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What counts as a picture file, by the end of its name."""


def picture_files(folder: Path) -> list[Path]:
    """The picture files of a folder, by name; UsageError where there is none."""
    if not folder.is_dir():
        raise UsageError(f"the folder of pictures {folder} is not there")
    try:
        found = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
        )
    except OSError as error:
        raise UsageError(f"cannot read the folder {folder}: {error.strerror}") from error
    if not found:
        raise UsageError(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    return found


def read_picture(path: Path) -> Image.Image:
    """A picture file as RGB, decoded completely; PictureUnreadable otherwise."""
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I;16"):
                deep = np.asarray(picture)
                return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
            return picture.convert("RGB")
    except FileNotFoundError as error:
        raise PictureUnreadable(f"the picture {path} is not there") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureUnreadable(
            f"the picture {path} cannot be read ({error}): remove it from the folder or replace it"
        ) from error


class Placement(NamedTuple):
    """Where a whole picture lies in a model's input, in pixels; a crop leaves some of it outside.

    `width` and `height` are what the picture is resized to.
    """

    left: int
    top: int
    width: int
    height: int


class Preprocessor:
    """Applies a fitted task: `picture` does the geometry, `tensor` the numbers."""

    def __init__(self, task: TaskSpec, dtype: DType = "float32") -> None:
        if task.size is None:
            raise TaskError("task: size is not known; give size = [height, width]")
        self._task = task
        self._height, self._width = task.size
        self._dtype = np.dtype(dtype)
        self._mean = np.asarray(task.mean, np.float32)
        self._std = np.asarray(task.std, np.float32)

    def placement(self, width: int, height: int) -> Placement:
        """Where a picture of this size comes to lie."""
        task = self._task
        if task.resize == "squash":
            return Placement(0, 0, self._width, self._height)
        if task.resize == "shorter":
            scale = (task.shorter or min(self._width, self._height)) / min(width, height)
            inner = (
                max(self._width, round(width * scale)),
                max(self._height, round(height * scale)),
            )
            left, top = (inner[0] - self._width) // 2, (inner[1] - self._height) // 2
            return Placement(-left, -top, *inner)
        scale = min(self._width / width, self._height / height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        return Placement(
            (self._width - inner[0]) // 2, (self._height - inner[1]) // 2, inner[0], inner[1]
        )

    def picture(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resized and cropped as the task says: height x width x 3, uint8, RGB."""
        left, top, *inner = self.placement(image.width, image.height)
        if image.size != tuple(inner):
            image = image.resize((inner[0], inner[1]), _FILTERS[self._task.filter])
        if image.size != (self._width, self._height) or left or top:
            if self._task.resize == "letterbox":
                canvas = Image.new("RGB", (self._width, self._height), (self._task.fill,) * 3)
                canvas.paste(image, (left, top))
                image = canvas
            else:
                image = image.crop((-left, -top, self._width - left, self._height - top))
        return np.asarray(image)

    def tensor(self, picture: Array) -> Array:
        """(p - mean) / std in the model's layout and type, batch of one.

        `picture` is height x width x 3, uint8, RGB.
        """
        colour = self._task.colour
        if colour == "Y":
            # Pillow's own luma (BT.601, full range), so that Y means what it means to Pillow.
            luma = Image.fromarray(picture.astype(np.uint8, copy=False)).convert("YCbCr")
            pixels: Array = np.asarray(luma)[:, :, :1]
        else:
            pixels = picture if colour == "RGB" else picture[:, :, ::-1]
        values = pixels.astype(np.float32)
        values -= self._mean
        values /= self._std
        if self._task.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[np.newaxis], dtype=self._dtype)
