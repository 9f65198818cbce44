"""Arrays kept in memory or in a file: the same face, and nothing left behind."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from experiments.kept_arrays import KeptArrays
from splitbed.errors import StorageFull
from splitbed.tensor import Array, TensorSpec

SPECS = (
    TensorSpec("a", "float32", (1, 3, 5)),
    TensorSpec("odd", "bool", (7,)),
    TensorSpec("b", "float64", (2, 2)),
)


def arrays(place: int) -> dict[str, Array]:
    rng = np.random.default_rng(place)
    return {s.name: (rng.standard_normal(s.shape) > 0).astype(s.dtype) * 3 // 2 for s in SPECS}


def picked(place: int) -> dict[str, Array]:
    return {spec.name: arrays(place)[spec.name].astype(spec.dtype) for spec in SPECS}


@pytest.mark.parametrize("in_memory_bytes", [1 << 20, 0])
def test_what_was_kept_comes_back(
    in_memory_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with KeptArrays(SPECS, 9, in_memory_bytes) as kept:
        assert kept.is_in_memory is (in_memory_bytes > 0)
        for place in range(9):
            kept.keep(place, picked(place))
        for place in (4, 0, 8):
            found = kept.at(place)
            assert found.keys() == picked(place).keys()
            for spec in SPECS:
                assert spec.matches(found[spec.name])
                assert found[spec.name].flags.aligned
                np.testing.assert_array_equal(found[spec.name], picked(place)[spec.name])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageFull, match=f"cannot write {tmp_path}"):
        KeptArrays(SPECS, 9, 0)
    assert not list(tmp_path.iterdir())
