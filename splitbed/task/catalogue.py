"""Where a model's task description is found: beside the model, else in the catalogue."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from splitbed.config import load_toml
from splitbed.errors import TaskError
from splitbed.task.spec import TaskSpec

_EXAMPLE = """
    [task]
    resize = "shorter"              # or "squash", "letterbox"
    shorter = 256                   # before the centre crop
    mean = [123.675, 116.28, 103.53]
    std = [58.395, 57.12, 57.375]
    output = "argmax"               # or "boxes", "key_points", "raw"
"""


@cache
def models_folder() -> Path:
    """The folder with `catalogue.toml` and the embedded default model."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_models", package.parent / "models"):
        if (folder / "catalogue.toml").is_file():
            return folder
    raise TaskError("splitbed was installed without its models folder: install it again")


def description_file(model: Path) -> Path:
    """Where a model's own description lies, if it has one: `MODEL.toml` beside it."""
    return model.with_suffix(".toml")


def written_task(model: Path) -> TaskSpec | None:
    """The description in `MODEL.toml` beside the model, else the catalogue's; None without any."""
    beside = description_file(model)
    if beside.is_file():
        table = load_toml(beside).get("task")
        if not isinstance(table, dict):
            raise TaskError(f"{beside} has no [task] table; it should look like{_EXAMPLE}")
        return _convert(table, str(beside))
    entry = load_toml(models_folder() / "catalogue.toml").get(model.stem)
    return None if entry is None else _convert(entry["task"], f"the catalogue's [{model.stem}]")


def find_task(model: Path) -> TaskSpec:
    """As `written_task`, but a TaskError that shows what to write where there is none."""
    task = written_task(model)
    if task is None:
        raise TaskError(
            f"nothing says how a picture becomes the input of {model.name}: write "
            f"{description_file(model)}, for instance{_EXAMPLE}"
        )
    return task


def _convert(table: dict[str, Any], where: str) -> TaskSpec:
    try:
        return msgspec.convert(table, TaskSpec)
    except (TaskError, msgspec.ValidationError) as error:
        raise TaskError(f"{where}: {error}") from error
