"""What splitbed itself adds to a frame, over loopback without a link.

    python tests/benchmarks/framework.py [--frames 100] [--rounds 6] [--pin] [--other TREE] [--json]

A real device process and a real edge process, codec raw, window 1, on generated networks (random
weights) whose boundary has the sizes given. Framework time of a frame is

    transport   round trip less the edge's own time: gRPC, HTTP/2, TCP, thread changes
    rest        end to end less all of its parts: bookkeeping between the device's stages

both read off the device's rows. Every round starts a device for every size; the interval of a
median comes from resampling rounds. In turn with it, `bare` is what gRPC's Python takes by itself:
two processes that pass on ready bytes of the same number (tests/benchmarks/echo.py), and compute
as long in between as the device did; what splitbed adds to that is the paired ratio. A frame of
more than a megabyte is one message there, and pieces in splitbed. `--other` does the same with
another source tree, `--pin` gives each process a processor.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.gestures import HELD_OUT_SEED, write_folder
from splitbed.process import guarded
from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_rows
from tests.benchmarks.end_to_end import network
from tests.benchmarks.nodes import ROOT, Program, device, edge

BOUNDARIES = ((1, 71), (7, 120), (25, 126), (91, 126))
"""Channels and side of boundaries of 20 kB, 403 kB, 1.6 MB and 5.8 MB."""

_WARMUP = 20

Samples = NDArray[np.float64]


def measured(
    tree: Path, folder: Path, address: str, model: str, frames: int, processor: int | None
) -> tuple[Samples, list[FrameRecord]]:
    """Transport and rest of every frame of one device, in nanoseconds; frames x 2. Its rows."""
    with tempfile.TemporaryDirectory() as out:
        with device(
            *(address, model, "boundary", folder / "pictures", Path(out), "r"),
            *("--frames", frames, "--warmup", _WARMUP, "--cache", folder / "cache"),
            tree=tree,
            processor=processor,
        ) as one:
            one.finish(120)
        rows = [
            row
            for row in read_rows(RunFolder(Path(out) / "r").frames("device"), FrameRecord)
            if not row.warmup and row.status == "ok"
        ]
    return np.asarray([(row.rtt_ns - row.edge_ns, row.rest_ns) for row in rows], np.float64), rows


def bare(rows: list[FrameRecord], processors: list[int | None]) -> Samples:
    """Round trips of bare messages as large as these frames', as often; frames x 2, the rest 0."""
    pause_ns = [
        later.submitted_ns - row.submitted_ns - row.rtt_ns
        for row, later in itertools.pairwise(rows)
    ]
    this, there = rows[0], ("-m", "tests.benchmarks.echo")
    with Program("echo", *there, "serve", this.reply_bytes, processor=processors[1]) as echo:
        words = (echo.address, this.request_bytes, len(rows) + _WARMUP, np.median(pause_ns) / 1e3)
        with Program("asker", *there, "ask", *words, processor=processors[0]) as asker:
            trips_ns = msgspec.json.decode(asker.line(), type=list[int])[_WARMUP:]
    return np.asarray([(trip_ns, 0) for trip_ns in trips_ns], np.float64)


def interval(rounds: list[Samples], statistic: Callable[[Samples], float]) -> tuple[float, float]:
    """95 % of a statistic over rounds drawn anew, 1000 times."""
    rng = np.random.default_rng(0)
    drawn = [
        statistic(np.concatenate([rounds[n] for n in rng.integers(0, len(rounds), len(rounds))]))
        for _ in range(1000)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def median_ms(samples: Samples) -> float:
    """Of transport and rest together."""
    return float(np.median(samples.sum(axis=1))) / 1e6


def row_of(size: int, tree: str, rounds: list[Samples]) -> dict[str, Any]:
    """One line of the table."""
    everything = np.concatenate(rounds)
    low, high = interval(rounds, median_ms)
    return {
        "bytes": size,
        "tree": tree,
        "frames": len(everything),
        "framework_ms": median_ms(everything),
        "low_ms": low,
        "high_ms": high,
        "transport_ms": float(np.median(everything[:, 0])) / 1e6,
        "rest_ms": float(np.median(everything[:, 1])) / 1e6,
        "p95_ms": float(np.quantile(everything.sum(axis=1), 0.95)) / 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100, help="a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sizes", type=int, default=len(BOUNDARIES), help="how many, small first")
    parser.add_argument("--pin", action="store_true", help="a processor for each process")
    parser.add_argument("--other", type=Path, help="another source tree, measured in turn")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    processors: list[int | None] = [None, None]
    usable = sorted(os.sched_getaffinity(0))
    if options.pin and len(usable) > 1:
        processors = [usable[0], usable[1]]
    trees = {"this": ROOT} | ({"other": options.other.resolve()} if options.other else {})
    found: dict[tuple[int, str], list[Samples]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as edges:
        folder = Path(name)
        write_folder(folder / "pictures", HELD_OUT_SEED, 4)
        models = []
        for channels, side in BOUNDARIES[: options.sizes]:
            models.append((network(folder, channels, side).stem, channels * side * side * 4))
        addresses = {
            tree: edges.enter_context(
                edge(folder, records=folder / "records", tree=place, processor=processors[1])
            ).address
            for tree, place in trees.items()
        }
        for number in range(options.rounds):
            order = list(trees.items())
            for model, size in models:
                for tree, place in order if number % 2 else reversed(order):
                    samples, kept = measured(
                        place, folder, addresses[tree], model, options.frames, processors[0]
                    )
                    found.setdefault((size, tree), []).append(samples)
                    if tree == "this":
                        least = bare(kept, processors)
                        found.setdefault((size, "bare"), []).append(least)
    rows = [row_of(size, tree, rounds) for (size, tree), rounds in sorted(found.items())]
    others = ["bare", *(["other"] if options.other else [])]
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return 0
    print(
        f"processes {'pinned to a processor each' if processors[0] is not None else 'not pinned'}"
    )
    print("    bytes  tree   frames  framework ms  95 % interval  transport   rest     p95")
    for row in rows:
        print(
            f"{row['bytes']:9,}  {row['tree']:5}  {row['frames']:6}  {row['framework_ms']:12.3f}  "
            f"{row['low_ms']:6.3f}..{row['high_ms']:5.3f}  {row['transport_ms']:9.3f}  "
            f"{row['rest_ms']:5.3f}  {row['p95_ms']:6.3f}"
        )
    for size, other in itertools.product(sorted({size for size, _ in found}), others):
        ratios = np.asarray(
            [
                median_ms(a) / median_ms(b)
                for a, b in zip(found[size, "this"], found[size, other], strict=True)
            ]
        )
        rng = np.random.default_rng(0)
        drawn = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        print(f"{size:9,}  this to {other:5} {np.median(ratios):.3f}  {low:.3f}..{high:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "framework"))
