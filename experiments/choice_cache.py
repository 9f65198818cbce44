"""What `auto` found before, kept in the user's cache: the same search is made once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from experiments.codec_families import VERSION, families_for
from experiments.codec_search import CodecChoice
from experiments.files import written
from experiments.pictures import PictureSet, digests
from experiments.preparation import PreparedCut, PreparedModel
from splitbed.codec import Target
from splitbed.errors import RecordError
from splitbed.task import task_json
from splitbed.tensor import canonical_json


def cache_folder() -> Path:
    """As the XDG base directory specification has it."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "splitbed" / "auto"


def choice_key(
    model: PreparedModel, cut: PreparedCut, pictures: PictureSet, target: Target, seed: int
) -> str:
    """SHA-256 of all that a search depends on: what it may try, on what, and what it may cost."""
    of_file = digests(pictures.paths)
    return hashlib.sha256(
        canonical_json(
            {
                "version": VERSION,
                "families": families_for(cut.cut),
                "model": model.canonical.id.digest,
                "task": task_json(model.task),
                "cut": cut.cut,
                "pictures": [
                    (of_file[path], pictures.labels.get(path.name)) for path in pictures.paths
                ],
                "target": target,
                "seed": seed,
            }
        )
    ).hexdigest()


class ChoiceCache:
    """A folder with a file for each search; one that cannot be read or kept is done without."""

    def __init__(self, folder: Path | None) -> None:
        """None: nothing is read or kept."""
        self._folder = folder

    def choice(self, key: str, search: Callable[[], CodecChoice]) -> CodecChoice:
        """What was found before, or what `search` finds now, which is kept."""
        if self._folder is None:
            return search()
        path = self._folder / f"{key}.json"
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(path.read_bytes(), type=CodecChoice)
        found = search()
        try:
            with contextlib.suppress(FileExistsError):
                self._folder.mkdir(parents=True)
            written(path, msgspec.json.encode(found))
        except (OSError, RecordError) as error:
            sys.stderr.write(f"splitbed: what auto found is not kept for the next time: {error}\n")
        return found
