"""A bounded folder of TensorRT engines, one folder inside for each partition."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Final

MOST_FOLDERS: Final = 64
MOST_BYTES: Final = 4_000_000_000

_TENSORRT: Final = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")


class EngineCache:
    """Gives each partition a folder of its own and lets the least recently used go.

    ONNX Runtime names an engine's file after the graph's names and not after its weights, so two
    partitions in one folder could take each other's engines; and it reloads an engine of another
    version without asking. Hence the key: the partition's digest and the versions that matter.
    Engines are code: the folder is this user's alone.
    """

    def __init__(
        self, folder: Path, *, most_folders: int = MOST_FOLDERS, most_bytes: int = MOST_BYTES
    ) -> None:
        self._folder = folder
        self._most_folders, self._most_bytes = most_folders, most_bytes

    def folder_for(self, sha256: str) -> Path:
        """The folder of this partition's engines; exists, and is now the one used last."""
        key = "\n".join((sha256, *_versions()))
        own = self._folder / hashlib.sha256(key.encode()).hexdigest()[:40]
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(own)
        self._prune(own)
        return own

    def forget(self, own: Path) -> bool:
        """Empty one partition's folder, whose engines could not be used; False if it was empty."""
        if own.parent != self._folder or not any(own.iterdir()):
            return False
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(mode=0o700, exist_ok=True)
        return True

    def _prune(self, keep: Path) -> None:
        folders = [one for one in self._folder.iterdir() if one.is_dir() and one != keep]
        folders.sort(key=_used, reverse=True)
        held, count = _size(keep), 1
        for folder in folders:
            held, count = held + _size(folder), count + 1
            if count > self._most_folders or held > self._most_bytes:
                shutil.rmtree(folder, ignore_errors=True)


def _versions() -> list[str]:
    found = []
    for name in ("onnxruntime-gpu", "onnxruntime", *_TENSORRT):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _used(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _size(folder: Path) -> int:
    try:
        return sum(one.stat().st_size for one in folder.iterdir() if one.is_file())
    except OSError:
        return 0
