"""What whoever orchestrates does before frames flow: cut, verify, calibrate, reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from experiments.pictures import digests, evenly
from experiments.sensitivity import FRAMES, Tail, measure_sensitivity
from splitbed import engine_probe
from splitbed.codec.calibration import Calibration, FrameCollector
from splitbed.codec.statistics import StatisticsCollector
from splitbed.engine import Engine, observed
from splitbed.errors import PictureUnreadable, RecordError
from splitbed.graph import (
    INPUT_CUT,
    OUTPUT_CUT,
    CanonicalModel,
    CutPoint,
    LearnedPair,
    Parts,
    Verification,
    canonicalise,
    cut_points,
    extract,
    find_cut,
    load,
    seen_range,
    verify,
)
from splitbed.graph.saturation import EVERYTHING
from splitbed.pair import Ranges
from splitbed.progress import Progress
from splitbed.record import ModelDigest
from splitbed.runnable import carry
from splitbed.task import (
    PICTURE_CUT,
    RESULT_CUT,
    Answerer,
    Preprocessor,
    TaskSpec,
    find_task,
    picture_spec,
    read_picture,
    result_boundary,
    shapes_to_bind,
)
from splitbed.tensor import Array, Cut

VERIFIED_PICTURES = 3
"""Every cut is verified on this many real pictures before it is measured."""


class PreparedModel(msgspec.Struct, frozen=True):
    """A model, its task, and its cuts."""

    canonical: CanonicalModel
    points: list[CutPoint]
    task: TaskSpec
    preprocessor: Preprocessor

    @property
    def name(self) -> str:
        """How the edge calls it."""
        return self.canonical.source.path.stem

    @property
    def digest(self) -> ModelDigest:
        """The file as test material."""
        source = self.canonical.source
        return ModelDigest(source.path.name, source.file_bytes, source.md5, source.sha256)

    def feeds(self, path: Path) -> dict[str, Array]:
        """The model's input for one picture file."""
        picture = self.preprocessor.picture(read_picture(path))
        return {self.task.input: self.preprocessor.tensor(picture)}


class PreparedCut(msgspec.Struct, frozen=True):
    """One cut with its two parts; `cut` is what crosses, `parts` what runs."""

    cut: Cut
    parts: Parts
    pair: LearnedPair | None = None
    """The learned codec in both parts."""
    ranges: Ranges = ()
    """Of its code, where they are known."""


def prepare_model(path: Path) -> PreparedModel:
    """Load, canonicalise, and find out what pictures mean to it.

    First of all, whether ONNX Runtime runs here: every command that prepares a model goes on to it.
    """
    engine_probe.ensure_usable()
    source = load(path)  # first: a file that is no model needs no task
    task = find_task(path)
    canonical = canonicalise(source, shapes_to_bind(task, {}), observed)
    canonical.require_fixed_outputs()
    fitted = task.fitted(canonical.inputs)
    dtype = next(spec.dtype for spec in canonical.inputs if spec.name == fitted.input)
    return PreparedModel(canonical, cut_points(canonical), fitted, Preprocessor(fitted, dtype))


def prepare_cut(model: PreparedModel, name: str) -> PreparedCut:
    """Cut at a name, `@picture` and `@result` included."""
    at = {PICTURE_CUT: INPUT_CUT, RESULT_CUT: OUTPUT_CUT}.get(name, name)
    parts = extract(
        model.canonical, find_cut(model.canonical, model.points, at, f"model '{model.name}'")
    )
    cut = parts.cut
    if name == PICTURE_CUT:
        cut = Cut(PICTURE_CUT, (picture_spec(model.task),))
    elif name == RESULT_CUT:
        cut = Cut(RESULT_CUT, result_boundary(model.task, model.canonical.outputs))
    return PreparedCut(cut, parts)


def verify_cut(
    model: PreparedModel, cut: PreparedCut, pictures: Sequence[Path], threads: int
) -> Verification:
    """Prove the parts on a few real pictures; VerificationError where they differ."""
    feeds = (model.feeds(path) for path in pictures[:VERIFIED_PICTURES])
    return verify(model.canonical, cut.parts, feeds, _opener(threads))


def seen_ranges(model: PreparedModel, cut: PreparedCut) -> dict[str, tuple[float, float]]:
    """Between which values the tail can tell those of each floating-point boundary tensor apart."""
    code = 0 if cut.pair is None else len(cut.pair.code)
    own = {spec.name for spec in cut.cut.boundary[:code]}
    return {
        spec.name: EVERYTHING
        if spec.name in own
        else seen_range(model.canonical, cut.parts.point, spec.name)
        for spec in cut.cut.boundary
        if spec.is_float
    }


