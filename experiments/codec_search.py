"""The smallest codec within a target, found on calibration pictures by bisection.

Every picture is coded with a calibration of the others' folds, so that no codec is judged on what
it was fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from experiments.codec_families import FALLBACK, Family, families_for
from experiments.codec_judge import Judgement, find_judge
from experiments.cut_runner import CutRunner
from experiments.pictures import PictureSet, folds
from experiments.preparation import PreparedCut, PreparedModel, calibration_of
from splitbed import codec
from splitbed.codec import Calibration, Codec, Target
from splitbed.errors import CodecError, UsageError
from splitbed.progress import Progress
from splitbed.session import Buffer
from splitbed.tensor import Array

FEWEST_PICTURES: Final = 8
"""Below that nothing is said of accuracy."""
_FOLDS: Final = 3


class Trial(msgspec.Struct, frozen=True):
    """One codec that was tried."""

    codec: str
    payload_bytes: float | None = None
    """Median; None where it cannot code what crosses."""
    judgement: Judgement | None = None
    """None where it was not smaller than the best before it, so that nothing depended on it."""


class CodecChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `auto` found."""

    asked: str
    """The target."""
    codec: str
    payload_bytes: float
    """Median of the pictures, each coded with a calibration that did not see it."""
    judgement: Judgement
    trials: tuple[Trial, ...]

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.asked} -> {self.codec}, {self.payload_bytes:,.0f} bytes; "
            f"{self.judgement.sentence}"
        )


