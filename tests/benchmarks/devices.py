"""Sixteen devices at once on one edge, against one device that keeps the edge busy alone.

    python tests/benchmarks/devices.py [--seconds 4] [--rounds 6] [--devices 16] [--batch 8]
        [--cut layer2] [--codec cast+zstd:3] [--threads 1] [--tails 0] [--processes 2]
        [--other TREE] [--json]

One device has `--window` frames in flight (8), each of several has one. Devices have inputs of
their own, and compare every reply with what ONNX Runtime makes of that input here (1e-4): a reply
that was lost, or went to another device, is counted. They are threads in a few processes, with a
gRPC connection each: sixteen Python processes on a machine with few processors would measure how
that changes between processes. Payloads are coded before, so that the edge is what is busy.

Rounds take every edge (with and without batches, and that of `--other`, another source tree) and
both loads in turn. The ratios are paired within a round; intervals come from resampling rounds.
Throughput is of the time in which all devices were sending; CPU ms is the edge process's, of a
frame.
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from splitbed import codec
from splitbed.engine import Engine
from splitbed.graph import extract, find_cut
from splitbed.process import guarded
from splitbed.session import SPLIT, CutQuestion, Reply, SessionSpec
from splitbed.task import models_folder
from splitbed.transport.grpc_client import GrpcTransport
from tests.benchmarks.nodes import ROOT, Program, edge, end_with_benchmark

INPUTS = 4
"""Different inputs of one device."""
TOLERANCE = 1e-4


class Load(msgspec.Struct):
    """What one device did in a stretch of time."""

    frames: int = 0
    wrong: int = 0
    failed: int = 0
    batch_sum: int = 0
    queue_ns: list[int] = []


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Payloads and wanted outputs of every device, in a file for each."""
    from edge_node.store import ModelStore

    stored = ModelStore(options.models).get(options.model, ())
    point = find_cut(stored.canonical, stored.points, options.cut, "the model")
    parts = extract(stored.canonical, point)
    assert parts.first is not None
    assert parts.second is not None
    head = Engine(parts.first.content, provider="cpu", threads=1)
    tail = Engine(parts.second.content, provider="cpu", threads=1)
    codecs = [
        codec.build(one, tensor)
        for one, tensor in zip(
            codec.plan(options.codec, parts.cut.boundary, None), parts.cut.boundary, strict=True
        )
    ]
    rng = np.random.default_rng(0)
    for device in range(options.devices):
        made = []
        for _ in range(INPUTS):
            feed = {
                spec.name: rng.uniform(-1, 1, spec.shape).astype(spec.numpy_dtype)
                for spec in stored.canonical.inputs
            }
            crossing = feed | dict(
                zip(head.outputs, head.run({n: feed[n] for n in head.inputs}), strict=True)
            )
            sent = [bytes(c.encode(crossing[c.spec.name])) for c in codecs]
            got = {c.spec.name: c.decode(data) for c, data in zip(codecs, sent, strict=True)}
            wanted = [array.tobytes() for array in tail.run({n: got[n] for n in tail.inputs})]
            made.append((sent, wanted))
        (folder / f"{device}.load").write_bytes(pickle.dumps(made))


