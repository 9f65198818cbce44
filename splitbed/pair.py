"""Learned codecs as both nodes speak of them: a folder's name, an identity, a code's range."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from splitbed.errors import UsageError

DESCRIPTION: Final = "bottleneck.toml"
"""The file that makes a folder a learned codec; beside it lie encoder and decoder."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_MOST_NAME: Final = 200


class PairId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which pair of networks stands at a cut: how it is called, and the SHA-256 of both files."""

    name: str
    encoder_sha256: str
    decoder_sha256: str

    @property
    def digest(self) -> str:
        """SHA-256 of both digests: the pair's identity, whatever its folder is called."""
        both = self.encoder_sha256 + self.decoder_sha256
        return hashlib.sha256(both.encode()).hexdigest()


class CodeRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No element of this code tensor lies outside; UsageError for a range that is none."""

    tensor: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(
                f"a range of '{self.tensor[:80]}' goes from {self.low} to {self.high}: it needs "
                "low < high"
            )


Ranges = tuple[CodeRange, ...]


def check_name(name: str) -> None:
    """Raise UsageError for a name that no pair has: it comes from a person, or the network."""
    if len(name) > _MOST_NAME or not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name[:100]}' cannot be the name of a learned codec: it is the name of its folder, "
            "of letters, digits, dots, dashes and underscores, beginning with a letter or a digit"
        )


def find_folder(name: str, places: Iterable[Path]) -> Path | None:
    """The pair's folder in the first of some folders that has it; never one that leads out."""
    check_name(name)
    for place in places:
        try:
            base = place.resolve()
            folder = (base / name).resolve()
            if base in folder.parents and (folder / DESCRIPTION).is_file():
                return folder
        except (OSError, ValueError, RuntimeError):  # too long, links in a circle
            continue
    return None
