"""Quantising by numpy and as operators of the graph: head, encode, decode and tail, paired.

    python tests/benchmarks/quantising.py MODEL.onnx --images PICTURES --cut NAME [--cut NAME ...]

For every cut and codec, both ways take turns (A B B A) on the same picture in one process, with one
thread. Printed are each part's median in milliseconds, and the median of the rounds' ratios of all
four, graph to numpy, with its 95 % interval (order statistics). The payloads are compared, and the
tails' answers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from experiments.pictures import read_pictures
from experiments.preparation import (
    PreparedCut,
    PreparedModel,
    calibrate,
    prepare_cut,
    prepare_model,
)
from experiments.quantising import CodedCut
from splitbed import codec
from splitbed.engine import Engine
from splitbed.host import described
from splitbed.percentile import percentile
from splitbed.tensor import Array

CODECS = ("quantize:4", "quantize:4+zstd:3", "quantize:8")
PARTS = ("head", "encode", "decode", "tail")
CALIBRATED_ON = 4
WARM_UP = 20

T = TypeVar("T")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--cut", action="append", required=True)
    parser.add_argument("--codec", action="append")
    parser.add_argument("--rounds", type=int, default=150)
    options = parser.parse_args()
    model = prepare_model(options.model)
    print(f"{described()}, 1 thread, {options.rounds} rounds of A B B A")
    print(
        "elements  codec              way   ", *(f"{part:>7}" for part in PARTS), "    sum  ratio"
    )
    for name in options.cut:
        cut = prepare_cut(model, name)
        for text in options.codec or CODECS:
            report(model, cut, text, options.images, options.rounds)
    return 0


def report(model: PreparedModel, cut: PreparedCut, text: str, images: Path, rounds: int) -> None:
    pictures = read_pictures(images, None).spread(CALIBRATED_ON + 1)
    calibration = calibrate(model, cut, pictures[1:], 1)
    stage, plus, rest = text.partition("+")
    planned = codec.plan(f"{stage},where=graph{plus}{rest}", cut.cut.boundary, calibration)
    opener = partial(Engine, provider="cpu", threads=1)
    feeds = model.feeds(pictures[0])
    outputs = [spec.name for spec in model.canonical.outputs]
    ways = {
        "numpy": CodedCut(cut, codec.by_numpy(planned), opener),
        "graph": CodedCut(cut, planned, opener),
    }
    times: dict[str, list[NDArray[np.float64]]] = {way: [] for way in ways}
    for number in range(WARM_UP + rounds):
        blocks = {way: np.zeros(len(PARTS)) for way in ways}
        made = {}
        for way in ("numpy", "graph", "graph", "numpy"):
            took, made[way] = once(ways[way], feeds, outputs)
            blocks[way] += took / 2
        assert made["numpy"] == made["graph"], "the two ways differ"
        if number >= WARM_UP:
            for way, block in blocks.items():
                times[way].append(block)
    elements = sum(spec.elements for spec in cut.cut.boundary)
    ratios = [float(b.sum() / a.sum()) for a, b in zip(times["numpy"], times["graph"], strict=True)]
    found = percentile(ratios, 0.5)
    for way, blocks_ms in times.items():
        median = np.median(blocks_ms, axis=0)
        total = np.median([block.sum() for block in blocks_ms])
        ratio = f"  {found.value:.3f} ({found.low:.3f}..{found.high:.3f})" if way == "graph" else ""
        print(
            f"{elements:8,}  {text:<18} {way} ",
            *(f"{value:7.3f}" for value in median),
            f"{total:7.3f}{ratio}",
            flush=True,
        )


def once(
    coded: CodedCut, feeds: dict[str, Array], outputs: list[str]
) -> tuple[NDArray[np.float64], list[bytes]]:
    """Milliseconds of the four parts, and what they made."""
    crossing, head_ms = timed(lambda: coded.crossing(feeds))
    payloads, encode_ms = timed(lambda: coded.encoded(crossing))
    decoded, decode_ms = timed(lambda: coded.decoded(payloads))
    answer, tail_ms = timed(lambda: coded.answer(decoded, outputs))
    made = [*map(bytes, payloads), *(value.tobytes() for value in answer.values())]
    return np.array([head_ms, encode_ms, decode_ms, tail_ms]), made


def timed(run: Callable[[], T]) -> tuple[T, float]:
    start_ns = time.perf_counter_ns()
    made = run()
    return made, (time.perf_counter_ns() - start_ns) / 1e6


if __name__ == "__main__":
    sys.exit(main())
