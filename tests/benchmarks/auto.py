"""How far `auto` may be trusted: searches on few pictures, judged on all of them.

    python tests/benchmarks/auto.py MODEL.onnx --images PICTURES --cut NAME [--cut NAME ...]

Every step of `uniform:STEP+ans` is decoded once for every picture (entropy coding changes no
value), with a calibration of the other folds. Then the rule of `auto:1pp` chooses a step from N
pictures drawn at random, many times. Printed of the steps that were chosen: answers that changed
and net loss, in percent of the pictures that were not drawn, their mean; how many searches end
above the target, and the loss that one in ten is above, by what all pictures let expect. Beside it
the same for a rule that only counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.answer_change import expected_change
from experiments.codec_families import FEATURES
from experiments.codec_judge import ClassJudge, keeps
from experiments.codec_search import CodecSearch
from experiments.cut_runner import CutRunner
from experiments.pictures import PictureSet, read_pictures
from experiments.preparation import prepare_cut, prepare_model
from splitbed.codec import Target
from splitbed.errors import CodecError
from splitbed.task import read_picture

Draw = NDArray[np.int64]

COUNTS = (16, 32, 48, 80)
TARGET = Target(1.0)


class Seen(msgspec.Struct):
    """One step on all pictures."""

    push: list[float]
    right: list[tuple[float, float]]
    changed: list[bool]
    lost: list[int]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--cut", action="append", required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    print("                auto: changed lost above   p90    counting: changed lost above   p90")
    for name in options.cut:
        margins, steps = measured(options.model, options.images, name, options.count)
        print(f"{name}, {len(margins)} pictures")
        rng = np.random.default_rng(0)
        for count in (count for count in COUNTS if count <= len(margins) * 2 // 3):
            draws = [rng.choice(len(margins), count, replace=False) for _ in range(options.draws)]
            cells = []
            for rule in (expects, counts):
                chosen = [choice(steps, margins, draw, rule) for draw in draws]
                cells.append(cell(chosen, draws, margins))
            print(f"  {count:>3} drawn           {cells[0]}               {cells[1]}")
    return 0


def cell(chosen: Sequence[Seen | None], draws: Sequence[Draw], margins: Sequence[float]) -> str:
    """Figures of the steps that many searches chose; none chosen changes nothing."""
    counted, expected = [], []
    for one, draw in zip(chosen, draws, strict=True):
        if one is None:
            counted.append((0.0, 0.0))
            expected.append((0.0, 0.0))
            continue
        changed, lost = (np.delete(values, draw).mean() for values in (one.changed, one.lost))
        counted.append((100 * changed, 100 * lost))
        change = expected_change(margins, one.push, one.right)
        assert change.lost_pct is not None
        expected.append((change.changed_pct, change.lost_pct))
    changed, lost = np.asarray(expected).T
    above = (changed > 100 - TARGET.agreement_pct) | (lost > TARGET.loss_points)
    means = np.asarray(counted).mean(axis=0)
    tenth = np.quantile(lost, 0.9)
    return f"{means[0]:5.2f} {means[1]:5.2f}  {100 * above.mean():3.0f} %  {tenth:4.1f}"


Rule = Callable[[Seen, Sequence[float], Draw], bool]


def choice(steps: Sequence[Seen], margins: Sequence[float], draw: Draw, rule: Rule) -> Seen | None:
    """Bisection as in `CodecSearch`."""
    low, high, best = 0, len(steps) - 1, None
    while low <= high:
        middle = (low + high) // 2
        if rule(steps[middle], margins, draw):
            best, high = steps[middle], middle - 1
        else:
            low = middle + 1
    return best


def counts(step: Seen, _: Sequence[float], draw: Draw) -> bool:
    """What a rule would do that only counts."""
    changed, lost = (np.asarray(values)[draw].mean() for values in (step.changed, step.lost))
    return bool(100 * changed <= 100 - TARGET.agreement_pct and 100 * lost <= TARGET.loss_points)


def expects(step: Seen, margins: Sequence[float], draw: Draw) -> bool:
    """What `auto` does."""
    change = expected_change(
        [margins[i] for i in draw], [step.push[i] for i in draw], [step.right[i] for i in draw]
    )
    changed, lost = (int(np.asarray(values)[draw].sum()) for values in (step.changed, step.lost))
    return keeps(TARGET, change, changed, len(draw), lost, len(draw))


def measured(
    path: Path, images: Path, name: str, count: int
) -> tuple[Sequence[float], Sequence[Seen]]:
    """Margins of the uncut model, and each step from coarse to fine, on all pictures."""
    model = prepare_model(path)
    cut = prepare_cut(model, name)
    given = read_pictures(images, None)
    pictures = PictureSet(given.spread(count), given.labels)
    runner = CutRunner(model, cut, 1)
    kept = [
        runner.boundary(model.preprocessor.picture(read_picture(one))) for one in pictures.paths
    ]
    search = CodecSearch(model, cut, runner, pictures, kept.__getitem__, TARGET, 0)
    search._anchor()
    judge = search._judge
    assert isinstance(judge, ClassJudge)
    boundaries = ((place, runner.outputs(one)) for place, one in enumerate(kept))
    uncut = judge.compared(boundaries).answers
    steps = []
    for text in FEATURES[0].rungs:
        try:
            payloads, codecs = search._coded(text.removesuffix("+ans"), 0)
        except CodecError:  # too fine for what crosses
            break
        after = judge.compared(search._decoded(payloads, codecs, 0))
        changed = [a != b for a, b in zip(after.answers, uncut, strict=True)]
        lost = [(a > 0) - (a - fell > 0) for a, fell in after.right]
        steps.append(Seen(after.pushes, after.right, changed, lost))
    return judge.margins, steps


if __name__ == "__main__":
    sys.exit(main())