class Device:
    """One device: a connection and a session of its own."""

    def __init__(self, folder: Path, number: int, options: argparse.Namespace) -> None:
        self._made = pickle.loads((folder / f"{number}.load").read_bytes())
        self._window = options.window
        self._transport = GrpcTransport(options.generate)
        answer = self._transport.describe_cut(CutQuestion(options.model, options.cut))
        codecs = codec.plan(options.codec, answer.cut.boundary, None)
        self._session = self._transport.open(
            SessionSpec(
                f"device-{number}",
                options.model,
                answer.model_digest,
                SPLIT,
                answer.cut,
                codecs,
                "full",
                answer.task_json,
                window=options.window,
            )
        )
        self.load = Load()
        self._number = 0
        self._flying: deque[tuple[int, Future[Reply]]] = deque()

    def fly(self, until_s: float) -> Load:
        """Keep the window full until then; only what is answered by then counts."""
        self.load = load = Load()
        while time.monotonic() < until_s:
            while len(self._flying) < self._window:
                which = self._number % INPUTS
                self._flying.append(
                    (which, self._session.submit(self._number, tuple(self._made[which][0])))
                )
                self._number += 1
            self._land(load)
        counted = msgspec.structs.replace(load)
        while self._flying:
            self._land(load)  # checked all the same
        return msgspec.structs.replace(load, frames=counted.frames)

    def _land(self, load: Load) -> None:
        which, future = self._flying.popleft()
        reply = future.result(20)
        if reply.error is not None:
            load.failed += 1
            return
        load.frames += 1
        load.batch_sum += reply.times.batch
        for payload, wanted in zip(reply.payloads, self._made[which][1], strict=True):
            got, right = np.frombuffer(payload, np.float32), np.frombuffer(wanted, np.float32)
            limit = TOLERANCE * max(1.0, float(np.abs(right).max()))
            load.wrong += got.shape != right.shape or float(np.abs(got - right).max()) > limit

    def close(self) -> None:
        self._session.close()
        self._transport.close()


def generate(options: argparse.Namespace) -> None:
    """A process of load: devices from `--first`, one line for each stretch asked for."""
    end_with_benchmark()
    folder = Path(options.folder)
    devices = [Device(folder, options.first + number, options) for number in range(options.devices)]
    for line in sys.stdin:
        until_s = time.monotonic() + float(line)
        threads = [
            threading.Thread(target=device.fly, args=(until_s,), daemon=True) for device in devices
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sys.stdout.write(msgspec.json.encode([device.load for device in devices]).decode() + "\n")
        sys.stdout.flush()
    for device in devices:
        device.close()


class Loads:
    """Processes of load on one edge; they end with the block."""

    def __init__(self, address: str, folder: Path, options: argparse.Namespace, many: bool) -> None:
        processes = min(options.processes, options.devices) if many else 1
        devices = options.devices if many else 1
        window = 1 if many else options.window
        counts = [
            devices // processes + (number < devices % processes) for number in range(processes)
        ]
        self._words = [
            [
                *(__file__, "--generate", address, "--folder", folder),
                *("--first", sum(counts[:number]), "--devices", count, "--window", window),
                *("--model", options.model, "--cut", options.cut, "--codec", options.codec),
            ]
            for number, count in enumerate(counts)
        ]
        self._nodes: list[Program] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Loads:
        with contextlib.ExitStack() as stack:
            self._nodes = [stack.enter_context(Program("load", *words)) for words in self._words]
            self.run(0.5)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, seconds: float) -> list[Load]:
        """All devices at once, for that long."""
        for node in self._nodes:
            node.tell(f"{seconds}")
        return [
            load
            for node in self._nodes
            for load in msgspec.json.decode(node.line(), type=list[Load])
        ]


class Round(msgspec.Struct):
    """One stretch of load on one edge."""

    loads: list[Load]
    edge_cpu_s: float


