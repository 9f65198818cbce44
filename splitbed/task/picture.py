"""From a picture file to a model's input, in two steps that the network anchor can separate."""

from __future__ import annotations

from pathlib import Path
from typing import Final

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

    def picture(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resized and cropped as the task says: height x width x 3, uint8, RGB."""
        task, width, height = self._task, self._width, self._height
        sampling = _FILTERS[task.filter]
        if task.resize == "squash":
            if image.size != (width, height):
                image = image.resize((width, height), sampling)
        elif task.resize == "shorter":
            goal = task.shorter or min(width, height)
            scale = goal / min(image.size)
            size = (
                max(width, round(image.width * scale)),
                max(height, round(image.height * scale)),
            )
            if image.size != size:
                image = image.resize(size, sampling)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        else:
            scale = min(width / image.width, height / image.height)
            inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            if image.size != inner:
                image = image.resize(inner, sampling)
            canvas = Image.new("RGB", (width, height), (task.fill,) * 3)
            canvas.paste(image, ((width - inner[0]) // 2, (height - inner[1]) // 2))
            image = canvas
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
