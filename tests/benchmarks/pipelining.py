"""Throughput with eight frames in flight against the slowest stage alone: head, link or tail.

    python tests/benchmarks/pipelining.py [--rounds 5] [--seconds 3] [--only '403200 rate=20']
        [--backend relay|kernel|auto] [--json]

Boundaries of 20 kB, 403 kB and 1.6 MB (the networks of end_to_end.py, codec raw) over three links,
each certified before and after every run; and 20 kB over the fastest link with most of the work in
the head, and in the tail. In each round, one after another so that they share the machine's moods:
the head alone and the tail alone (ONNX Runtime, one thread, a picture's values, nothing else
running), the link alone (a process that sends ready bytes of the same size, eight in flight, to a
tail that does nothing), then the device process with `--window 8`. The ratio is that run's frames
a second over those of the slowest alone, in the same round; median of the rounds, and the 95 %
interval of the mean by Student's t.

`cores` is what the machine's processors allow for the work that was really done: CPU time of
device, edge and relay for each frame, preprocessing, coding and transport included, over the
processors. Where that is less than the slowest stage, the processors limit, and `of all` compares
with the least of the four. The kernel's link has no relay, and what its queues take counts to no
process. Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from experiments.gestures import HELD_OUT_SEED, write_folder
from experiments.measurement import RunPlan, measure
from experiments.pictures import PictureSet, read_pictures
from experiments.planning import plan_run
from experiments.preparation import prepare_cut, prepare_model
from experiments.run_options import RunOptions
from experiments.testbed import Testbed, TestbedOptions
from netem.backend import choose
from netem.link import Link
from netem.profiles import find_profile
from netem.relay_link import ProcessLink
from splitbed.engine import Engine
from splitbed.process import guarded
from splitbed.record import FrameRecord, ResourceSample
from splitbed.run_folder import RunFolder, read_rows
from splitbed.runnable import carry
from splitbed.session import CutQuestion, Reply
from splitbed.student import spread95
from splitbed.tensor import Array
from splitbed.transport.grpc_client import GrpcTransport
from tests.benchmarks.end_to_end import BOUNDARIES, network
from tests.benchmarks.nodes import Program, end_with_benchmark
from tests.unit.edges import spec_for

LINKS = ("rate=20mbit,delay=10ms", "rate=100mbit,delay=5ms", "rate=1gbit,delay=1ms")
WINDOW = 8


def near(folder: Path, channels: int, side: int) -> Path:
    """The same boundary before a tail that only looks at one pixel of it."""
    rng = np.random.default_rng(channels)
    weights = rng.normal(0, 0.1, (channels, 3, 3, 3)).astype(np.float32)
    numbers = {"starts": [0, 0], "ends": [1, 1], "axes": [2, 3]}
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["boundary"], name="conv1"),
        helper.make_node("Slice", ["boundary", *numbers], ["pixel"]),
        helper.make_node("Flatten", ["pixel"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "near",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side + 2, side + 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, channels])],
        [
            numpy_helper.from_array(weights, "w1"),
            *(
                numpy_helper.from_array(np.array(values, np.int64), name)
                for name, values in numbers.items()
            ),
        ],
    )
    path = folder / f"near{channels}.onnx"
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    path.with_suffix(".toml").write_text("[task]\nmean = [127.5]\nstd = [127.5]\n")
    return path


def heavy(folder: Path, channels: int, side: int, where: str) -> Path:
    """The same boundary with half a GMAC more before it (`head`) or after it (`tail`)."""
    rng = np.random.default_rng(channels)
    weights = {
        "w0": rng.normal(0, 0.05, (64, 3, 3, 3)),
        "w1": rng.normal(0, 0.02, (64, 64, 5, 5)),
        "w2": rng.normal(0, 0.05, (channels, 3, 3, 3)),
        "w3": rng.normal(0, 0.05, (64, channels, 3, 3)),
        "w4": rng.normal(0, 0.05, (10, 64 if where == "tail" else channels, 3, 3)),
    }
    if where == "head":
        weights["w2"] = rng.normal(0, 0.05, (channels, 64, 3, 3))
        steps = [
            ("input", "w0", "a", 1),
            ("a", "w1", "b", 2),
            ("b", "w2", "boundary", 1),
            ("boundary", "w4", "deep", 0),
        ]
    else:
        steps = [
            ("input", "w2", "boundary", 0),
            ("boundary", "w3", "a", 1),
            ("a", "w1", "b", 2),
            ("b", "w4", "deep", 0),
        ]
    edge = side if where == "head" else side + 2
    nodes = [
        helper.make_node("Conv", [x, w], [y], name=y, pads=[pad] * 4) for x, w, y, pad in steps
    ]
    nodes += [
        helper.make_node("GlobalAveragePool", ["deep"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    used = {w for _, w, _, _ in steps}
    graph = helper.make_graph(
        nodes,
        where,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, edge, edge])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
            if name in used
        ],
    )
    path = folder / f"{where}{channels}.onnx"
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    path.with_suffix(".toml").write_text("[task]\nmean = [127.5]\nstd = [127.5]\n")
    return path


def engine_fps(engine: Engine, feeds: Mapping[str, Array], seconds: float) -> float:
    """Runs a second of one partition on a picture's values, nothing else going on."""
    feeds = {name: feeds[name] for name in engine.inputs}
    engine.run(feeds)
    runs, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        engine.run(feeds)
        runs += 1
    return runs / passed


