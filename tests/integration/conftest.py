"""Pictures that every integration test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.gestures import HELD_OUT_SEED, write_folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty rendered pictures of hand gestures with their labels."""
    folder = tmp_path_factory.mktemp("pictures") / "held-out"
    write_folder(folder, HELD_OUT_SEED, 60)
    return folder
