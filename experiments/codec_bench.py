"""Measuring codecs at cuts on pictures: bytes, times, errors and answers, without a link.

Every picture is evaluated once, by a codec whose calibration saw only pictures of other folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from experiments.bench_rows import Coder, Row, Samples, row_of
from experiments.cut_runner import CutRunner
from experiments.kept_arrays import KeptArrays
from experiments.pictures import PictureSet, folds
from experiments.preparation import (
    PreparedCut,
    PreparedModel,
    calibration_of,
    prepare_cut,
    seen_ranges,
    verify_cut,
)
from experiments.task_metric import Answer, find_metric
from experiments.tiles import build_tiles, check_tiles, is_tiles
from splitbed import codec
from splitbed.codec import Calibration
from splitbed.errors import CodecError, CodecUnknown
from splitbed.progress import Progress
from splitbed.task import PICTURE_CUT, picture_spec, read_picture
from splitbed.tensor import Array, Cut

WARMUP: Final = 3
"""Pictures that a codec codes before its times count, in each fold."""


class Measured(msgspec.Struct, frozen=True):
    """A row, with the answers that it is made from, in the pictures' order."""

    row: Row
    answers: tuple[Answer, ...]


class LeftOut(msgspec.Struct, frozen=True):
    """A codec that cannot code what crosses at a cut, and why."""

    cut: str
    codec: str
    why: str


def check_codec(text: str) -> None:
    """Raise CodecUnknown for a codec that nobody knows, UsageError where its library is missing."""
    if is_tiles(text):
        check_tiles(text)
    else:
        codec.parse(text)


class Bench:
    """One model and its pictures; to be closed."""

    def __init__(
        self,
        model: PreparedModel,
        pictures: PictureSet,
        fold_count: int,
        seed: int,
        threads: int,
        rows: int = 1,
    ) -> None:
        """`rows` are those that will be measured, for the time that is left."""
        self.folds = folds(pictures, fold_count, seed)
        self.pictures = pictures.paths
        self.metric = find_metric(model, pictures, seed)
        self._model, self._threads = model, threads
        self._place = {path: place for place, path in enumerate(self.pictures)}
        self._rows_done = 0
        self._progress: Progress | None = None
        self._rows_wanted = rows
        self._kept_pictures = KeptArrays([picture_spec(model.task)], len(self.pictures))
        self.metric.compare_with(self._uncut_answers())

    def close(self) -> None:
        """Let go of the pictures."""
        if self._progress is not None:
            self._progress.close()
        self._kept_pictures.close()
        self.metric.close()

    def _uncut_answers(self) -> list[Answer]:
        """Read every picture once, and ask the uncut model."""
        runner = CutRunner(self._model, prepare_cut(self._model, PICTURE_CUT), self._threads)
        progress = Progress("uncut model", len(self.pictures))
        answers = []
        for place, path in enumerate(self.pictures):
            picture = self._model.preprocessor.picture(read_picture(path))
            self._kept_pictures.keep(place, {PICTURE_CUT: picture})
            answers.append(self.metric.answer(place, runner.outputs({PICTURE_CUT: picture})))
            progress.update(place + 1)
        progress.close()
        return answers

    def measure(self, name: str, codecs: Sequence[str]) -> Iterator[Measured | LeftOut]:
        """One cut with one codec after the other; the head runs once for each picture.

        The cut is verified on real pictures first. CutUnknown, VerificationError, StorageFull.
        """
        cut = prepare_cut(self._model, name)
        runner = CutRunner(self._model, cut, self._threads)
        if name == PICTURE_CUT:
            yield from self._rows(cut, runner, self._kept_pictures, codecs)
            return
        verify_cut(self._model, cut, self.pictures, self._threads)
        with KeptArrays(cut.cut.boundary, len(self.pictures)) as kept:
            progress = Progress(f"head of {name}", len(self.pictures))
            for place in range(len(self.pictures)):
                kept.keep(place, runner.boundary(self._kept_pictures.at(place)[PICTURE_CUT]))
                progress.update(place + 1)
            progress.close()
            yield from self._rows(cut, runner, kept, codecs)

    def _rows(
        self, cut: PreparedCut, runner: CutRunner, kept: KeptArrays, codecs: Sequence[str]
    ) -> Iterator[Measured | LeftOut]:
        calibrations: list[Calibration | None] = [None] * len(self.folds)
        if any(is_tiles(text) or codec.needs_calibration(text) for text in codecs) and any(
            spec.is_float for spec in cut.cut.boundary
        ):
            calibrations = [self._calibration(cut, kept, fold) for fold in self.folds]
        seen = seen_ranges(self._model, cut)
        variance = _variance(cut.cut, kept, len(self.pictures), seen)
        for text in codecs:
            samples = Samples(cut=cut.cut, codec=text, variance=variance, seen=seen)
            answers: dict[int, Answer] = {}
            try:
                for fold, calibration in zip(self.folds, calibrations, strict=True):
                    coders, session_bytes = _coders(text, cut.cut, calibration)
                    samples.session_bytes += session_bytes
                    if not is_tiles(text):
                        samples.count_symbols()
                    places = [self._place[path] for path in fold]
                    for place in places[:WARMUP]:
                        _warm_up(coders, kept.at(place))
                    for place in places:
                        decoded = samples.add(coders, kept.at(place))
                        answers[place] = self.metric.answer(place, runner.outputs(decoded))
                        self._tell(len(answers))
            except (CodecError, CodecUnknown) as error:
                yield LeftOut(cut.cut.name, text, str(error))
                continue
            finally:
                self._rows_done += 1
                self._tell(0)
            ordered = tuple(answers[place] for place in range(len(self.pictures)))
            yield Measured(row_of(samples, self.metric.score(ordered)), ordered)

    def _tell(self, coded: int) -> None:
        """How far the bench is: all rows that are done, and the pictures of one more."""
        if self._progress is None:
            self._progress = Progress("codec bench", self._rows_wanted * len(self.pictures))
        self._progress.update(self._rows_done * len(self.pictures) + coded)

    def _calibration(self, cut: PreparedCut, kept: KeptArrays, fold: Sequence[Path]) -> Calibration:
        """From all pictures that are not in the fold."""
        own = set(fold)
        others = [path for path in self.pictures if path not in own]
        boundaries = (kept.at(self._place[path]) for path in others)
        return calibration_of(self._model, cut, others, boundaries)