def link_fps(address: str, model: str, frames: int) -> float:
    """Frames a second over the link with eight in flight and nothing to compute."""
    transport = GrpcTransport(address)
    try:
        answer = transport.describe_cut(CutQuestion(model, "boundary"))
        spec = spec_for(
            answer,
            run_id=f"{model}-alone",
            model=model,
            reply="result",
            window=WINDOW,
        )
        session = transport.open(spec)
        payload = memoryview(np.random.default_rng(0).bytes(answer.cut.nbytes))
        flying: collections.deque[Future[Reply]] = collections.deque()
        ends = []
        for number in range(WINDOW + 1 + frames):
            if len(flying) == WINDOW:
                ends.append(flying.popleft().result().complete_ns)
            flying.append(session.submit(number, (payload,)))
        ends += [future.result().complete_ns for future in flying]
        session.close()
    finally:
        transport.close()
    return (len(ends) - 1 - WINDOW) * 1e9 / (ends[-1] - ends[WINDOW])


def load(address: str, model: str) -> None:
    """The process that asks the link alone: frames a second, for each line with their number."""
    end_with_benchmark()
    for line in sys.stdin:
        print(link_fps(address, model, int(line)), flush=True)


class Relay:
    """The relay's CPU time during a run. Unlike the nodes, it leaves no samples of its own."""

    def __init__(self, link: Link) -> None:
        self._process: psutil.Process | None = None
        if isinstance(link, ProcessLink) and link.kind == "relay":
            self._process = psutil.Process(link.process.pid)
        self._seen: list[tuple[int, float]] = []

    def read(self, rows: int) -> None:
        """So many frames are answered by now."""
        if self._process is not None and (not self._seen or rows > self._seen[-1][0]):
            times = self._process.cpu_times()
            self._seen.append((rows, times.user + times.system))

    @property
    def frame_cpu_s(self) -> float:
        """CPU seconds for a frame; 0 where there is no relay."""
        if len(self._seen) < 2:
            return 0.0
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first)


def run_fps(testbed: Testbed, plan: RunPlan) -> tuple[float, float, list[str]]:
    """Frames a second of a device process; CPU seconds of all processes for one; violations."""
    run_id, relay = plan.new_run_id(), Relay(testbed.link)

    def progress(rows: int) -> None:
        if rows > plan.warmup:
            relay.read(rows)

    manifest = measure(testbed, plan, run_id, threading.Event(), progress)
    assert manifest.outcome == "complete", manifest.outcome
    folder = RunFolder(testbed.options.out / run_id)
    rows = [row for row in read_rows(folder.frames("device"), FrameRecord) if not row.warmup]
    assert [row.status for row in rows] == ["ok"] * plan.frames
    ends = [row.intended_ns + row.total_ns for row in rows]
    fps = (len(ends) - 1) * 1e9 / (ends[-1] - ends[0])
    cpu = relay.frame_cpu_s
    for node in ("device", "edge"):
        samples = list(read_rows(folder.resources(node), ResourceSample))
        # The middle of the run: neither its start nor its drain.
        kept = samples[1:-1] or samples
        seconds = sum(sample.interval_ns for sample in kept) / 1e9
        cpu += sum(sample.process_cpu_ns for sample in kept) / 1e9 / (seconds * fps)
    return fps, cpu, list(manifest.link_violations)


class Round(msgspec.Struct, frozen=True):
    """One round, in frames a second; `cores` from CPU time."""

    head: float
    link: float
    tail: float
    run: float
    cores: float

    @property
    def slowest(self) -> float:
        return min(self.head, self.link, self.tail)

    @property
    def ratio(self) -> float:
        return self.run / self.slowest

    @property
    def of_all(self) -> float:
        return self.run / min(self.slowest, self.cores)


