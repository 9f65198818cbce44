"""How far codecs move the answers of a classifier, where counting right and wrong is too coarse.

    python tests/benchmarks/divergence.py MODEL.onnx --images PICTURES --cut NAME \
        [--codec TEXT ...] [--more PICTURES ...]

Mean and median over pictures of the Kullback-Leibler divergence of the coded cut's class
probabilities from the uncut model's, in thousandths of a nat, and at twice the temperature, which
counts pictures of which the network is sure as well. Each picture is coded with a calibration from
other folds. Pictures of `--more` need no labels and never serve for calibration: they are coded
with one from all of `--images`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.class_scores import Floats, are_shares, log_scores
from experiments.cut_runner import CutRunner
from experiments.pictures import folds, read_pictures
from experiments.preparation import PreparedModel, calibration_of, prepare_cut, prepare_model
from splitbed import codec
from splitbed.codec import Calibration, Codec
from splitbed.task import read_picture
from splitbed.tensor import Array

CODECS = (
    *(f"uniform:{step}+ans" for step in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)),
    *(f"shaped:{step}+ans" for step in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)),
)
Boundary = dict[str, Array]


def divergence(here: Floats, there: Floats, temperature: float) -> float:
    """Of `here` from `there`, both logarithms of probabilities or logits, in nats."""

    def shares(logits: Floats) -> Floats:
        logits = logits / temperature
        found: Floats = logits - np.logaddexp.reduce(logits)
        return found

    one, other = shares(here), shares(there)
    return float(np.exp(other) @ (other - one))


class Asked:
    """One cut of one classifier."""

    def __init__(self, model: PreparedModel, cut: str) -> None:
        self.model, self.cut = model, prepare_cut(model, cut)
        self.runner = CutRunner(model, self.cut, 1)
        self.scores = model.task.scores or model.canonical.outputs[0].name
        self._kept: dict[tuple[tuple[Path, ...], bool], Calibration] = {}

    def boundary(self, path: Path) -> Boundary:
        return self.runner.boundary(self.model.preprocessor.picture(read_picture(path)))

    def logits(self, boundary: Boundary) -> Floats:
        scores = self.runner.outputs(boundary)[self.scores]
        return log_scores(scores, are_shares(scores))

    def codecs(self, text: str, paths: Sequence[Path], seen: dict[Path, Boundary]) -> list[Codec]:
        """Fitted to these pictures."""
        tail = self.runner.outputs if codec.needs_sensitivity(text) else None
        key = (tuple(paths), tail is not None)
        if key not in self._kept:
            boundaries = (seen[path] for path in paths)
            self._kept[key] = calibration_of(self.model, self.cut, paths, boundaries, tail)
        planned = codec.plan(text, self.cut.cut.boundary, self._kept[key])
        pairs = zip(planned, self.cut.cut.boundary, strict=True)
        return [codec.build(one, spec) for one, spec in pairs]


def main() -> None:
    """Print a row for each codec."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--cut", required=True)
    parser.add_argument("--codec", action="append", default=[])
    parser.add_argument("--more", action="append", default=[], type=Path)
    options = parser.parse_args()
    asked = Asked(prepare_model(options.model), options.cut)
    pictures = read_pictures(options.images, None)
    others = [path for folder in options.more for path in read_pictures(folder, None).paths]
    seen = {path: asked.boundary(path) for path in (*pictures.paths, *others)}
    uncut = {path: asked.logits(boundary) for path, boundary in seen.items()}
    groups = [(fold, pictures.without(fold).paths) for fold in folds(pictures, 3, 0)]
    if others:
        groups.append((tuple(others), pictures.paths))
    print(f"{len(seen)} pictures; {', '.join(map(str, asked.cut.cut.boundary))}")
    heads = ("bytes", "mean", "median", "at 2 T", "median")
    print(f"{'codec':24}" + "".join(f"{head:>8}" for head in heads) + "  as uncut")
    for text in options.codec or CODECS:
        sizes, moved, same = [], [], 0
        for group, fitted in groups:
            coders = asked.codecs(text, fitted, seen)
            for path in group:
                payloads = [coder.encode(seen[path][coder.spec.name]) for coder in coders]
                sizes.append(sum(map(len, payloads)))
                pairs = zip(coders, payloads, strict=True)
                here = asked.logits({c.spec.name: c.decode(p) for c, p in pairs})
                moved.append([1e3 * divergence(here, uncut[path], t) for t in (1, 2)])
                same += int(here.argmax() == uncut[path].argmax())
        mean, median = np.mean(moved, axis=0), np.median(moved, axis=0)
        print(
            f"{text:24}{np.median(sizes):8,.0f}{mean[0]:8.2f}{median[0]:8.2f}{mean[1]:8.2f}"
            f"{median[1]:8.2f}{100 * same / len(moved):8.1f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
