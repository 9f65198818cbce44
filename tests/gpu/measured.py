"""What `check.py` compares and times on any provider: results, copies, batches, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from splitbed.engine import Engine
from splitbed.errors import OutOfMemory, SplitbedError
from splitbed.session import ProviderChoice
from splitbed.tensor import Array
from tests.gpu.cases import Tail, difference, taking_turns

TOLERANCE = 1e-3
"""Of the largest magnitude: the same float32 sums in another order, without TF32."""

BATCHES = (1, 4, 8)
THREADS = (1, 4)


class Check:
    """One run: the provider, how long to measure, and what was found."""

    def __init__(self, provider: ProviderChoice, rounds: int) -> None:
        self.provider, self.rounds = provider, rounds
        self.found: list[tuple[str, bool | None, str]] = []

    def note(self, what: str, passed: bool | None, why: str = "") -> None:
        """Keep a result; None is a check that was left out."""
        self.found.append((what, passed, why))

    def engine(self, content: bytes, **options: Any) -> Engine:
        return Engine(content, **{"provider": self.provider, **options})


def compare(check: Check, every: list[Tail]) -> None:
    """Results against the CPU's, and the plain run against the bound one."""
    print("\nEvery tail, one frame: ms on the CPU, in a plain run, and with bound buffers")
    print(f"{'model':<14} {'cut':<20} {'kB in':>6} {'cpu':>7} {'plain':>7} {'bound':>7}", end="")
    print(f" {'bound/plain':>17} {'first':>6} {'off':>7}")
    worst = 0.0
    for tail in every:
        on_cpu = Engine(tail.content, provider="cpu")
        plain, bound = (check.engine(tail.content, bound=way) for way in (False, True))
        wanted, feeds = on_cpu.run(tail.feeds), tail.feeds
        off = max(difference(engine.run(feeds), wanted) for engine in (plain, bound))
        off = max(off, difference(bound.run(feeds), wanted))  # and again, in buffers that were used
        worst = max(worst, off)
        cpu_ms = median_ms(partial(on_cpu.run, feeds), check.rounds // 5)
        ways = {"plain": partial(plain.run, feeds), "bound": partial(bound.run, feeds)}
        timing = taking_turns(ways, check.rounds)
        print(
            f"{tail.model[:14]:<14} {tail.cut[-20:]:<20} {tail.crossing_bytes / 1e3:6.0f} "
            f"{cpu_ms:7.2f} {timing.ms['plain']:7.3f} {timing.ms['bound']:7.3f} {timing!s:>17} "
            f"{bound.first_inference_ns / 1e6:6.0f} {off:7.1e}",
            flush=True,
        )
    check.note("results equal the CPU's", worst <= TOLERANCE, f"{worst:.1e} of {TOLERANCE:.0e}")


def cross(check: Check, every: list[Tail]) -> None:
    """Values made on the host and sent, against symbols sent and values made on the device."""
    print("\nWhat crosses, of a frame: kB and ms to the device, computing, back; its share of all")
    print(f"{'':<26} {'values as numbers, ms':<36} {'symbols, ms':<18} {'both whole:':>17}")
    print(
        f"{'model':<12} {'cut':<13} {'kB in':>5} {'out':>5} {'in':>5} {'run':>6} {'out':>5}", end=""
    )
    print(f" {'pcie':>4} {'kB in':>5} {'in':>5} {'run':>6} {'symbols/values':>17}")
    worst = 0.0
    for tail in every:
        values = check.engine(tail.content, bound=True)
        symbols = check.engine(tail.quantised, bound=True)
        wanted = Engine(tail.content, provider="cpu").run(tail.values())
        worst = max(worst, difference(symbols.run(tail.symbols), wanted))
        values.warm_up(tail.shapes)
        timing = taking_turns(
            {"v": partial(_dequantised, values, tail), "s": partial(symbols.run, tail.symbols)},
            check.rounds,
        )
        floats = median_steps(values, tail.feeds, check.rounds)
        bytes_in = median_steps(symbols, tail.symbols, check.rounds)
        share_pct = 100 * (floats[0] + floats[2]) / sum(floats[:3])
        print(
            f"{tail.model[:12]:<12} {tail.cut[-13:]:<13} {floats[3] / 1e3:5.0f} "
            f"{floats[4] / 1e3:5.1f} {floats[0]:5.3f} {floats[1]:6.2f} {floats[2]:5.3f} "
            f"{share_pct:3.0f}% {bytes_in[3] / 1e3:5.0f} {bytes_in[0]:5.3f} {bytes_in[1]:6.2f} "
            f"{timing!s:>17}",
            flush=True,
        )
    check.note("symbols in equal values in", worst <= TOLERANCE, f"{worst:.1e}")


def batches(check: Check, every: list[Tail]) -> None:
    """Several frames in one run, each size warmed up before it is measured."""
    print("\nBatches, bound: ms until warm, ms a run, ms a frame")
    print(f"{'model':<16} {'cut':<20}", *(f"{f'batch {n}':>20}" for n in BATCHES))
    worst, tried = 0.0, 0
    for tail in every:
        engine, cells = check.engine(tail.content, bound=True), []
        for size in BATCHES:
            feeds = tail.batch(size)
            start_ns = time.perf_counter_ns()
            try:
                engine.warm_up_batches(tail.shapes, [size])
            except OutOfMemory:
                cells.append("no memory")
                continue
            except SplitbedError:
                cells.append("fixed")
                continue
            warm_ms = (time.perf_counter_ns() - start_ns) / 1e6
            together = engine.run(feeds)
            for i in range(size):
                alone = engine.run({name: a[i : i + 1] for name, a in feeds.items()})
                worst = max(worst, difference([a[i : i + 1] for a in together], alone))
            run_ms = median_ms(partial(engine.run, feeds), check.rounds)
            cells.append(f"{warm_ms:6.0f} {run_ms:6.2f} {run_ms / size:6.2f}")
            tried += 1
        print(f"{tail.model[:16]:<16} {tail.cut[-20:]:<20}", *(f"{c:>20}" for c in cells))
    passed = worst <= TOLERANCE if tried else None
    check.note("a batch gives each frame's own result", passed, f"{worst:.1e}")


def threads(check: Check, tail: Tail) -> None:
    """Several sessions share an engine: runs a second, and whose result is whose."""
    print(f"\nThreads on one engine ({tail.model} at {tail.cut[-30:]}): runs a second")
    print(f"{'threads':>7} {'plain':>8} {'bound':>8}")
    mixed = False
    for count in THREADS:
        rates = []
        for bound in (False, True):
            engine = check.engine(tail.content, bound=bound)
            feeds = [{n: a * (1 + i) for n, a in tail.feeds.items()} for i in range(count)]
            wanted = [engine.run(own) for own in feeds]
            wrong: list[float] = []
            workers = [
                threading.Thread(target=_repeat, args=(engine, *pair, check.rounds, wrong))
                for pair in zip(feeds, wanted, strict=True)
            ]
            start_ns = time.perf_counter_ns()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            rates.append(count * check.rounds / ((time.perf_counter_ns() - start_ns) / 1e9))
            mixed = mixed or bool(wrong)
        print(f"{count:>7} {rates[0]:8.0f} {rates[1]:8.0f}", flush=True)
    check.note("threads keep their own results", not mixed)


def _repeat(
    engine: Engine, feeds: Mapping[str, Array], wanted: Any, rounds: int, wrong: list[float]
) -> None:
    for _ in range(rounds):
        off = difference(engine.run(feeds), wanted)
        if off > TOLERANCE:
            wrong.append(off)


def _dequantised(engine: Engine, tail: Tail) -> list[Array]:
    return engine.run(tail.values())


def median_ms(run: Callable[[], object], rounds: int) -> float:
    return taking_turns({"a": run, "b": run}, max(2, rounds // 2)).ms["a"]


def median_steps(engine: Engine, feeds: Any, rounds: int) -> tuple[float, float, float, int, int]:
    steps = [engine.steps(feeds)[1] for _ in range(max(3, rounds))]
    up, run, down = (
        float(np.median([getattr(step, name) for step in steps])) / 1e6
        for name in ("upload_ns", "compute_ns", "download_ns")
    )
    return up, run, down, steps[0].upload_bytes, steps[0].download_bytes
