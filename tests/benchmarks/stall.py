"""An edge that stops for two seconds under an open loop: is every frame's wait in the rows?

    python tests/benchmarks/stall.py [--frames 400] [--stall-s 2] [--link rate=5mbit,delay=5ms]

A device, a relay link that limits, and an edge, as processes. First the capacity: the median gap
between two replies of a closed loop. Then `--load rate:` at 80 % of it, and the edge is stopped
(SIGSTOP) on the way and goes on (SIGCONT) after `--stall-s`. What the rows record of every frame
that was due while the edge stood still, and while the queue drained, is compared with arithmetic
that knows only the schedule, the capacity, the median before the stall, and when the edge stopped
and went on: a frame waits for the link and for a place in the window, a request that reaches a
stopped edge waits for its end, and the queue drains at capacity. Last the same stall under a closed
loop, which asks for nothing while it waits: few frames show it there.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from experiments.gestures import HELD_OUT_SEED, write_folder
from experiments.measurement import measure
from experiments.pictures import read_pictures
from experiments.planning import plan_run
from experiments.preparation import prepare_model
from experiments.run_options import RunOptions
from experiments.testbed import Testbed, TestbedOptions
from netem.profiles import find_profile
from splitbed.process import guarded
from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_rows
from tests.benchmarks.end_to_end import network

WINDOW = 3
"""Three frames of 20 kB fit into what HTTP/2 sends to a peer that does not read."""
SHARE = 0.8


class Run(msgspec.Struct, frozen=True):
    rows: list[FrameRecord]
    stall_ns: tuple[int, int]
    """When the edge stopped and went on, from the start of the run; zeros where it did not."""
    violations: tuple[str, ...]

    @property
    def measured(self) -> list[FrameRecord]:
        return [row for row in self.rows if not row.warmup]


class Bench:
    def __init__(self, testbed: Testbed, path: Path, folder: Path, options: Any) -> None:
        self.testbed, self.path, self.folder, self.options = testbed, path, folder, options

    def run(self, frames: int, stall_s: float, **load: Any) -> Run:
        asked = RunOptions(
            model=self.path,
            cut="boundary",
            images=self.folder / "pictures",
            link=self.options.link,
            frames=frames,
            out=self.folder / "runs",
            window=WINDOW,
            **load,
        )
        pictures = read_pictures(self.folder / "pictures", None)
        plan = plan_run(prepare_model(self.path), asked, pictures, self.folder, Console(quiet=True))
        run_id = plan.new_run_id()
        times = [0, 0]
        stalling = threading.Thread(target=self._stall, args=(stall_s, times))

        def progress(rows: int) -> None:
            if stall_s and rows > frames // 4 and not stalling.ident:
                stalling.start()

        manifest = measure(self.testbed, plan, run_id, threading.Event(), progress)
        assert manifest.outcome == "complete", manifest.outcome
        assert manifest.load is not None
        if stall_s:
            stalling.join()
            times = [at - manifest.load["clock_ns"] for at in times]
        rows = list(
            read_rows(RunFolder(self.testbed.options.out / run_id).frames("device"), FrameRecord)
        )
        return Run(rows, (times[0], times[1]), manifest.link_violations)

    def _stall(self, stall_s: float, times: list[int]) -> None:
        assert self.testbed.edge is not None
        edge = self.testbed.edge.pid
        os.kill(edge, signal.SIGSTOP)
        times[0] = time.perf_counter_ns()
        time.sleep(stall_s)
        os.kill(edge, signal.SIGCONT)
        times[1] = time.perf_counter_ns()


def arithmetic(
    due_ns: list[int], service_ns: float, base_ns: float, back_ns: float, stall_ns: tuple[int, int]
) -> list[float]:
    """Latency of each frame due at these times. All times in nanoseconds.

    `service_ns` is what one frame takes of the link, `base_ns` the latency without any queue, and
    `back_ns` from a request's arrival at the edge until the end.
    """
    began, ended = stall_ns
    ends: list[float] = []
    free_ns = 0.0
    for number, at_ns in enumerate(due_ns):
        place_ns = ends[number - WINDOW] if number >= WINDOW else 0.0
        free_ns = max(at_ns, free_ns, place_ns) + service_ns
        end_ns = free_ns + base_ns - service_ns
        if began <= end_ns - back_ns < ended:
            end_ns = ended + back_ns
        ends.append(max(end_ns, ends[-1]) if ends else end_ns)
    return [end_ns - at_ns for end_ns, at_ns in zip(ends, due_ns, strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--stall-s", type=float, default=2.0)
    parser.add_argument("--link", default="rate=5mbit,delay=5ms")
    parser.add_argument("--certify-s", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "pictures", HELD_OUT_SEED, 20)
        path = network(folder, 1, 71)
        profile = find_profile(options.link)
        settings = TestbedOptions(
            profile=profile,
            kind="relay",
            models=path,
            out=folder / "runs",
            remote=None,
            provider="cpu",
            edge_threads=1,
            certify_s=options.certify_s,
            sample_s=0.5,
            seed=0,
        )
        with Testbed(settings, folder / "logs") as testbed:
            bench = Bench(testbed, path, folder, options)
            busy = bench.run(100, 0, load="closed")
            ends = [row.intended_ns + row.total_ns for row in busy.measured]
            capacity = 1e9 / float(np.median(np.diff(ends)))
            rate = SHARE * capacity
            held = bench.run(options.frames, options.stall_s, load=f"rate:{rate:.3f}")
            closed = bench.run(options.frames, options.stall_s, load="closed")
    rows = held.measured
    began, ended = held.stall_ns
    due = [n for n, row in enumerate(rows) if began <= row.intended_ns < ended]
    before = [row for row in rows if row.intended_ns + row.total_ns < began]
    base_ns = float(np.median([row.total_ns for row in before]))
    one_way_ns = profile.down.delay_ns
    back_ns = one_way_ns + float(np.median([row.edge_ns + row.finish_ns for row in before]))
    predicted = arithmetic(
        [row.intended_ns for row in rows], 1e9 / capacity, base_ns, back_ns, held.stall_ns
    )
    scheduled = [int(n * 1e9 / rate) + rows[0].intended_ns for n in range(options.frames)]
    wanted = sum(began <= at < ended for at in scheduled)
    off = np.array([(rows[n].total_ns - predicted[n]) / 1e6 for n in due])
    drained = [
        n for n in range(len(rows)) if rows[n].intended_ns >= ended and predicted[n] > 1.5 * base_ns
    ]
    later = np.array([(rows[n].total_ns - predicted[n]) / 1e6 for n in drained])
    totals = np.array([row.total_ns for row in rows]) / 1e6
    stalled = np.array([row.total_ns for row in closed.measured]) / 1e6
    print(
        f"capacity {capacity:.2f} frames a second over {options.link}; open loop at {rate:.2f}; "
        f"edge stopped for {(ended - began) / 1e9:.3f} s"
    )
    print("                             frames  median off ms  largest off ms  median latency ms")
    for what, numbers, values in (
        ("due in the stall", due, off),
        ("due while it drains", drained, later),
    ):
        print(
            f"{what:27}  {len(numbers):6}  {np.median(values):+13.2f}  "
            f"{values[np.abs(values).argmax()]:+14.2f}  "
            f"{np.median([rows[n].total_ns for n in numbers]) / 1e6:17.1f}"
        )
    print(f"due in the stall by the schedule: {wanted}, recorded: {len(due)}")
    print("                    p50 ms    p99 ms    max ms  frames above half the stall")
    for what, values in (("open loop", totals), ("closed loop", stalled)):
        print(
            f"{what:17} {np.median(values):8.1f}  {np.quantile(values, 0.99):8.1f}  "
            f"{values.max():8.1f}  {int((values > 500 * options.stall_s).sum()):27}"
        )
    for sentence in {*busy.violations, *held.violations, *closed.violations}:
        print(f"link: {sentence}")
    return 0 if wanted == len(due) else 1


if __name__ == "__main__":
    sys.exit(guarded(main, "stall"))
