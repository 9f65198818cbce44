"""The measure for any other answer: how far output tensors are from the uncut model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from experiments.kept_arrays import KeptArrays
from experiments.preparation import PreparedModel
from experiments.score import Cell, Column, PooledScore, Score, Terms, agreement_cell
from experiments.statistics import share
from splitbed.percentile import Percentile, percentile
from splitbed.tensor import Array

GOOD_DB: Final = 40.0
"""Peak signal to noise ratio from which a picture's outputs count as the uncut model's."""
MOST_DB: Final = 200.0
"""What stands for no difference at all."""

TERMS: Final = Terms(
    kind="outputs",
    columns=(Column("PSNR dB", 14), Column("nMSE", 9), Column("40 dB %", 12)),
    point="",
    agrees="has {:g} % of the pictures at 40 dB",
    unlike="pictures below 40 dB, %",
)


class OutputScore(Score, frozen=True):
    """Differences of output tensors; agreement is the share of pictures with at least 40 dB."""

    psnr_db: Percentile
    """Median over the pictures, against the uncut model, 200 for none. The peak is the range of the
    uncut model's values in each tensor, over all pictures; the worst tensor counts."""
    nmse: float
    """Squared error over the squared outputs, all tensors of all pictures together."""

    def cells(self) -> tuple[Cell, ...]:
        """The median and its interval."""
        low, high = (
            "-" if end is None else f"{end:.1f}" for end in (self.psnr_db.low, self.psnr_db.high)
        )
        return (
            Cell(f"{self.psnr_db.value:.1f}", f"{low}..{high}"),
            Cell(f"{self.nmse:.1e}" if self.nmse else "0"),
            agreement_cell(self),
        )


class OutputMetric:
    """Keeps the outputs of the uncut model, and of every other run how far each picture's are."""

    terms = TERMS
    labelled = 0

    def __init__(self, model: PreparedModel, pictures: int) -> None:
        self._specs = [spec for spec in model.canonical.outputs if spec.elements]
        self._kept = KeptArrays(self._specs, pictures)
        self._is_anchor = True
        self._energy = 0.0
        self._peaks = np.zeros(len(self._specs))

    def answer(self, place: int, outputs: Mapping[str, Array]) -> NDArray[np.float64]:
        """The squared error of each tensor, summed over its elements.

        Before `compare_with` the outputs are the uncut model's, and kept.
        """
        if self._is_anchor:
            self._kept.keep(place, {spec.name: outputs[spec.name] for spec in self._specs})
        errors = []
        wanted = self._kept.at(place)
        for spec in self._specs:
            given, right = outputs[spec.name], wanted[spec.name]
            off = np.zeros(spec.shape)
            np.subtract(given, right, off, where=given != right, dtype=np.float64)
            errors.append(float(np.vdot(off, off)))
        found: NDArray[np.float64] = np.array(errors)
        return np.where(np.isfinite(found), found, np.inf)

    def compare_with(self, uncut: Sequence[NDArray[np.float64]]) -> None:
        """All outputs of the uncut model are there."""
        self._is_anchor = False
        lows, highs = [], []
        for place in range(len(uncut)):
            kept = self._kept.at(place)
            arrays = [kept[spec.name].astype(np.float64) for spec in self._specs]
            lows.append([array.min() for array in arrays])
            highs.append([array.max() for array in arrays])
            self._energy += sum(float(np.vdot(array, array)) for array in arrays)
        self._peaks = np.max(highs, axis=0) - np.min(lows, axis=0)

    def score(self, answers: Sequence[NDArray[np.float64]]) -> OutputScore:
        """Over all pictures."""
        levels = self._levels_db(answers)
        return OutputScore(
            agreement=share(sum(level >= GOOD_DB for level in levels), len(levels)),
            accuracy=None,
            loss=None,
            psnr_db=percentile(levels, 0.5),
            nmse=float(np.sum(answers)) / max(self._energy, 1e-300),
        )

    def pooled(self, runs: Sequence[Sequence[NDArray[np.float64]]]) -> PooledScore:
        """Every cut counts the same."""
        levels = [level for run in runs for level in self._levels_db(run)]
        return PooledScore(100 * sum(one >= GOOD_DB for one in levels) / len(levels), None, None)

    def close(self) -> None:
        """Let go of the uncut model's outputs."""
        self._kept.close()

    def _levels_db(self, answers: Sequence[NDArray[np.float64]]) -> list[float]:
        """By picture: of its worst tensor."""
        elements = np.array([spec.elements for spec in self._specs])
        with np.errstate(divide="ignore", invalid="ignore"):
            levels = 10 * np.log10(self._peaks**2 * elements / np.array(answers))
        # A tensor that never changes has no range: right or wrong, and nothing between.
        levels = np.where(np.array(answers) == 0, MOST_DB, np.nan_to_num(levels, nan=-MOST_DB))
        found: list[float] = levels.clip(-MOST_DB, MOST_DB).min(axis=1).tolist()
        return found
