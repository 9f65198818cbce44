"""The models of an edge: a folder of ONNX files, canonicalised when first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from splitbed.engine import observed
from splitbed.errors import ModelUnknown, UsageError
from splitbed.graph import (
    CanonicalModel,
    CutPoint,
    LearnedPair,
    canonicalise,
    cut_points,
    load,
    load_pair,
)
from splitbed.pair import DESCRIPTION, find_folder
from splitbed.task import TaskSpec, description_file, shapes_to_bind, written_task

InputShapes = tuple[tuple[str, tuple[int, ...]], ...]
_Stamps = dict[Path, tuple[int, int] | None]

_MODELS_KEPT: Final = 8
"""Canonical models in memory at once; others are read again when they are asked for."""

_PAIRS_KEPT: Final = 8


class StoredModel(msgspec.Struct, frozen=True):
    """One model, ready to be cut."""

    canonical: CanonicalModel
    points: list[CutPoint]
    task: TaskSpec | None
    """Fitted to the model; None where nothing describes it."""


class _Kept(msgspec.Struct, frozen=True):
    model: StoredModel
    stamps: _Stamps
    """Of every file that it was made of: one that was replaced makes it another model."""


class _KeptPair(msgspec.Struct, frozen=True):
    pair: LearnedPair
    stamps: _Stamps


class ModelStore:
    """Finds models by name: the path below the folder, without `.onnx`, or its last part.

    `place` may also be one file; then that is the only model, named like the file without its
    ending, and a link is followed wherever it leads: the operator chose it. In a folder, links that
    lead out of it are no models, nor is what lies beside a `bottleneck.toml`: the two halves of a
    learned codec.
    """

    def __init__(self, place: Path) -> None:
        if not place.exists():
            raise UsageError(f"{place} is not there: give a model folder or file with --models")
        self._file = place.absolute() if place.is_file() else None
        self._folder = place.resolve()
        self._kept: OrderedDict[tuple[str, InputShapes], _Kept] = OrderedDict()
        self._pairs: OrderedDict[tuple[Path, str], _KeptPair] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Every model that `get` would find, sorted."""
        if self._file is not None:
            return [self._file.stem]
        found = (
            path.relative_to(self._folder).as_posix().removesuffix(".onnx")
            for path in self._folder.rglob("*.onnx")
        )
        return sorted(name for name in found if self._found(name) is not None)

    def get(self, name: str, input_shapes: InputShapes) -> StoredModel:
        """The model of this name; ModelUnknown, ModelError or TaskError where there is none."""
        path = self._path(name)
        with self._lock:
            key = (name, input_shapes)
            kept = self._kept.get(key)
            if kept is None or kept.stamps != _stamps(kept.stamps):
                kept = self._kept[key] = _prepare(path, input_shapes)
                while len(self._kept) > _MODELS_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return kept.model

    def pair(self, name: str, stored: StoredModel) -> LearnedPair:
        """The learned codec of this name: beside the model, else below the folder.

        As for models, the last part of its path will do where it is the only one. Raises
        ModelUnknown where there is none, UsageError for a name that none can have, and what
        `load_pair` raises.
        """
        model = stored.canonical.source.path
        folder = self._pair_folder(name, model)
        with self._lock:
            key = (folder, name)
            kept = self._pairs.get(key)
            if kept is None or kept.stamps != _stamps(kept.stamps):
                stamps = _stamps([folder / DESCRIPTION])
                pair = load_pair(folder, name, observed)
                # The description's was taken before it was read; the others have its digests.
                kept = self._pairs[key] = _KeptPair(pair, _stamps(pair.files) | stamps)
                while len(self._pairs) > _PAIRS_KEPT:
                    self._pairs.popitem(last=False)
            self._pairs.move_to_end(key)
            return kept.pair

    def _pair_folder(self, name: str, model: Path) -> Path:
        if self._file is not None:
            folder = find_folder(name, [self._file.parent])
        else:
            folder = find_folder(name, [model.parent, self._folder])
        if folder is None and self._file is None and "/" not in name:
            alike = [
                path.parent.relative_to(self._folder).as_posix()
                for path in sorted(self._folder.rglob(DESCRIPTION))
                if path.parent.name == name
            ]
            if len(alike) > 1:
                raise ModelUnknown(
                    f"this edge has several learned codecs '{name}', none of them beside "
                    f"'{model.stem}': {', '.join(alike)}"
                )
            folder = find_folder(alike[0], [self._folder]) if alike else None
        if folder is None:
            raise ModelUnknown(
                f"this edge has no learned codec '{name}' for '{model.stem}': put its folder, with "
                f"{DESCRIPTION} and both networks, beside the model"
            )
        return folder

    def _path(self, name: str) -> Path:
        path = self._found(name)
        names = [] if path is not None else self.names()
        if path is None and "/" not in name:
            # What runs knows a file's name, and not below which folder of ours it lies.
            alike = [other for other in names if other.endswith(f"/{name}")]
            if len(alike) > 1:
                raise ModelUnknown(f"this edge has several models '{name}': {', '.join(alike)}")
            path = self._found(alike[0]) if alike else None
        if path is None:
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ModelUnknown(
                f"this edge has no model '{name[:100]}': it has {shown or 'none at all'}; put the "
                "file into its model folder"
            )
        return path

    def _found(self, name: str) -> Path | None:
        """The file of a model. A name comes from the network: it never leads out of the folder."""
        if self._file is not None:
            return self._file if name == self._file.stem else None
        if any(part in ("", ".", "..") for part in name.split("/")):  # also what begins with `/`
            return None
        try:
            path = (self._folder / f"{name}.onnx").resolve()
            inside = self._folder in path.parents and path.is_file()
            is_half = path.with_name(DESCRIPTION).is_file()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
            return None
        return path if inside and not is_half else None


def _prepare(path: Path, input_shapes: InputShapes) -> _Kept:
    stamps = _stamps((path, description_file(path)))
    task = written_task(path)
    source = load(path)
    stamps |= _stamps(source.data_files)
    canonical = canonicalise(source, shapes_to_bind(task, dict(input_shapes)), observed)
    fitted = None if task is None else task.fitted(canonical.inputs)
    return _Kept(StoredModel(canonical, cut_points(canonical), fitted), stamps)


def _stamps(paths: Iterable[Path]) -> _Stamps:
    """Time of change and size of each file; None where there is none."""
    found: _Stamps = {}
    for path in paths:
        try:
            stat = path.stat()
            found[path] = (stat.st_mtime_ns, stat.st_size)
        except OSError:
            found[path] = None
    return found