def cpu_s(process: psutil.Process) -> float:
    """Processor time that a process has had."""
    times = process.cpu_times()
    return float(times.user + times.system)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % of the median of rounds drawn anew."""
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(values, (2000, len(values))), axis=1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def measure(folder: Path, options: argparse.Namespace) -> dict[tuple[str, bool], list[Round]]:
    """Loads of every round, by edge and by whether there were many devices."""
    plain = ("--tails", options.tails)
    batched = (*plain, "--batch", options.batch, "--batch-wait-ms", options.batch_wait_ms)
    found: dict[tuple[str, bool], list[Round]] = {}
    with contextlib.ExitStack() as stack:

        def started(tree: Path, *more: object) -> Program:
            return stack.enter_context(
                edge(options.models, *more, threads=options.threads, tree=tree)
            )

        edges = {"one by one": started(ROOT, *plain)}
        if options.batch > 1:
            edges[f"batch {options.batch}"] = started(ROOT, *batched)
        if options.other:
            edges["other tree"] = started(options.other.resolve())
        loads = {
            (name, many): stack.enter_context(Loads(node.address, folder, options, many))
            for name, node in edges.items()
            for many in (False, True)
        }
        for number in range(options.rounds):
            order = list(loads.items())
            for key, load in order if number % 2 else reversed(order):
                process = psutil.Process(edges[key[0]].process.pid)
                before = cpu_s(process)
                loads_now = load.run(options.seconds)
                found.setdefault(key, []).append(Round(loads_now, cpu_s(process) - before))
    return found


def rows_of(found: dict[tuple[str, bool], list[Round]], seconds: float) -> list[dict[str, Any]]:
    """One line for each edge and load; ratios to the one device on the same edge."""
    rows = []
    rates = {
        key: np.asarray([sum(load.frames for load in one.loads) / seconds for one in rounds])
        for key, rounds in found.items()
    }
    plain = rates["one by one", False]
    for name, many in sorted(found):
        rounds = found[name, many]
        every = [load for one in rounds for load in one.loads]
        fair = np.asarray(
            [
                min(load.frames for load in one.loads) / np.mean([x.frames for x in one.loads])
                for one in rounds
            ]
        )
        frames = sum(load.frames for load in every)
        rate, to_plain = rates[name, many], rates[name, many] / plain
        rows.append(
            {
                "edge": name,
                "devices": len(rounds[0].loads),
                "frames": frames,
                "wrong": sum(load.wrong for load in every),
                "failed": sum(load.failed for load in every),
                "rate": float(np.median(rate)),
                "to_one": float(np.median(to_plain)),
                "to_one_interval": interval(to_plain),
                "worst_to_mean": float(np.median(fair)),
                "worst_to_mean_interval": interval(fair),
                "batch": sum(load.batch_sum for load in every) / max(1, frames),
                "edge_cpu_ms": sum(one.edge_cpu_s for one in rounds) / max(1, frames) * 1e3,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--devices", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2, help="of load")
    parser.add_argument("--window", type=int, default=8, help="of the one device")
    parser.add_argument("--batch", type=int, default=8, help="1: measure no batches")
    parser.add_argument("--batch-wait-ms", type=float, default=2.0)
    parser.add_argument("--tails", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of one tail")
    parser.add_argument("--models", type=Path, default=models_folder())
    parser.add_argument("--model", default="gesture")
    parser.add_argument("--cut", default="layer2")
    parser.add_argument("--codec", default="cast+zstd:3")
    parser.add_argument("--other", type=Path, help="another source tree, measured in turn")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--generate", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.generate:
        generate(options)
        return 0
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options)
        rows = rows_of(measure(Path(name), options), options.seconds)
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return 0
    print(
        f"{options.model} at {options.cut}, {options.codec}; {options.rounds} rounds of "
        f"{options.seconds:g} s; to one: to one device, one by one"
    )
    print(
        "edge        devices  frames  wrong  failed  per s  batch  CPU ms  to one  95 %        "
        "worst/mean"
    )
    for row in rows:
        low, high = row["to_one_interval"]
        fair_low, fair_high = row["worst_to_mean_interval"]
        print(
            f"{row['edge']:10}  {row['devices']:7}  {row['frames']:6}  {row['wrong']:5}  "
            f"{row['failed']:6}  {row['rate']:5.0f}  {row['batch']:5.2f}  "
            f"{row['edge_cpu_ms']:6.2f}  {row['to_one']:6.2f}  {low:.2f}..{high:.2f}  "
            f"{row['worst_to_mean']:.2f} {fair_low:.2f}..{fair_high:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "devices"))
