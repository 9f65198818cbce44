"""What coding a tensor takes: quantise, encode, decode, dequantise, on one core.

    python tests/benchmarks/coding.py [--rounds 40]

Made-up feature maps of 200,704 elements: smooth within a channel and across channels, half of them
rectified. Codecs take turns, so that a busy moment of the machine hits all alike. `ideal` is how
many more bytes a payload has than the tables' own code length (channel model).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from splitbed.codec import Codec, build, plan
from splitbed.codec.ans import Ans
from splitbed.codec.entropy import implementation
from splitbed.codec.entropy.tables import TOTAL
from splitbed.codec.layout import planes
from splitbed.codec.uniform import Uniform
from splitbed.session import TensorCodec
from splitbed.tensor import Array, TensorSpec
from tests.unit.calibrations import calibration_of, smooth

SHAPES = ((1, 64, 56, 56), (1, 256, 28, 28), (1, 1024, 14, 14))
CODECS = (
    "quantize:4+zstd:3",
    "uniform:0.5+ans:channel",
    "uniform:0.5+ans:context",
    "shaped:0.5+ans:context",
    "uniform:0.5+layers",
    "uniform:0.5,diffuse=0.8+ans:context",
)


def excess_pct(spec: TensorCodec, codec: Codec, array: Array) -> float | None:
    """Bytes above the channel model's own code length, in percent; None for other codecs."""
    first, *rest = spec.stages
    if not rest or rest[0].config.get("model") != "channel":
        return None
    model = msgspec.convert(rest[0].config, Ans).unpacked()
    symbols = planes(msgspec.convert(first.config, Uniform).symbols(array))
    table = np.broadcast_to(model.table_of[:, None, None], symbols.shape)  # type: ignore[union-attr]
    share = model.tables.frequencies[table, symbols].astype(np.float64) / TOTAL
    return 100 * (8 * len(codec.encode(array)) / float(-np.log2(share).sum()) - 1)


def main() -> None:
    """Print a row for each shape and codec."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    print(f"entropy coder in {implementation()}; medians of {rounds} (and 95th percentiles), ms")
    print(f"{'shape':>14} {'codec':36} {'bytes':>7} {'encode':>13} {'decode':>13} {'ideal':>7}")
    for shape in SHAPES:
        for rectified in (True, False):
            row(shape, rectified, rounds)


def row(shape: tuple[int, ...], rectified: bool, rounds: int) -> None:
    """All codecs for one kind of tensor."""
    spec, rng = TensorSpec("x", "float32", shape), np.random.default_rng(0)
    *seen, array = (smooth(rng, shape, rectified) for _ in range(5))
    calibration = calibration_of(spec, *seen)
    planned = {text: plan(text, [spec], calibration)[0] for text in CODECS}
    codecs = {text: build(found, spec) for text, found in planned.items()}
    took: dict[str, list[tuple[float, float]]] = {text: [] for text in CODECS}
    for number in range(rounds + 3):
        for text, codec in codecs.items():
            start = time.perf_counter_ns()
            payload = codec.encode(array)
            between = time.perf_counter_ns()
            codec.decode(payload)
            if number >= 3:  # warm by then
                end = time.perf_counter_ns()
                took[text].append(((between - start) / 1e6, (end - between) / 1e6))
    name = "x".join(map(str, shape[1:])) + ("+" if rectified else "")
    for text, codec in codecs.items():
        times = np.array(took[text])
        (encode, decode), (slow_encode, slow_decode) = (
            np.median(times, axis=0),
            np.quantile(times, 0.95, axis=0),
        )
        excess = excess_pct(planned[text], codec, array)
        print(
            f"{name:>14} {text:36} {len(codec.encode(array)):7} "
            f"{encode:5.2f} ({slow_encode:5.2f}) {decode:5.2f} ({slow_decode:5.2f}) "
            f"{'' if excess is None else f'{excess:+.2f} %':>7}"
        )


if __name__ == "__main__":
    main()
