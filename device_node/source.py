"""Where frames come from: picture files, in a fixed order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from splitbed.errors import UsageError
from splitbed.task import picture_files, read_picture

_KEPT_BYTES: Final = 64 << 20


def list_pictures(images: Path | None, listing: Path | None) -> list[Path]:
    """The pictures of a folder by name, or those that a text file lists, one path a line."""
    if listing is not None:
        try:
            lines = listing.read_bytes().split(b"\n")
        except OSError as error:
            raise UsageError(
                f"cannot read the list of pictures {listing}: {error.strerror}"
            ) from error
        listed = [Path(os.fsdecode(line)) for line in lines if line.strip()]
        if not listed:
            raise UsageError(f"the list of pictures {listing} is empty: write one path a line")
        return listed
    if images is None:
        raise UsageError("the device needs pictures: give a folder with --images")
    if images.is_file():
        return [images]
    return picture_files(images)


class Camera:
    """Decoded pictures, the first `kept_bytes` of them kept.

    Reading a file stands for a camera, and a camera does not compete with the head for a core:
    where pictures come again, they are decoded once.
    """

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._left_bytes = kept_bytes
        self._kept: dict[Path, Any] = {}

    def read(self, path: Path) -> Any:
        """One picture, as `splitbed.task.read_picture`; PictureUnreadable where there is none."""
        image = self._kept.get(path)
        if image is None:
            image = read_picture(path)
            size = 3 * image.width * image.height
            if size <= self._left_bytes:
                self._left_bytes -= size
                self._kept[path] = image
        return image
