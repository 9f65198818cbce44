"""What a run leaves when the disk has no room for its end."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.measurement import finish
from splitbed.errors import StorageFull
from splitbed.run_folder import RunFolder
from tests.unit import queues
from tests.unit.test_summary import MANIFEST


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow beyond a hundred bytes; the one that pytest reports to neither."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_rows_outlive_a_manifest_that_cannot_be_finished(tmp_path: Path) -> None:
    folder = RunFolder(queues.run(tmp_path / "run", queues.rows(30, 80)))
    first = (folder.folder / "manifest.json").read_bytes()
    with pytest.raises(StorageFull) as refused, small_disk():
        finish(folder, MANIFEST)
    text = str(refused.value)
    assert f"30 rows are safe in {folder.frames('device')}: free some space" in text
    assert (folder.folder / "manifest.json").read_bytes() == first


def test_a_run_that_has_no_rows_yet(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="but 0 rows are safe"), small_disk():
        finish(RunFolder(tmp_path), MANIFEST)