def interval(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    return spread95(values)[1:]


def one(
    folder: Path,
    boundary: tuple[int, int],
    link: str,
    options: argparse.Namespace,
    where: str = "",
) -> dict[str, Any]:
    channels, side = boundary
    models = folder / f"models{channels}{where}"
    models.mkdir(exist_ok=True)
    bare = near(models, channels, side)
    path = heavy(models, channels, side, where) if where else network(models, channels, side)
    profile = find_profile(link)
    pictures = read_pictures(folder / "pictures", None)
    settings = TestbedOptions(
        profile=profile,
        kind=choose(options.backend, profile).kind,
        models=models,
        out=folder / "runs",
        remote=None,
        provider="cpu",
        edge_threads=1,
        certify_s=options.certify_s,
        sample_s=0.1,
        seed=0,
    )
    rounds, violations = [], set[str]()
    model = prepare_model(path)
    prepared = prepare_cut(model, "boundary")
    parts = []
    for part in (prepared.parts.first, prepared.parts.second):
        assert part is not None
        parts.append(Engine(part.content, provider="cpu", threads=1))
    feeds = dict(model.feeds(pictures.paths[0]))
    feeds |= carry(parts[0], feeds, ["boundary"])
    with contextlib.ExitStack() as stack:
        logs = folder / "logs" / f"{where}{channels}-{link}"
        testbed = stack.enter_context(Testbed(settings, logs))
        with testbed.on_device():  # threads of gRPC stay in the host in which they began
            loading = Program("load", __file__, "--load", testbed.link.address, bare.stem)
        stack.enter_context(loading)

        def link_alone(frames: int) -> float:
            loading.tell(f"{frames}")
            return float(loading.line())

        fps = link_alone(WINDOW)
        for _ in range(options.rounds):
            alone = [engine_fps(engine, feeds, 0.5) for engine in parts]
            expected = min(*alone, fps)
            frames = max(10, int(options.seconds * expected))
            fps = link_alone(frames)
            plan = _plan(path, link, frames, folder, pictures)
            run, cpu, found = run_fps(testbed, plan)
            violations |= set(found)
            rounds.append(Round(alone[0], fps, alone[1], run, (os.cpu_count() or 1) / cpu))
    return {
        "boundary_bytes": prepared.cut.nbytes,
        "link": link,
        "kind": settings.kind,
        "rounds": msgspec.to_builtins(rounds),
        **{
            name: float(np.median([getattr(r, name) for r in rounds]))
            for name in ("head", "tail", "run", "cores", "slowest", "ratio", "of_all")
        },
        "link_fps": float(np.median([r.link for r in rounds])),
        "ratio_interval": interval([r.ratio for r in rounds]),
        "of_all_interval": interval([r.of_all for r in rounds]),
        "violations": sorted(violations),
    }


def _plan(path: Path, link: str, frames: int, folder: Path, pictures: PictureSet) -> RunPlan:
    run = RunOptions(
        model=path,
        cut="boundary",
        images=folder / "pictures",
        link=link,
        frames=frames,
        warmup=2 * WINDOW,
        window=WINDOW,
        out=folder / "runs",
        sample_s=0.1,
        timeout_s=120,
    )
    return plan_run(prepare_model(path), run, pictures, folder, Console(quiet=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run, about")
    parser.add_argument("--certify-s", type=float, default=1.0)
    parser.add_argument("--only", default="", help="part of 'BYTES LINK', as in '403200 rate=20'")
    parser.add_argument("--backend", choices=("auto", "kernel", "relay"), default="relay")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(*options.load)
        return 0
    kinds = {choose(options.backend, find_profile(link)).kind for link in LINKS}
    wanted: Callable[[str], bool] = lambda name: options.only in name  # noqa: E731
    found = []
    if not options.json:
        print(
            f"{options.rounds} rounds, {WINDOW} in flight, {os.cpu_count()} cores"
            f"{', links of the kernel' if 'kernel' in kinds else ''}; frames a second"
        )
        print(
            "  boundary  link                      head    tail    link   cores     run  of slowest"
            "      of all"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "pictures", HELD_OUT_SEED, 20)
        cases = [(b, link, "") for b in BOUNDARIES[:3] for link in LINKS]
        cases += [(BOUNDARIES[0], LINKS[-1], where) for where in ("head", "tail")]
        for boundary, link, where in cases:
            if not wanted(f"{4 * boundary[0] * boundary[1] ** 2} {link} {where}"):
                continue
            row = one(folder, boundary, link, options, where)
            row["heavy"] = where
            found.append(row)
            if options.json:
                continue
            low, high = row["ratio_interval"]
            print(
                f"{row['boundary_bytes']:10,}  {f'{link} {where}':23} {row['head']:6.0f}  "
                f"{row['tail']:6.0f}  {row['link_fps']:6.1f}  {row['cores']:6.0f}  "
                f"{row['run']:6.1f}  {row['ratio']:.2f} {low:.2f}..{high:.2f}"
                f"  {row['of_all']:.2f}{'  !' if row['violations'] else ''}",
                flush=True,
            )
    if options.json:
        print(msgspec.json.encode(found).decode())
    elif any(row["violations"] for row in found):
        print("! the link was outside its tolerance before or after a run")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "pipelining"))
