"""Inputs to verify a model on: pictures, arrays of a file, or noise."""

from __future__ import annotations

import zipfile
from pathlib import Path

import msgspec
import numpy as np

from experiments.models import ZOO
from experiments.pictures import read_pictures
from splitbed.errors import UsageError
from splitbed.graph import CanonicalModel
from splitbed.task import Preprocessor, find_task, read_picture
from splitbed.tensor import Array


class Feeds(msgspec.Struct, frozen=True):
    """Some inputs of a model, by tensor name, and what they are."""

    arrays: list[dict[str, Array]]
    what: str


def chosen(
    model: CanonicalModel, images: Path | None, arrays: Path | None, count: int = 1
) -> Feeds:
    """What a person gave to verify on: pictures, arrays, or, where neither was given, noise."""
    if images is not None and arrays is not None:
        raise UsageError("give either --images or --arrays to verify on, not both")
    if arrays is not None:
        return arrays_of(model, arrays)
    return noise(model, count) if images is None else pictures(model, images, count)


def pictures(model: CanonicalModel, folder: Path, count: int) -> Feeds:
    """`count` pictures of a folder, evenly spaced, prepared as the model's task says."""
    if model.source.path.name.startswith(ZOO):
        raise UsageError(f"{model.source.path} has random weights and no task: leave --images out")
    task = find_task(model.source.path).fitted(model.inputs)
    dtype = next(spec.dtype for spec in model.inputs if spec.name == task.input)
    preprocessor = Preprocessor(task, dtype)
    paths = read_pictures(folder, None).spread(count)
    arrays: list[dict[str, Array]] = [
        {task.input: preprocessor.tensor(preprocessor.picture(read_picture(path)))}
        for path in paths
    ]
    return Feeds(arrays, f"{len(paths)} picture{'s' * (len(paths) > 1)} of {folder}")


def arrays_of(model: CanonicalModel, file: Path) -> Feeds:
    """One input from an .npz file with an array for each of the model's inputs."""
    try:
        held = np.load(file)
        found = {name: held[name] for name in held.files}
    except OSError as error:
        raise UsageError(f"cannot read arrays from {file}: {error.strerror or error}") from error
    except (AttributeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{file} is no .npz file of plain arrays: write it with numpy.savez(FILE, NAME=array)"
        ) from error
    feed: dict[str, Array] = {}
    for spec in model.inputs:
        if spec.name not in found:
            raise UsageError(
                f"{file} has no array '{spec.name}', which is an input of the model; it has "
                + (", ".join(found) or "none")
            )
        if not spec.matches(found[spec.name]):
            given = found[spec.name]
            raise UsageError(
                f"'{spec.name}' in {file} is {given.dtype} of shape {given.shape}; the model needs "
                f"{spec.dtype} of shape {spec.shape}"
            )
        feed[spec.name] = found[spec.name]
    return Feeds([feed], f"the arrays of {file.name}")


def noise(model: CanonicalModel, count: int, seed: int = 0) -> Feeds:
    """Standard normal numbers, and small whole ones where a model wants those."""
    rng = np.random.default_rng(seed)
    arrays: list[dict[str, Array]] = []
    for _ in range(count):
        feed: dict[str, Array] = {}
        for spec in model.inputs:
            if spec.is_float:
                feed[spec.name] = rng.standard_normal(spec.shape).astype(spec.numpy_dtype)
            else:
                feed[spec.name] = rng.integers(0, 2, spec.shape).astype(spec.numpy_dtype)
        arrays.append(feed)
    draws = "1 draw" if count == 1 else f"{count} draws"
    return Feeds(arrays, f"{draws} of noise (seed {seed}), which is no real input")
