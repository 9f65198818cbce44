"""From what a person asks of coding to complete codecs: searched, calibrated, or from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from experiments.choice_cache import ChoiceCache, cache_folder, choice_key
from experiments.codec_search import CodecChoice, CodecSearch, check_search
from experiments.cut_runner import CutRunner
from experiments.kept_arrays import KeptArrays
from experiments.learned import coded_cut, needs_calibration
from experiments.pictures import PictureSet, digests
from experiments.preparation import PreparedCut, PreparedModel, calibrate
from splitbed import codec
from splitbed.codec import FILE_MARK, PLANNED_FORMAT, Calibration, PlannedCodec, Target
from splitbed.errors import UsageError
from splitbed.pair import PairId
from splitbed.progress import Progress
from splitbed.task import read_picture

_CALIBRATED_FROM: Final = 16
_SEARCHED_ON: Final = 48
"""Pictures, where nobody says how many."""


class CodecPlan(msgspec.Struct, frozen=True):
    """Codecs of one cut, and where they are from."""

    cut: PreparedCut
    """As it is coded: with the learned codec in its parts, where there is one."""
    planned: PlannedCodec
    calibration: Calibration | None = None
    choice: CodecChoice | None = None
    """What `auto` found."""


def check_written(text: str) -> None:
    """CodecUnknown for a codec, a target or a file's name that cannot be right."""
    if not text.startswith(FILE_MARK) and codec.find_target(text) is None:
        codec.parse(text)


def calibration_pictures(text: str, wanted: int | None) -> int:
    """How many pictures a codec is calibrated from, or searched on."""
    if wanted is not None:
        return wanted
    searched = not text.startswith(FILE_MARK) and codec.find_target(text) is not None
    return _SEARCHED_ON if searched else _CALIBRATED_FROM


def plan_codec(
    model: PreparedModel,
    cut: PreparedCut,
    text: str,
    pictures: Callable[[], PictureSet],
    *,
    calibration: Path | None = None,
    threads: int = 0,
    seed: int = 0,
    cached: bool = True,
) -> CodecPlan:
    """Plan what `--codec` says at a plain cut.

    `pictures` are those to calibrate from and to search on, asked for only where they are needed;
    `calibration` is a file to be used instead. Raises UsageError, CodecUnknown, CodecError, and
    what `coded_cut` raises.
    """
    if text.startswith(FILE_MARK):
        file = text.removeprefix(FILE_MARK)
        planned = codec.read_planned(Path(file))
        cut = coded_cut(model, cut, planned.codec)
        planned.codecs_at(model.canonical.id.digest, cut.cut, _pair_in(cut), file)
        return CodecPlan(cut, planned)
    target, choice, found = codec.find_target(text), None, None
    seen: PictureSet | None = None
    if target is not None:
        if calibration is not None:
            raise UsageError(
                f"{text} looks for its codec on pictures, which the calibration {calibration} does "
                "not hold: leave --calibration out, or name a codec"
            )
        seen = pictures()
        choice = choose_codec(model, cut, target, seen, threads, seed, cached=cached)
        text = choice.codec
    cut = coded_cut(model, cut, text)
    if calibration is not None:
        found = _read_calibration(calibration, model, cut)
    elif needs_calibration(text, cut):
        seen = seen or pictures()
        asks = codec.needs_sensitivity(text)
        found = calibrate(model, cut, seen.paths, threads, sensitivity=asks)
    used = () if seen is None else tuple(digests(seen.paths).values())
    planned = PlannedCodec(
        format=PLANNED_FORMAT,
        model_digest=model.canonical.id.digest,
        cut=cut.cut.name,
        codec=text,
        boundary=cut.cut.boundary,
        codecs=codec.plan(text, cut.cut.boundary, found, cut.ranges),
        digests=used if found is None else found.digests,
        pair=_pair_in(cut),
    )
    return CodecPlan(cut, planned, found, choice)


def _pair_in(cut: PreparedCut) -> PairId | None:
    return None if cut.pair is None else cut.pair.id


def _read_calibration(path: Path, model: PreparedModel, cut: PreparedCut) -> Calibration:
    calibration = codec.read_calibration(path)
    if (calibration.model_digest, calibration.cut) != (model.canonical.id.digest, cut.cut.name):
        raise UsageError(
            f"the calibration {path} was made for another model or cut ({calibration.cut}): make "
            "one with `splitbed calibrate`"
        )
    calibration.check_pair(_pair_in(cut), path)
    return calibration


def choose_codec(
    model: PreparedModel,
    cut: PreparedCut,
    target: Target,
    pictures: PictureSet,
    threads: int,
    seed: int,
    *,
    cached: bool,
) -> CodecChoice:
    """The smallest codec within a target on these pictures, or what was found on them before."""
    check_search(model, pictures, target)

    def search() -> CodecChoice:
        runner = CutRunner(model, cut, threads)
        with KeptArrays(cut.cut.boundary, len(pictures.paths)) as kept:
            progress = Progress(f"head of {cut.cut.name}", len(pictures.paths))
            for place, path in enumerate(pictures.paths):
                kept.keep(place, runner.boundary(model.preprocessor.picture(read_picture(path))))
                progress.update(place + 1)
            progress.close()
            return CodecSearch(model, cut, runner, pictures, kept.at, target, seed).found()

    cache = ChoiceCache(cache_folder() if cached else None)
    return cache.choice(choice_key(model, cut, pictures, target, seed), search)
