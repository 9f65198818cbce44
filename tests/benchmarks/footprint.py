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
import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from experiments import children
from experiments.gestures import HELD_OUT_SEED, write_folder
from splitbed.host import described
from splitbed.record import FrameRecord, ResourceSample
from splitbed.run_folder import RunFolder, read_rows
from splitbed.session import Node
from splitbed.student import spread95
from tests.benchmarks.end_to_end import network

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


@contextlib.contextmanager
def an_edge(models: Path, out: Path) -> Iterator[str]:
    log = out / "edge.log"
    arguments = ["-m", "edge_node", "--listen", "127.0.0.1:0", "--status", "", "--threads", "1"]
    arguments += ["--models", str(models), "--records", str(out), "--sample-s", "0.25"]
    with log.open("ab") as errors:
        process = children.start_module(arguments, errors)
    try:
        yield children.ready_line(process, "edge", log)["address"]
    finally:
        children.end(process)


def device(
    address: str, model: str, pictures: Path, out: Path, run: str, frames: int, *more: object
) -> tuple[One, RunFolder]:
    files = RunFolder(out / run)
    arguments = ["-m", "device_node", "--edge", address, "--model", model, "--cut", "boundary"]
    arguments += ["--images", str(pictures), "--frames", str(frames), "--warmup", "0"]
    arguments += ["--out", str(out), "--run-id", run, "--cache", str(out / run / "head")]
    arguments += [str(word) for word in more]
    rows, start_s = files.frames("device"), time.perf_counter()
    with (out / f"{run}.log").open("ab") as errors:
        process = children.start_module(arguments, errors)
    try:
        while not (rows.exists() and rows.stat().st_size) and process.poll() is None:
            time.sleep(0.001)
        begun_s = time.perf_counter() - start_s
        process.wait(1800)
    finally:
        children.end(process)
    if process.returncode:
        raise SystemExit(children.last_words(out / f"{run}.log"))
    last = list(read_rows(files.resources("device"), ResourceSample))[-1]
    return One(begun_s, last.rss_bytes, last.rss_peak_bytes or 0), files


def bare(head: Path, pictures: Path, frames: int) -> One:
    start_s = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", BARE, str(head), str(pictures), str(frames)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == "first\n"
        begun_s = time.perf_counter() - start_s
        rss, peak = (int(line) for line in out)
    process.wait()
    return One(begun_s, rss, peak)


def compare(folder: Path, pictures: Path, rounds: int, frames: int) -> None:
    models, out = folder / "models", folder / "runs"
    found: dict[str, list[One]] = {"bare": [], "device": []}
    with an_edge(models, out) as address:
        _, files = device(address, "bench7", pictures, out, "warm", 3)  # the edge cuts the model
        head = next(path for path in (files.folder / "head").rglob("*") if path.is_file())
        bare(head, pictures, 3)
        for number in range(rounds):
            for turn in ("bare", "device") if number % 2 else ("device", "bare"):
                if turn == "bare":
                    found[turn].append(bare(head, pictures, frames))
                else:
                    one, _ = device(address, "bench7", pictures, out, f"compared{number}", frames)
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


def steady(folder: Path, pictures: Path, frames: int) -> None:
    out = folder / "runs"
    with an_edge(folder / "models", out) as address:
        _, files = device(address, "bench1", pictures, out, "steady", frames, "--sample-s", 0.25)
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
            compare(folder, folder / "pictures", options.rounds, options.frames)
        if options.steady:
            steady(folder, folder / "pictures", options.steady)
    return 0


if __name__ == "__main__":
    sys.exit(main())