class CodecSearch:
    """A search at one cut, on pictures whose boundaries are at hand."""

    def __init__(
        self,
        model: PreparedModel,
        cut: PreparedCut,
        runner: CutRunner,
        pictures: PictureSet,
        boundary: Callable[[int], Mapping[str, Array]],
        target: Target,
        seed: int,
    ) -> None:
        """`boundary` gives what crosses for the picture at a place of the set."""
        check_search(model, pictures, target)
        self._model, self._cut, self._runner = model, cut, runner
        self._pictures, self._boundary, self._target = pictures, boundary, target
        self._folds = folds(pictures, _FOLDS, seed)
        self._place = {path: place for place, path in enumerate(pictures.paths)}
        self._calibrations: list[Calibration | None] = []
        labels = [pictures.labels.get(path.name) for path in pictures.paths]
        self._judge = find_judge(model, labels, target)
        self._anchored = self._asked = False
        self._trials: list[Trial] = []
        self._best: tuple[float, str, Judgement] | None = None
        self._families = families_for(cut.cut)
        self._wanted = sum(len(family.rungs).bit_length() for family in self._families)
        what = f"{target.text} at {cut.cut.name}"
        self._progress = Progress(what, self._wanted * len(pictures.paths))

    def found(self) -> CodecChoice:
        """The smallest codec within the target; `raw` if there is none."""
        self._progress.show()
        try:
            for number, family in enumerate(self._families):
                later = self._families[number + 1 :]
                self._descend(family, sum(len(one.rungs).bit_length() for one in later))
            if self._best is None:
                self._try(FALLBACK, 0)
        finally:
            self._progress.close()
            self._judge.close()
        if self._best is None:
            raise CodecError(f"nothing codes what crosses at '{self._cut.cut.name}'")
        size, text, judgement = self._best
        return CodecChoice(self._target.text, text, size, judgement, tuple(self._trials))

    def _descend(self, family: Family, later: int) -> None:
        """Bisect a family's rungs, whose bytes rise and whose losses fall."""
        low, high = 0, len(family.rungs) - 1
        while low <= high:
            middle = (low + high) // 2
            left = (high - low + 1).bit_length() + later
            if self._try(family.rungs[middle], left):
                low = middle + 1
            else:
                high = middle - 1

    def _try(self, text: str, left: int) -> bool:
        """Try one codec; whether only one with more bytes can be within the target."""
        try:
            payloads, codecs = self._coded(text, left)
        except CodecError:
            self._trials.append(Trial(text))
            return False  # too fine for what crosses, if anything
        size = float(median(sum(map(len, one)) for one in payloads))
        if self._best is not None and size >= self._best[0]:
            self._trials.append(Trial(text, size))
            return False
        if codec.is_lossless(text):
            judgement = Judgement(good=True, pictures=len(payloads), nmse=self._no_error)
        else:
            self._anchor()
            judgement = self._judge.judged(self._decoded(payloads, codecs, left))
        self._trials.append(Trial(text, size, judgement))
        if judgement.good:
            self._best = size, text, judgement
        return not judgement.good

    @property
    def _no_error(self) -> float | None:
        return None if self._target.nmse is None else 0.0

    def _coded(self, text: str, left: int) -> tuple[list[list[Buffer]], list[list[Codec]]]:
        """Payloads and codecs of each picture, in the pictures' order."""
        boundary, count = self._cut.cut.boundary, len(self._pictures.paths)
        payloads: list[list[Buffer]] = [[] for _ in range(count)]
        of_picture: list[list[Codec]] = [[] for _ in range(count)]
        done = 0
        for number, fold in enumerate(self._folds):
            planned = codec.plan(text, boundary, self._calibration(text, number))
            codecs = [codec.build(one, spec) for one, spec in zip(planned, boundary, strict=True)]
            for path in fold:
                place = self._place[path]
                crossing = self._boundary(place)
                payloads[place] = [bytes(one.encode(crossing[one.spec.name])) for one in codecs]
                of_picture[place] = codecs
                done += 1
                self._tell(left, done / 2)
        return payloads, of_picture

    def _decoded(
        self, payloads: Sequence[Sequence[Buffer]], codecs: Sequence[Sequence[Codec]], left: int
    ) -> Iterator[tuple[int, Mapping[str, Array]]]:
        half = len(payloads) / 2
        for place, (coded, own) in enumerate(zip(payloads, codecs, strict=True)):
            decoded = {c.spec.name: c.decode(p) for c, p in zip(own, coded, strict=True)}
            yield place, self._runner.outputs(decoded)
            self._tell(left, half + (place + 1) / 2)

    def _calibration(self, text: str, number: int) -> Calibration | None:
        """From all pictures that are not in a fold, made when the first codec needs it."""
        if not codec.needs_calibration(text):
            return None
        asks = codec.needs_sensitivity(text)
        if not self._calibrations or (asks and not self._asked):
            self._calibrations = [self._calibrated(fold, asks=asks) for fold in self._folds]
            self._asked = asks
        return self._calibrations[number]

    def _calibrated(self, fold: Sequence[Path], *, asks: bool) -> Calibration:
        others = self._pictures.without(fold).paths
        boundaries = (self._boundary(self._place[path]) for path in others)
        tail = self._runner.outputs if asks else None
        return calibration_of(self._model, self._cut, others, boundaries, tail)

    def _anchor(self) -> None:
        """Ask the model without coding, when the first lossy codec wants to be judged."""
        if not self._anchored:
            for place in range(len(self._pictures.paths)):
                self._judge.anchor(place, self._runner.outputs(self._boundary(place)))
        self._anchored = True

    def _tell(self, left: int, coded: float) -> None:
        """How far the search is if every family takes as many steps as it may."""
        done = (self._wanted - left) * len(self._pictures.paths) + coded
        self._progress.update(int(done))


def check_search(model: PreparedModel, pictures: PictureSet, target: Target) -> None:
    """Refuse a target that the model's task does not know, and too few pictures for it."""
    if target.nmse is None and model.task.output != "argmax":
        find_judge(model, (), target)
    if len(pictures.paths) < FEWEST_PICTURES:
        raise UsageError(
            f"{target.text} is looked for on {FEWEST_PICTURES} pictures at least, and there are "
            f"{len(pictures.paths)}: give more, 48 or so (of its own a run keeps a third aside)"
        )
