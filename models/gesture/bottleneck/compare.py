"""Bytes and held-out accuracy of the learned pair beside plain quantisation at the same cut.

python models/gesture/bottleneck/compare.py [--count N]
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from experiments import gestures  # noqa: E402  (the path above must come first)
from experiments.preparation import PreparedModel, prepare_cut, prepare_model  # noqa: E402
from experiments.statistics import PairedLoss, Share, paired_loss, share  # noqa: E402
from splitbed import codec  # noqa: E402
from splitbed.codec import Calibration  # noqa: E402
from splitbed.codec.calibration import FrameCollector  # noqa: E402
from splitbed.codec.statistics import StatisticsCollector  # noqa: E402
from splitbed.engine import Engine  # noqa: E402
from splitbed.tensor import Array, TensorSpec  # noqa: E402

MODEL = HERE.parent / "gesture.onnx"

CALIBRATED_ON = 64
"""Pictures of the calibration seed, for ranges and the entropy coder's tables."""

BITS = (2, 3, 4, 6, 8)
PLAIN = [f"quantize:{bits}+zstd" for bits in BITS] + [f"uniform:{s}+ans" for s in (0.5, 1, 2, 3, 4)]
LEARNED = [f"quantize:{bits}+{last}" for last in ("zstd", "ans") for bits in BITS]
"""What the boundary itself and the pair's code are coded with."""

Run = Callable[[Array], Array]


class Row(NamedTuple):
    """One way to code the boundary, measured against the uncut model on the same pictures."""

    name: str
    payload_bytes: float
    """Median."""
    accuracy: Share
    loss: PairedLoss
    agreement: Share

    def __str__(self) -> str:
        right, loss, same = self.accuracy, self.loss, self.agreement
        return (
            f"{self.name:<22} {self.payload_bytes:6,.0f}  "
            f"{right.pct:5.2f} ({right.low_pct:.2f} to {right.high_pct:.2f})  "
            f"{loss.points:+5.2f} ({loss.low:+.2f} to {loss.high:+.2f})  "
            f"{same.pct:6.2f} ({same.low_pct:.2f} to {same.high_pct:.2f})"
        )


def runner(file: Path | bytes) -> Run:
    """A graph with one input and one output, as a function."""
    engine = Engine(file, provider="cpu", threads=1)
    return lambda array: engine.run({engine.inputs[0]: array})[0]


def boundaries(model: PreparedModel, head: Run, seed: int, first: int, count: int) -> Array:
    """What the head makes of consecutive pictures of a seed, one row a picture."""
    pictures = (gestures.draw(seed, index)[0] for index in range(first, first + count))
    return np.concatenate([head(model.preprocessor.tensor(picture)) for picture in pictures])


def calibration(seen: list[tuple[TensorSpec, Array]]) -> Calibration:
    """Statistics and frames of tensors, each with one row a picture."""
    tensors, frames = {}, {}
    for spec, arrays in seen:
        statistics, kept = StatisticsCollector(spec), FrameCollector(spec)
        for array in arrays:
            statistics.add(array[None])
            kept.add(array[None])
        tensors[spec.name] = statistics.statistics()
        frames[spec.name] = kept.frames()
    return Calibration("", "", (), tensors, (), {k: v for k, v in frames.items() if v})


class Ladder:
    """Measures codings of one boundary on held-out pictures."""

    def __init__(self, folder: Path, count: int) -> None:
        self.pair = tomllib.loads((folder / "bottleneck.toml").read_text(encoding="utf-8"))
        model = prepare_model(MODEL)
        cut = prepare_cut(model, self.pair["model"]["cut"])
        (self._boundary,) = cut.cut.boundary
        assert cut.parts.first
        assert cut.parts.second
        head = cut.parts.first.file.opened(runner)
        self._tail = cut.parts.second.file.opened(runner)
        encode = runner(folder / self.pair["encoder"]["file"])
        self._decode = runner(folder / self.pair["decoder"]["file"])
        code = self.pair["code"]
        self._code = TensorSpec(code["name"], code["dtype"], tuple(code["shape"]))
        seen = boundaries(model, head, gestures.CALIBRATION_SEED, 0, CALIBRATED_ON)
        seen_codes = np.concatenate([encode(array[None]) for array in seen])
        self._calibration = calibration([(self._boundary, seen), (self._code, seen_codes)])
        self._arrays = boundaries(model, head, gestures.HELD_OUT_SEED, 0, count)
        self._codes = np.stack([encode(array[None]) for array in self._arrays])
        self._labels = np.arange(count) % len(gestures.CLASSES)
        self._reference = self._answers(self._arrays[:, None])

    def uncut(self) -> Row:
        """The uncut model's own row."""
        return self._row("raw", [array.nbytes for array in self._arrays], self._reference)

    def plain(self, text: str) -> Row:
        """The boundary itself, coded as written."""
        return self._coded(text, text, self._boundary, self._arrays[:, None])

    def learned(self, text: str) -> Row:
        """The pair's code, coded as written, but within its fixed range."""
        first, _, rest = text.partition("+")
        within = f"{first},low={self.pair['code']['low']},high={self.pair['code']['high']}+{rest}"
        return self._coded(f"pair, {text}", within, self._code, self._codes, self._decode)

    def _coded(
        self, name: str, text: str, spec: TensorSpec, arrays: Array, finish: Run | None = None
    ) -> Row:
        working = codec.build(codec.plan(text, (spec,), self._calibration)[0], spec)
        payloads = [working.encode(array) for array in arrays]
        decoded = [working.decode(payload) for payload in payloads]
        if finish is not None:
            decoded = [finish(array) for array in decoded]
        return self._row(name, [len(payload) for payload in payloads], self._answers(decoded))

    def _answers(self, arrays: Any) -> Array:
        return np.array([int(self._tail(array).argmax()) for array in arrays])

    def _row(self, name: str, sizes: list[int], answers: Array) -> Row:
        uncut, right = self._reference == self._labels, answers == self._labels
        count = len(answers)
        return Row(
            name,
            median(sizes),
            share(int(right.sum()), count),
            paired_loss(uncut.tolist(), right.tolist()),
            share(int((answers == self._reference).sum()), count),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=gestures.HELD_OUT_COUNT, help="pictures")
    args = parser.parse_args()
    ladder = Ladder(HERE, args.count)
    print(f"{args.count} held-out pictures; 95 % intervals in brackets")
    print(
        "codec                   bytes  accuracy, %             loss, points            as uncut, %"
    )
    print(ladder.uncut())
    for text in PLAIN:
        print(ladder.plain(text))
    for text in LEARNED:
        print(ladder.learned(text))


if __name__ == "__main__":
    main()
