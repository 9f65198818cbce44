"""Files that a command leaves: whole or not at all, with a sentence where the disk refuses."""

from __future__ import annotations

import errno
from pathlib import Path

from splitbed.errors import RecordError, StorageFull
from splitbed.graph import Replacing, write_all


def written(path: Path, content: bytes) -> int:
    """Write `content` to `path` and tell its size; what was there stays until all is written."""
    try:
        with Replacing(path) as file:
            write_all(file, content)
    except OSError as error:
        raise refused(path, error) from error
    return len(content)


def refused(path: Path, error: OSError) -> RecordError:
    """The error for a path that cannot be written."""
    kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else RecordError
    return kind(f"cannot write {path}: {error.strerror}")
