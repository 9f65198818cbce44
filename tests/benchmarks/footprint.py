"""The device process against a bare ONNX Runtime script with the same head, and over 10,000 frames.

    python tests/benchmarks/footprint.py [--rounds 8] [--frames 40] [--steady 10000]

Memory and start: both take turns (script, device, device, script) on the same pictures, one thread,
a boundary of 403 kB, window 1, a real edge process on loopback. The script imports ONNX Runtime,
numpy and Pillow, loads the same head file, and runs it on pictures read and scaled as the task
says. Start is from the moment the process is started until its first frame is answered (device:
head fetched, session agreed, first row written; script: first output). RSS is the last one, and the
high-water mark of the process; differences are paired, with Student's 95 % interval.

Steady: frames of 20 kB one after the other. RSS by number of frames of device and edge, the first
tenth left out, and of the second half alone: an allocator grows by a step now and then until it has
what it needs, a leak goes on. The slope is the mean of the steps between the medians of ten blocks,
with Student's interval over the steps.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from experiments.gestures import HELD_OUT_SEED, write_folder
from splitbed.host import described
from splitbed.process import guarded
from splitbed.record import FrameRecord, ResourceSample
from splitbed.run_folder import RunFolder, read_rows
from splitbed.session import Node
from splitbed.student import spread95
from tests.benchmarks.end_to_end import network
from tests.benchmarks.nodes import Program, device, edge

BLOCKS = 10

BARE = """
import pathlib, sys
import numpy as np
import onnxruntime as ort
from PIL import Image
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
name, side = session.get_inputs()[0].name, session.get_inputs()[0].shape[2]
pictures = sorted(pathlib.Path(sys.argv[2]).glob("*.png"))
for number in range(int(sys.argv[3])):
    with Image.open(pictures[number % len(pictures)]) as file:
        image = file.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    tensor = (np.asarray(image, np.float32) - 127.5) / 127.5
    session.run(None, {name: tensor.transpose(2, 0, 1)[None].copy()})
    if number == 0:
        print("first", flush=True)
status = pathlib.Path("/proc/self/status").read_text()
for key in ("VmRSS:", "VmHWM:"):
    print(int(status.split(key)[1].split()[0]) * 1024)
"""


class One(msgspec.Struct, frozen=True):
    """One process from start to end."""

    start_s: float
    rss_bytes: float
    peak_bytes: float


def an_edge(folder: Path) -> Program:
    return edge(folder / "models", "--sample-s", "0.25", records=folder / "runs")


def measured(
    address: str, model: str, folder: Path, run: str, frames: int, *more: object
) -> tuple[One, RunFolder]:
    out = folder / "runs"
    files = RunFolder(out / run)
    rows, start_s = files.frames("device"), time.perf_counter()
    with device(
        *(address, model, "boundary", folder / "pictures", out, run),
        *("--frames", frames, "--warmup", "0", "--cache", out / run / "head", *more),
    ) as node:
        while not (rows.exists() and rows.stat().st_size) and node.process.poll() is None:
            time.sleep(0.001)
        begun_s = time.perf_counter() - start_s
        node.finish(1800)
    last = list(read_rows(files.resources("device"), ResourceSample))[-1]
    return One(begun_s, last.rss_bytes, last.rss_peak_bytes or 0), files


def bare(head: Path, pictures: Path, frames: int) -> One:
    start_s = time.perf_counter()
    with Program("script", "-c", BARE, head, pictures, frames) as script:
        assert script.line() == "first\n"
        begun_s = time.perf_counter() - start_s
        return One(begun_s, int(script.line()), int(script.line()))


def compare(folder: Path, rounds: int, frames: int) -> None:
    pictures = folder / "pictures"
    found: dict[str, list[One]] = {"bare": [], "device": []}
    with an_edge(folder) as node:
        address = node.address
        _, files = measured(address, "bench7", folder, "warm", 3)  # the edge cuts the model
        head = next(path for path in (files.folder / "head").rglob("*") if path.is_file())
        bare(head, pictures, 3)
        for number in range(rounds):
            for turn in ("bare", "device") if number % 2 else ("device", "bare"):
                if turn == "bare":
                    found[turn].append(bare(head, pictures, frames))
                else:
                    one, _ = measured(address, "bench7", folder, f"compared{number}", frames)
                    found[turn].append(one)
    print(f"boundary 403 kB, window 1, {frames} frames, {rounds} rounds, paired")
    print("              bare script      device       difference (95 %)               at most")
    for name, unit, scale, most in (
        ("start_s", "s", 1.0, 1.5),
        ("rss_bytes", "MB", 1e6, 80.0),
        ("peak_bytes", "MB", 1e6, 80.0),
    ):
        a, b = ([getattr(one, name) / scale for one in found[key]] for key in ("bare", "device"))
        middle, low, high = spread95([y - x for x, y in zip(a, b, strict=True)])
        print(
            f"  {name.rpartition('_')[0]:<6} {unit:<3} {median(a):10.2f} {median(b):14.2f} "
            f"{middle:+14.2f} ({low:+.2f} to {high:+.2f}) {most:>14g}"
        )


def steady(folder: Path, frames: int) -> None:
    with an_edge(folder) as serving:
        _, files = measured(
            *(serving.address, "bench1", folder, "steady", frames), "--sample-s", "0.25"
        )
    rows = list(read_rows(files.frames("device"), FrameRecord))
    ok = sum(row.status == "ok" for row in rows)
    begun_ns = np.array([row.intended_ns for row in rows])
    print(f"\nboundary 20 kB, window 1: {ok} of {frames} frames answered")
    print("              RSS first to last    bytes in 1000 frames (95 %), of them the second half")
    nodes: tuple[Node, Node] = ("device", "edge")
    for node in nodes:
        samples = list(read_rows(files.resources(node), ResourceSample))
        reached = np.searchsorted(begun_ns, [sample.t_ns for sample in samples])
        rss = [sample.rss_bytes for sample in samples]
        found = [slope(rss, reached, frames / 10, frames), slope(rss, reached, frames / 2, frames)]
        text = "".join(f"{m:+12.0f} ({low:+.0f} to {high:+.0f})" for m, low, high in found)
        print(f"  {node:<7} {rss[0] / 1e6:8.1f} to {rss[-1] / 1e6:.1f} MB{text}")


def slope(rss: list[int], at: Any, begin: float, end: float) -> tuple[float, float, float]:
    edges = np.linspace(begin, end, BLOCKS + 1)
    middles = [
        float(np.median([r for r, a in zip(rss, at, strict=True) if low <= a <= high]))
        for low, high in itertools.pairwise(edges)
    ]
    each = (edges[1] - edges[0]) / 1000
    return spread95([float(step) / each for step in np.diff(middles)])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--steady", type=int, default=10_000)
    options = parser.parse_args()
    print(f"{described()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("models", "runs"):
            (folder / part).mkdir()
        write_folder(folder / "pictures", HELD_OUT_SEED, 20)
        network(folder / "models", 7, 120)
        network(folder / "models", 1, 71)
        if options.rounds > 1:
            compare(folder, options.rounds, options.frames)
        if options.steady:
            steady(folder, options.steady)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "footprint"))
