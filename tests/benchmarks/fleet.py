"""Sixteen device processes at once on one edge process, against one with eight frames in flight.

    python tests/benchmarks/fleet.py [--seconds 6] [--rounds 3] [--devices 16] [--batch 1]
        [--tails 0] [--cut stem] [--codec cast+zstd:3] [--json]

The devices are `python -m device_node`, with pictures of their own; each compares the full outputs
that come back with those of the uncut model on its own pictures (`--reference`), and frames whose
agreement is off by more than `--off` of the largest output are counted as wrong. Frames are counted
by the edge's own rows, in a stretch of time in which every device was sending. On a machine with
few processors this measures how heads, and sixteen interpreters, share them: `devices.py` is about
the edge.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_node.store import ModelStore
from experiments.gestures import HELD_OUT_SEED, write_folder
from splitbed.engine import Engine
from splitbed.process import guarded
from splitbed.record import EdgeFrameRecord, FrameRecord
from splitbed.run_folder import RunFolder, read_rows
from splitbed.task import Preprocessor, models_folder, read_picture
from tests.benchmarks.nodes import device, edge

PICTURES = 4
PATIENCE_S = 120.0


def prepare(folder: Path, models: Path, model: str, devices: int) -> None:
    """Pictures and the uncut model's outputs on them, for every device."""
    stored = ModelStore(models).get(model, ())
    task, (tensor,) = stored.task, stored.canonical.inputs
    assert task is not None
    working = Preprocessor(task, tensor.dtype)
    engine = Engine(stored.canonical.source.path, provider="cpu", threads=1)
    for number in range(devices):
        place = folder / f"pictures-{number}"
        write_folder(place, HELD_OUT_SEED + number, PICTURES)
        wanted: dict[str, Any] = {}
        for path in sorted(place.glob("*.png")):
            feed = {tensor.name: working.tensor(working.picture(read_picture(path)))}
            for name, array in zip(engine.outputs, engine.run(feed), strict=True):
                wanted[f"{path.name}/{name}"] = array
        np.savez(folder / f"reference-{number}.npz", **wanted)


class Found(msgspec.Struct):
    """One stretch of time."""

    frames: list[int]
    """Of each device."""
    checked: int
    wrong: int
    failed: int
    batch: float


def stretch(
    folder: Path, address: str, options: argparse.Namespace, name: str, devices: int, window: int
) -> Found:
    """Let devices run together for a while."""
    runs = [f"{name}-{number}" for number in range(devices)]
    records = [RunFolder(folder / "records" / run).frames("edge") for run in runs]
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                device(
                    *(address, options.model, options.cut, folder / f"pictures-{number}"),
                    *(folder / "out", run),
                    *("--codec", options.codec, "--reply", "full"),
                    *("--reference", folder / f"reference-{number}.npz", "--window", window),
                    *("--frames", "1000000", "--warmup", "1", "--connect-s", "60"),
                    *("--cache", folder / "cache"),
                )
            )
            for number, run in enumerate(runs)
        ]
        for one in nodes:
            stack.callback(one.process.terminate)  # all, before the first one is waited for
        deadline = time.monotonic() + PATIENCE_S
        while not all(path.exists() and path.stat().st_size > 10_000 for path in records):
            if time.monotonic() > deadline or any(one.process.poll() is not None for one in nodes):
                raise SystemExit("not every device came to send frames")
            time.sleep(0.1)
        start_ns = time.perf_counter_ns()
        time.sleep(options.seconds)
        end_ns = time.perf_counter_ns()
    frames, batches = [], []
    for path in records:
        # Both processes are this machine's, so that their clocks are one.
        within = [
            row.batch
            for row in read_rows(path, EdgeFrameRecord)
            if start_ns <= row.received_ns < end_ns
        ]
        frames.append(len(within))
        batches += within
    rows = [
        row
        for run in runs
        for row in read_rows(RunFolder(folder / "out" / run).frames("device"), FrameRecord)
    ]
    off = [row.result["agreement"]["max_rel"] for row in rows if row.result is not None]
    return Found(
        frames=frames,
        checked=len(off),
        wrong=sum(one > options.off for one in off),
        failed=sum(row.status != "ok" for row in rows),
        batch=float(np.mean(batches)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", type=int, default=16)
    parser.add_argument("--window", type=int, default=8, help="of the one device")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tails", type=int, default=0)
    parser.add_argument("--models", type=Path, default=models_folder())
    parser.add_argument("--model", default="gesture")
    parser.add_argument("--cut", default="stem")
    parser.add_argument("--codec", default="cast+zstd:3")
    parser.add_argument("--off", type=float, default=0.01, help="half floats cross")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[int, list[Found]] = {1: [], options.devices: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.models, options.model, options.devices)
        with edge(
            options.models,
            *("--tails", options.tails, "--batch", options.batch),
            records=folder / "records",
        ) as serving:
            for number in range(options.rounds):
                for devices, rounds in found.items():
                    window = options.window if devices == 1 else 1
                    run = f"{devices}-{number}"
                    rounds.append(stretch(folder, serving.address, options, run, devices, window))
    plain = np.asarray([sum(one.frames) for one in found[1]])
    rows: list[dict[str, Any]] = []
    for devices, rounds in found.items():
        together = np.asarray([sum(one.frames) for one in rounds])
        fair = [min(one.frames) / np.mean(one.frames) for one in rounds]
        rows.append(
            {
                "devices": devices,
                "checked": sum(one.checked for one in rounds),
                "wrong": sum(one.wrong for one in rounds),
                "failed": sum(one.failed for one in rounds),
                "rate": float(np.median(together)) / options.seconds,
                "batch": float(np.mean([one.batch for one in rounds])),
                "to_one": [float(ratio) for ratio in together / plain],
                "worst_to_mean": [float(ratio) for ratio in fair],
            }
        )
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return 0
    print(f"{options.model} at {options.cut}, {options.codec}; device processes; by round")
    print("devices  checked  wrong  failed  per s  batch  to one device        worst/mean")
    for row in rows:
        ratios = " ".join(f"{ratio:.2f}" for ratio in row["to_one"])
        fairness = " ".join(f"{ratio:.2f}" for ratio in row["worst_to_mean"])
        print(
            f"{row['devices']:7}  {row['checked']:7}  {row['wrong']:5}  {row['failed']:6}  "
            f"{row['rate']:5.0f}  {row['batch']:5.2f}  {ratios:19}  {fairness}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "fleet"))
