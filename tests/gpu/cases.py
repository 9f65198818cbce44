"""The tails that `check.py` runs, and how it times them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from experiments.gestures import HELD_OUT_SEED, draw
from splitbed.engine import Engine
from splitbed.graph import CanonicalModel, CutPoint, canonicalise, cut_points, extract, load
from splitbed.graph.quantising import quantising
from splitbed.percentile import percentile
from splitbed.quantiser import Quantiser
from splitbed.runnable import carry
from splitbed.task import models_folder
from splitbed.tensor import Array, TensorSpec
from splitbed.zoo import registry

SHARES = (0.25, 0.5, 0.75)
LEVELS = 256


@dataclass(frozen=True)
class Tail:
    """A tail, real intermediate data for it, and the same tail beginning with symbols."""

    model: str
    cut: str
    content: bytes
    sha256: str
    feeds: dict[str, Array]
    quantised: bytes
    symbols: dict[str, Array]
    low: float
    step: float

    @property
    def crossing_bytes(self) -> int:
        return sum(array.nbytes for array in self.feeds.values())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.feeds.items()}

    def values(self) -> dict[str, Array]:
        """What a host makes of the symbols, as `quantize` does."""
        ((name, array),) = self.feeds.items()
        symbols = next(iter(self.symbols.values())).astype(np.uint8)
        return {name: (self.low + symbols * self.step).astype(array.dtype).reshape(array.shape)}

    def batch(self, size: int) -> dict[str, Array]:
        """So many frames in one, each a little different."""
        grown: dict[str, Array] = {}
        for name, array in self.feeds.items():
            factors = 1 + np.arange(size).reshape(-1, *[1] * (array.ndim - 1)) / 100
            repeated = np.repeat(array, size, 0).astype(np.float64)
            grown[name] = (repeated * factors).astype(array.dtype)
        return grown


@dataclass(frozen=True)
class Timing:
    """Median milliseconds, and those of a ratio of rounds, with its 95 % interval."""

    ms: dict[str, float]
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low + self.high):
            return f"{self.ratio:.2f}"  # too few rounds to say how sure that is
        return f"{self.ratio:.2f} ({self.low:.2f}..{self.high:.2f})"


def model_files(names: Sequence[str], folder: Path | None, scratch: Path) -> Iterator[Path]:
    """The embedded model, these of the zoo with their batch left open, and those of a folder."""
    yield models_folder() / "gesture" / "gesture.onnx"
    for name in names:
        proto = registry.build(name)
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "N"
        path = scratch / f"{name}.onnx"
        onnx.save(proto, str(path))
        yield path
    if folder is not None:
        yield from sorted(folder.glob("*.onnx"))


def tails(path: Path) -> Iterator[Tail]:
    """The tails of one model at a quarter, a half and three quarters of its nodes."""
    model = canonicalise(load(path))
    feeds = _inputs(model.inputs)
    for point in _chosen(cut_points(model)):
        tail = _tail(path.stem, model, point, feeds)
        if tail is not None:
            yield tail


def taking_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> Timing:
    """Times of two ways that take turns, A B B A; the ratio is the second's to the first's."""
    first, second = ways
    times: dict[str, list[float]] = {first: [], second: []}
    warm_up = min(rounds, 3)  # the first rounds warm caches and clocks
    for number in range(warm_up + rounds):
        spent = dict.fromkeys(ways, 0.0)
        for name in (first, second, second, first):
            start_ns = time.perf_counter_ns()
            ways[name]()
            spent[name] += (time.perf_counter_ns() - start_ns) / 2e6
        if number >= warm_up:
            for name, took in spent.items():
                times[name].append(took)
    ratios = [b / a for a, b in zip(times[first], times[second], strict=True)]
    found = percentile(ratios, 0.5)
    medians = {name: float(np.median(took)) for name, took in times.items()}
    low, high = found.low, found.high
    return Timing(
        medians,
        found.value,
        float("nan") if low is None else low,
        float("nan") if high is None else high,
    )


def difference(got: Sequence[Array], wanted: Sequence[Array]) -> float:
    """The largest difference over the largest magnitude; infinite where something is not finite."""
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        a: NDArray[np.float64] = one.astype(np.float64)
        b: NDArray[np.float64] = other.astype(np.float64)
        off = float(np.max(np.abs(a - b)) / max(float(np.max(np.abs(b))), 1e-30))
        worst = max(worst, off if np.isfinite(off) else np.inf)
    return worst


def _tail(
    name: str, model: CanonicalModel, point: CutPoint, feeds: Mapping[str, Array]
) -> Tail | None:
    parts = extract(model, point)
    if parts.first is None or parts.second is None:
        return None
    head = Engine(parts.first.content, provider="cpu")
    (spec,) = parts.cut.boundary
    crossing = carry(head, feeds, [spec.name])[spec.name]
    low, high = float(crossing.min()), float(crossing.max())
    step = max(high - low, 1e-6) / (LEVELS - 1)
    quantiser = Quantiser(spec.name, (low,), (step,), LEVELS - 1)
    coded = quantising(parts, [quantiser]).second
    if coded is None:
        return None
    symbols = np.clip((crossing.astype(np.float64) - low) / step + 0.5, 0, LEVELS - 1)
    shaped = symbols.astype(np.uint8).reshape(spec.symbols.shape)
    return Tail(
        name,
        point.name,
        parts.second.content,
        parts.second.partition.sha256,
        {spec.name: crossing},
        coded.content,
        {spec.symbols.name: shaped},
        low,
        step,
    )


def _chosen(points: list[CutPoint]) -> Iterator[CutPoint]:
    single = [p for p in points if p.cut is not None and len(p.tensors) == 1][1:-1]
    chosen = [min(single, key=lambda p: abs(p.depth_pct - 100 * s)) for s in SHARES if single]
    yield from {point.name: point for point in chosen}.values()


def _inputs(specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """A rendered picture where it fits, seeded noise elsewhere."""
    feeds: dict[str, Array] = {}
    picture = (draw(HELD_OUT_SEED, 0)[0].astype(np.float32) - 127.5) / 127.5
    for spec in specs:
        if len(spec.shape) == 4 and spec.shape[1] == 3:
            rows = np.linspace(0, 127, spec.shape[2]).astype(int)
            columns = np.linspace(0, 127, spec.shape[3]).astype(int)
            resized = picture[rows][:, columns].transpose(2, 0, 1)[np.newaxis]
            feeds[spec.name] = np.ascontiguousarray(resized, dtype=spec.dtype)
        else:
            noise = np.random.default_rng(0).normal(0, 1, spec.shape)
            feeds[spec.name] = noise.astype(spec.dtype)
    return feeds
