"""The edge's tail on a GPU against the CPU: equal results, and what each costs.

    python tests/gpu/check.py [--provider cuda] [--models DIR] [--runs 50]

For a machine with a GPU and splitbed[edge-gpu]. Takes the embedded model and every ONNX file of
--models, cuts each near a quarter, a half and three quarters of its nodes, and runs the tail on
real intermediate data (a rendered picture through the head). Exit code 1 where a result differs by
more than 1e-3 of its magnitude; 3 where the provider is not there. With --provider cpu it runs
anywhere, as a check of itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from experiments.gestures import HELD_OUT_SEED, draw
from splitbed.engine import Engine, distribution_conflict, working_provider
from splitbed.errors import ProviderMissing, SplitbedError
from splitbed.graph import CutPoint, canonicalise, cut_points, extract, load
from splitbed.host import host_facts, versions
from splitbed.runnable import carry
from splitbed.task import models_folder
from splitbed.tensor import Array, TensorSpec

TOLERANCE = 1e-3
"""CUDA convolutions may run in TF32-free float32 with another order of sums."""

SHARES = (0.25, 0.5, 0.75)


def inputs(specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """A rendered picture where it fits, seeded noise elsewhere."""
    feeds: dict[str, Array] = {}
    picture = (draw(HELD_OUT_SEED, 0)[0].astype(np.float32) - 127.5) / 127.5
    for spec in specs:
        noise = np.random.default_rng(0).normal(0, 1, spec.shape).astype(spec.dtype)
        fits = len(spec.shape) == 4 and spec.shape[1] == 3
        if fits:
            rows = np.linspace(0, 127, spec.shape[2]).astype(int)
            columns = np.linspace(0, 127, spec.shape[3]).astype(int)
            resized = picture[rows][:, columns].transpose(2, 0, 1)[np.newaxis]
            feeds[spec.name] = np.ascontiguousarray(resized, dtype=spec.dtype)
        else:
            feeds[spec.name] = noise
    return feeds


def chosen(points: list[CutPoint]) -> Iterator[CutPoint]:
    """The single-tensor cut nearest to each share of the nodes."""
    single = [p for p in points if p.cut is not None and len(p.tensors) == 1][1:-1]
    for share in SHARES:
        if single:
            yield min(single, key=lambda p: abs(p.depth_pct - 100 * share))


def timed(engine: Engine, feeds: Mapping[str, Array], runs: int) -> tuple[list[Array], float]:
    """Outputs, and the median time of a run in ms."""
    outputs = engine.run(feeds)
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        outputs = engine.run(feeds)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return outputs, median(times)


def _difference(got: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    return float(np.max(np.abs(got - wanted)) / max(float(np.max(np.abs(wanted))), 1e-30))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", type=Path, help="folder of more ONNX files")
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    conflict = distribution_conflict()
    if conflict:
        print(f"check: {conflict}", file=sys.stderr)
    try:
        provider = working_provider(options.provider)
    except ProviderMissing as error:
        print(f"check: {error}", file=sys.stderr)
        return 3
    made_with = ", ".join(f"{k} {v}" for k, v in versions().items() if k.startswith("onnx"))
    print(f"{provider}; {host_facts()['processor']}; {made_with}")
    print(f"{'model':<24}  {'cut':<25}   CPU ms   this ms  init ms  first ms  off")
    files = [models_folder() / "gesture" / "gesture.onnx"]
    files += sorted(options.models.glob("*.onnx")) if options.models else []
    worst = 0.0
    for path in files:
        try:
            model = canonicalise(load(path))
        except SplitbedError as error:
            print(f"{path.stem[:24]:<24}  skipped: {error}")
            continue
        feeds = inputs(model.inputs)
        for point in chosen(cut_points(model)):
            parts = extract(model, point)
            if parts.first is None or parts.second is None:
                continue
            head = Engine(parts.first.content, provider="cpu")
            crossing = carry(head, feeds, [spec.name for spec in parts.cut.boundary])
            on_cpu = Engine(parts.second.content, provider="cpu")
            here = Engine(parts.second.content, provider=options.provider)
            wanted_feeds = {name: crossing[name] for name in here.inputs}
            wanted, cpu_ms = timed(on_cpu, wanted_feeds, options.runs)
            got, here_ms = timed(here, wanted_feeds, options.runs)
            off = max(
                _difference(g.astype(np.float64), w.astype(np.float64))
                for g, w in zip(got, wanted, strict=True)
            )
            worst = max(worst, off if np.isfinite(off) else np.inf)
            print(
                f"{path.stem[:24]:<24}  {point.name[-25:]:<25}  {cpu_ms:7.2f}  {here_ms:8.2f}  "
                f"{here.init_ns / 1e6:7.0f}  {here.first_inference_ns / 1e6:8.1f}  {off:.1e}"
            )
    print(f"largest difference {worst:.1e} of the magnitude (allowed {TOLERANCE:.0e})")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