def _coders(text: str, cut: Cut, calibration: Calibration | None) -> tuple[list[Coder], list[int]]:
    """One for each tensor, and how many bytes of a session they take, where they can be in one."""
    if not is_tiles(text):
        planned = codec.plan(text, cut.boundary, calibration)
        built = [codec.build(w, spec) for w, spec in zip(planned, cut.boundary, strict=True)]
        return list(built), [len(msgspec.json.encode(planned))]
    if calibration is None:
        raise CodecError("tiles code floating-point numbers, and nothing at this cut holds any")
    coders: list[Coder] = []
    for spec in cut.boundary:
        if spec.is_float:
            coders.append(build_tiles(text, spec, calibration))
        else:  # indices and masks, as `plan` has it
            (written,) = codec.plan("raw+zstd:3", (spec,), None)
            coders.append(codec.build(written, spec))
    return coders, []


def _warm_up(coders: Sequence[Coder], boundary: Mapping[str, Array]) -> None:
    for coder in coders:
        coder.decode(coder.encode(boundary[coder.spec.name]))


def _variance(
    cut: Cut, kept: KeptArrays, places: int, seen: Mapping[str, tuple[float, float]]
) -> float:
    """Of all elements of all pictures, about the mean of their tensor, as the tail sees them."""
    total, squared = 0.0, 0.0
    for spec in cut.boundary:
        means, squares = [], []
        for place in range(places if spec.elements else 0):
            values = kept.at(place)[spec.name].astype(np.float64)
            if spec.name in seen:
                np.clip(values, *seen[spec.name], out=values)
            if not np.isfinite(values).all():
                return float("nan")
            means.append(float(values.mean()))
            squares.append(float(np.vdot(values, values)) / spec.elements)
        if means:
            spread = float(np.mean(squares)) - float(np.mean(means)) ** 2
            squared += max(0.0, spread) * spec.elements
            total += spec.elements
    return squared / total if total else 0.0
