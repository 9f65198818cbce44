"""Third-party models and photos, read where they lie; never copied into the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data() -> Path:
    """The data folder: SPLITBED_DATA, else ../shared/data."""
    folder = Path(os.environ.get("SPLITBED_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no models and photos at {folder}: set SPLITBED_DATA to where they are")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here carries the marker `real`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)