def calibrate(
    model: PreparedModel,
    cut: PreparedCut,
    pictures: Sequence[Path],
    threads: int,
    *,
    sensitivity: bool = False,
) -> Calibration:
    """Statistics and frames of every boundary tensor that holds floating-point numbers.

    Of values that the tail's first operators clip away only the clipped ones are taken, so that no
    codec spends bits on telling them apart. With `sensitivity` the tail is asked as well how far
    its answer moves when a tensor is disturbed, which takes a run for each channel and frame.
    """
    head = cut.parts.first.file.opened(_opener(threads)) if cut.parts.first else None
    names = [spec.name for spec in cut.cut.boundary]
    boundaries = (carry(head, model.feeds(path), names) for path in pictures)
    tail: Tail | None = None
    if sensitivity and cut.cut.name not in (PICTURE_CUT, RESULT_CUT):
        second = cut.parts.second  # None at @output: what crosses is the answer
        engine = None if second is None else second.file.opened(_opener(threads))
        outputs = [spec.name for spec in model.canonical.outputs]

        def tail(boundary: Mapping[str, Array]) -> Mapping[str, Array]:
            return carry(engine, boundary, outputs)

    return calibration_of(model, cut, pictures, boundaries, tail)


def calibration_of(
    model: PreparedModel,
    cut: PreparedCut,
    pictures: Sequence[Path],
    boundaries: Iterable[Mapping[str, Array]],
    tail: Tail | None = None,
) -> Calibration:
    """The same from what crosses for each of the pictures, in their order.

    `tail` gives the model's outputs for what crosses, where it is to be asked.
    """
    floats = {spec.name: spec for spec in cut.cut.boundary if spec.is_float}
    collectors = {name: StatisticsCollector(spec) for name, spec in floats.items()}
    keepers = {name: FrameCollector(spec) for name, spec in floats.items()}
    seen = seen_ranges(model, cut)
    progress = Progress("calibrating", len(pictures))
    asked = set(evenly(len(pictures), FRAMES)) if tail is not None else set()
    about: list[Mapping[str, Array]] = []
    for number, boundary in enumerate(boundaries, 1):
        if number - 1 in asked:
            about.append({spec.name: boundary[spec.name] for spec in cut.cut.boundary})
        for name in floats:
            clipped = np.clip(boundary[name], *seen[name]).astype(boundary[name].dtype)
            collectors[name].add(clipped)
            keepers[name].add(clipped)
        progress.update(number)
    progress.close()
    sensitivities = {}
    if tail is not None:
        for spec in floats.values():
            found = measure_sensitivity(tail, spec, about, model.task)
            if found is not None:
                sensitivities[spec.name] = found
    return Calibration(
        model_digest=model.canonical.id.digest,
        cut=cut.cut.name,
        inputs=tuple(path.name for path in pictures),
        tensors={name: collector.statistics() for name, collector in collectors.items()},
        digests=tuple(digests(pictures).values()),
        frames={name: kept for name, keeper in keepers.items() if (kept := keeper.frames())},
        sensitivities=sensitivities,
        pair="" if cut.pair is None else cut.pair.id.digest,
    )


class Reference(msgspec.Struct, frozen=True):
    """What the uncut canonical model answers, by picture."""

    answers: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Array]]
    """Its output tensors; empty where they were not kept."""


def reference(
    model: PreparedModel, pictures: Iterable[Path], threads: int, keep_outputs: bool
) -> Reference:
    """Run the uncut model on every picture once. A picture that cannot be read is left out."""
    engine = model.canonical.file().opened(
        partial(Engine, provider="cpu", threads=threads, what="the uncut model")
    )
    answerer = Answerer(model.task, model.canonical.outputs)
    paths = list(dict.fromkeys(pictures))
    answers: dict[str, dict[str, Any]] = {}
    kept: dict[str, dict[str, Array]] = {}
    progress = Progress("uncut model", len(paths))
    for number, path in enumerate(paths, 1):
        try:
            feeds = model.feeds(path)
        except PictureUnreadable:
            continue  # the device reports it as a failed frame, with its reason
        outputs = dict(zip(engine.outputs, engine.run(feeds), strict=True))
        answers[path.name] = answerer.answer(outputs)
        if keep_outputs:
            kept[path.name] = outputs
        progress.update(number)
    progress.close()
    return Reference(answers, kept)


def write_reference(path: Path, outputs: Mapping[str, Mapping[str, Array]]) -> None:
    """Outputs of the uncut model where a device finds them (`--reference`)."""
    arrays = {
        f"{picture}/{name}": array
        for picture, out in outputs.items()
        for name, array in out.items()
    }
    try:
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}") from error


def _opener(threads: int) -> Callable[[bytes | Path], Engine]:
    return partial(Engine, provider="cpu", threads=threads)
