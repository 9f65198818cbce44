"""Where frames come from: picture files, in a fixed order."""

from __future__ import annotations

import os
from pathlib import Path

from splitbed.errors import UsageError
from splitbed.task import picture_files


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
