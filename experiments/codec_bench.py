"""Measuring codecs at cuts on pictures: bytes, times, errors and answers, without a link.

Every picture is evaluated once, by a codec whose calibration saw only pictures of other folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from experiments.bench_rows import Coder, Row, Samples, row_of
from experiments.choice_cache import ChoiceCache, choice_key
from experiments.codec_search import CodecChoice, CodecSearch
from experiments.cut_off import CutOff, parted
from experiments.cut_runner import CutRunner
from experiments.kept_arrays import KeptArrays
from experiments.learned import PairRunner, coded_cut, needs_calibration, verify_pair
from experiments.pictures import PictureSet, folds
from experiments.preparation import (
    PreparedCut,
    PreparedModel,
    calibration_of,
    prepare_cut,
    seen_ranges,
    verify_cut,
)
from experiments.sensitivity import Tail
from experiments.task_metric import Answer, find_metric
from experiments.tiles import build_tiles, check_tiles, is_tiles
from splitbed import codec
from splitbed.codec import Calibration, Target
from splitbed.engine import Engine
from splitbed.errors import CodecError, CodecUnknown, CutUnknown, ModelMismatch
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
    elif codec.find_target(text) is None:
        codec.parse(parted(text)[0])


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
        choices: ChoiceCache | None = None,
    ) -> None:
        """`rows` are those that will be measured, for the time that is left; `choices` keeps what
        `auto` finds.
        """
        self._seed, self._choices = seed, choices or ChoiceCache(None)
        self._set = PictureSet(pictures.paths, pictures.labels)
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
        plain: list[Calibration | None] = [None] * len(self.folds)
        if any(_calibrated(text) for text in codecs) and any(
            spec.is_float for spec in cut.cut.boundary
        ):
            tail = runner.outputs if any(_asks_tail(text) for text in codecs) else None
            plain = [self._calibration(cut, kept, fold, tail) for fold in self.folds]
        seen = seen_ranges(self._model, cut)
        variance = _variance(cut.cut, kept, len(self.pictures), seen)
        for text in codecs:
            target = None if is_tiles(text) else codec.find_target(text)
            samples = Samples(cut=cut.cut, codec=text, variance=variance, seen=seen)
            answers: dict[int, Answer] = {}
            try:
                coded, pair, calibrations = self._coded(text, cut, runner, kept, plain)
                for fold, calibration in zip(self.folds, calibrations, strict=True):
                    if target is not None:
                        samples.chosen.append(self._chosen(cut, runner, kept, fold, target))
                    coding = samples.chosen[-1] if target is not None else text
                    coders, session_bytes = _coders(coding, coded, calibration)
                    samples.session_bytes += session_bytes
                    if not is_tiles(text) and pair is None:
                        samples.count_symbols()
                    places = [self._place[path] for path in fold]
                    for place in places[:WARMUP]:
                        _warm_up(coders, kept.at(place), pair)
                    for place in places:
                        decoded = samples.add(coders, kept.at(place), pair)
                        answers[place] = self.metric.answer(place, runner.outputs(decoded))
                        self._tell(len(answers))
            except (CodecError, CodecUnknown, ModelMismatch, CutUnknown) as error:
                yield LeftOut(cut.cut.name, text, str(error))
                continue
            finally:
                self._rows_done += 1
                self._tell(0)
            ordered = tuple(answers[place] for place in range(len(self.pictures)))
            yield Measured(row_of(samples, self.metric.score(ordered)), ordered)

    def _coded(
        self,
        text: str,
        cut: PreparedCut,
        runner: CutRunner,
        kept: KeptArrays,
        plain: Sequence[Calibration | None],
    ) -> tuple[PreparedCut, PairRunner | None, Sequence[Calibration | None]]:
        """The cut with a learned codec in it, its networks, and calibrations of its code."""
        if is_tiles(text) or not codec.learned(text):
            return cut, None, plain
        coded = coded_cut(self._model, cut, text)
        verify_pair(self._model, cut, coded, self.pictures, self._threads)
        pair = PairRunner(coded, partial(Engine, provider="cpu", threads=self._threads))
        if not needs_calibration(parted(text)[0], coded):
            return coded, pair, [None] * len(self.folds)
        tail: Tail | None = None
        if _asks_tail(text):

            def tail(code: Mapping[str, Array]) -> Mapping[str, Array]:
                return runner.outputs(pair.decode(code))

        calibrations = [
            self._calibration(coded, kept, fold, tail, pair.encode) for fold in self.folds
        ]
        return coded, pair, calibrations

    def _tell(self, coded: int) -> None:
        """How far the bench is: all rows that are done, and the pictures of one more."""
        if self._progress is None:
            self._progress = Progress("codec bench", self._rows_wanted * len(self.pictures))
        self._progress.update(self._rows_done * len(self.pictures) + coded)

    def _chosen(
        self,
        cut: PreparedCut,
        runner: CutRunner,
        kept: KeptArrays,
        fold: Sequence[Path],
        target: Target,
    ) -> str:
        """What `auto` finds on all pictures that are not in the fold."""
        others = self._set.without(fold)
        places = [self._place[path] for path in others.paths]

        def search() -> CodecChoice:
            return CodecSearch(
                self._model,
                cut,
                runner,
                others,
                lambda place: kept.at(places[place]),
                target,
                self._seed,
            ).found()

        key = choice_key(self._model, cut, others, target, self._seed)
        return self._choices.choice(key, search).codec

    def _calibration(
        self,
        cut: PreparedCut,
        kept: KeptArrays,
        fold: Sequence[Path],
        tail: Tail | None,
        encode: Callable[[dict[str, Array]], dict[str, Array]] = lambda boundary: boundary,
    ) -> Calibration:
        """From all pictures that are not in the fold; `encode` makes what crosses, and `tail` is
        asked about it where there is one.
        """
        others = self._set.without(fold).paths
        boundaries = (encode(kept.at(self._place[path])) for path in others)
        return calibration_of(self._model, cut, others, boundaries, tail)


def _asks_tail(text: str) -> bool:
    """Whether a codec looks at the tail's answers; what `auto` finds may."""
    if is_tiles(text):
        return False
    return codec.find_target(text) is not None or codec.needs_sensitivity(parted(text)[0])


