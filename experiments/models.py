"""Models that a command names: a file, or a network of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from splitbed import zoo
from splitbed.engine import observed
from splitbed.errors import ModelUnknown, UsageError
from splitbed.graph import CanonicalModel, built, canonicalise, load
from splitbed.task import shapes_to_bind, written_task

ZOO: Final = "zoo:"
"""Stands before the name of a reference network, as in zoo:resnet50."""

MODEL_HELP: Final = "an ONNX file, or a network of `splitbed model zoo`, as in zoo:resnet50"
SHAPE_HELP: Final = "bind an open input, as in input=1x3x224x224; for each input once"


def open_model(
    name: str, shapes: Sequence[str] = (), *, weights: Literal["random", "hollow"] = "random"
) -> CanonicalModel:
    """The canonical model, its open dimensions bound by `shapes`, its task, or a batch of one.

    Networks of the zoo come with `weights`: hollow ones can be listed and not run.
    """
    given: dict[str, tuple[int, ...]] = {}
    for text in shapes:
        tensor, shape = _shape_of(text)
        if given.setdefault(tensor, shape) != shape:
            raise UsageError(f"--shape gives '{tensor}' two shapes: give each input one")
    if name.startswith(ZOO):
        network = name.removeprefix(ZOO)
        return canonicalise(built(name, zoo.build(network, weights=weights)), given)
    path = Path(name).expanduser()
    if name in zoo.NAMES and not path.exists():
        raise ModelUnknown(f"there is no model file {name}: did you mean {ZOO}{name}?")
    source = load(path)
    return canonicalise(source, shapes_to_bind(written_task(path), given), observed)


def _shape_of(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    parts = sizes.split("x")
    if not equals or not all(part.isdecimal() for part in parts):
        raise UsageError(f"--shape {text}: write it as input=1x3x224x224")
    return name, tuple(map(int, parts))
