"""Outputs of the uncut model, which the device compares its own with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from splitbed.errors import RecordError
from splitbed.tensor import Array


def open_reference(path: Path | None) -> Callable[[str], Mapping[str, Array] | None]:
    """Outputs of the uncut model by picture, from a file with keys `PICTURE/OUTPUT`."""
    if path is None:
        return lambda _: None
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read the reference {path}: {error}") from error
    keys: dict[str, list[str]] = {}
    for key in archive.files:
        keys.setdefault(key.partition("/")[0], []).append(key)

    def find(source: str) -> Mapping[str, Array] | None:
        if source not in keys:
            return None
        return {key.partition("/")[2]: archive[key] for key in keys[source]}

    return find