def _calibrated(text: str) -> bool:
    """Whether a codec looks at what crosses at the plain cut; a learned one looks at its code."""
    if is_tiles(text) or codec.find_target(text) is not None:
        return True
    whole, _ = parted(text)
    return not codec.learned(whole) and codec.needs_calibration(whole)


def _coders(
    text: str, prepared: PreparedCut, calibration: Calibration | None
) -> tuple[list[Coder], list[int]]:
    """One for each tensor, and how many bytes of a session they take, where they can be in one."""
    cut = prepared.cut
    if not is_tiles(text):
        whole, share_pct = parted(text)
        planned = codec.plan(whole, cut.boundary, calibration, prepared.ranges)
        # No graph quantises here; numpy makes the same bytes.
        numpy = codec.by_numpy(planned)
        built = [codec.build(w, spec) for w, spec in zip(numpy, cut.boundary, strict=True)]
        coders: list[Coder] = [
            CutOff(one, share_pct) if one.progressive and share_pct < 100 else one for one in built
        ]
        return coders, [len(msgspec.json.encode(codec.as_sent(planned)))]
    if calibration is None:
        raise CodecError("tiles code floating-point numbers, and nothing at this cut holds any")
    coders = []
    for spec in cut.boundary:
        if spec.is_float:
            coders.append(build_tiles(text, spec, calibration))
        else:  # indices and masks, as `plan` has it
            (written,) = codec.plan("raw+zstd:3", (spec,), None)
            coders.append(codec.build(written, spec))
    return coders, []


def _warm_up(
    coders: Sequence[Coder], boundary: Mapping[str, Array], pair: PairRunner | None
) -> None:
    crossing = boundary if pair is None else pair.encode(boundary)
    decoded = {c.spec.name: c.decode(c.encode(crossing[c.spec.name])) for c in coders}
    if pair is not None:
        pair.decode(decoded)


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
