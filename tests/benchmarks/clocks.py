"""Whether the bound of the clocks' offset holds, and how small it is, with the truth known.

    python tests/benchmarks/clocks.py [--trials 100] [--frames 15] [--seed 1] [--json]

A device runs against an edge process, through a relay process, as always; but a wrapper about its
transport passes every time stamp of the edge through a clock of its own: seconds off, drifting by
up to 200 ppm, its rate wandering by up to 15 ppm about that. Each trial has its own clock and is
one whole run. The bound holds in a trial if, for every frame, the offset and both one-way times
that the rows and the hindsight give are within their bounds of the truth, which the wrapper knows.

The links take turns: the same 20 ms either way; 5 ms up and 35 down; 20 ms with jitter; 20 ms and
50 Mbit/s that another connection fills in bursts. `bound` and `error` are of the offset at the
frames, in ms: the median, and the largest of the trials' medians. `up` and `down`: share of frames
whose one-way time was known well enough to be in the row. `half rtt` is the same run without what
is known of the link's delays.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from device_node.__main__ import Device
from device_node.options import DeviceOptions
from experiments.children import end, ready_line, start_module
from netem.least_delay import least_delays_ns
from netem.probe import ProbeClient
from netem.relay_link import ProcessLink
from netem.transfer import TransferPlan
from splitbed.address import host_and_port
from splitbed.clock import ClockHistory, LeastDelays, OffsetAt, history_of, one_ways
from splitbed.host import described
from splitbed.link import Direction, LinkProfile
from splitbed.progress import Progress
from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_rows
from splitbed.session import ClockExchange
from tests.unit.clocks import Clock, ShiftedTransport
from tests.unit.edges import drawn_pictures, model_folder

MS, S = 1_000_000, 1_000_000_000
MOST_DRIFT, MOST_WANDER = 200e-6, 15e-6


def both(**fields: Any) -> tuple[Direction, Direction]:
    return Direction(**fields), Direction(**fields)


LINKS = {
    "20 ms": LinkProfile("20 ms", *both(delay_ns=20 * MS)),
    "5 and 35 ms": LinkProfile(
        "5 and 35 ms", Direction(delay_ns=5 * MS), Direction(delay_ns=35 * MS)
    ),
    "20 ms, jitter 2": LinkProfile("20 ms, jitter 2", *both(delay_ns=20 * MS, jitter_ns=2 * MS)),
    "20 ms, loaded": LinkProfile("20 ms, loaded", *both(rate_bps=50 * MS, delay_ns=20 * MS)),
}
TARGET, TARGET_MS = "20 ms", 1.0


def drawn_clock(seed: int) -> Clock:
    drawn = random.Random(seed)
    return Clock(
        drawn.randint(-10 * S, 10 * S),
        drawn.uniform(-MOST_DRIFT, MOST_DRIFT),
        drawn.uniform(-MOST_WANDER, MOST_WANDER),
        period_s=3.0,
        start_ns=time.perf_counter_ns(),
    )


class Trial(msgspec.Struct):
    held: bool
    bound_ms: float
    error_ms: float
    up_pct: float
    down_pct: float
    plain_held: bool
    plain_bound_ms: float


def trial(link: ProcessLink, pictures: list[Path], folder: Path, frames: int, seed: int) -> Trial:
    least = least_delays_ns(link.profile)
    options = DeviceOptions(
        edge=link.address,
        model="tiny",
        cut="right",
        out=folder / "runs",
        run_id=f"{link.profile.name.replace(' ', '').replace(',', '-')}-{seed}",
        cache=folder / "cache",
        frames=frames,
        warmup=1,
        clock_s=0.25,
        orchestrated=True,
        link_delay_ms=",".join(f"{ns / 1e6:.6f}" for ns in least),
    )
    transport = ShiftedTransport(link.address, drawn_clock(seed))
    try:
        Device(options).run(transport, pictures, threading.Event())
    finally:
        transport.close()
    files = RunFolder(options.out / options.run_id)
    rows = list(read_rows(files.frames("device"), FrameRecord))
    exchanges = list(read_rows(files.clock(), ClockExchange))
    history = history_of(exchanges, LeastDelays(*least))
    plain = ClockHistory(exchanges)
    facts = files.read_session()["clock"]
    drift_off_ppm = abs(facts["drift_ppm"] - 1e6 * transport.clock.rate)
    found = [offset(history.at, row, transport.clock) for row in rows]
    found_plain = [offset(plain.at, row, transport.clock) for row in rows]
    return Trial(
        held=facts["basis"] == "link delays"
        and all(error <= bound for bound, error in found)
        and all(ways_hold(row, transport.truth[row.frame_id], history.at) for row in rows)
        and drift_off_ppm <= facts["drift_error_ppm"] + 1e6 * MOST_WANDER,
        bound_ms=median(bound for bound, _ in found) / 1e6,
        error_ms=median(error for _, error in found) / 1e6,
        up_pct=100 * sum(row.uplink_ns is not None for row in rows) / len(rows),
        down_pct=100 * sum(row.downlink_ns is not None for row in rows) / len(rows),
        plain_held=all(error <= bound for bound, error in found_plain),
        plain_bound_ms=median(bound for bound, _ in found_plain) / 1e6,
    )


def offset(at: OffsetAt, row: FrameRecord, clock: Clock) -> tuple[float, float]:
    """Bound and true error when a frame was submitted; an error without end where not known."""
    found = at(row.submitted_ns)
    if found is None:
        return math.inf, math.nan
    return found.error_ns, abs(found.offset_ns - clock.offset(row.submitted_ns))


def ways_hold(row: FrameRecord, truth: tuple[int, int], at: OffsetAt) -> bool:
    hindsight = one_ways(
        at, row.submitted_ns, row.submitted_ns + row.rtt_ns, row.edge_received_ns, row.edge_ns
    )
    for said in (row, hindsight):
        for way_ns, error_ns, true_ns in (
            (said.uplink_ns, said.uplink_error_ns, truth[0]),
            (said.downlink_ns, said.downlink_error_ns, truth[1]),
        ):
            # A clock shows whole nanoseconds.
            if way_ns is not None and abs(way_ns - true_ns) > (error_ns or 0) + 1:
                return False
    return True


def fill(address: str) -> None:
    """Uploads in bursts, with pauses, until it is ended."""
    drawn = random.Random(1)
    with ProbeClient(host_and_port(address)) as client:
        while True:
            client.upload(TransferPlan(int(drawn.uniform(0.05, 0.3) * 1e9), 50 * MS, 1 << 40))
            time.sleep(drawn.uniform(0.05, 0.3))


@contextlib.contextmanager
def filled(link: ProcessLink, is_filled: bool) -> Iterator[None]:
    other = multiprocessing.get_context("spawn").Process(target=fill, args=(link.address,))
    if is_filled:
        other.start()
        time.sleep(1.5)
    try:
        yield
    finally:
        if is_filled:
            other.terminate()
            other.join()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--frames", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, list[Trial]] = {name: [] for name in LINKS}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "pictures").mkdir()
        pictures = drawn_pictures(folder / "pictures", 3)
        arguments = ["-m", "edge_node", "--models", str(model_folder(folder / "models"))]
        arguments += ["--listen", "127.0.0.1:0", "--status", ""]
        log = folder / "edge.log"
        with log.open("ab") as errors:
            edge = start_module(arguments, errors)
        stack.callback(end, edge)
        address = ready_line(edge, "edge", log)["address"]
        links = {}
        for name, profile in LINKS.items():
            links[name] = ProcessLink(profile, address, folder / "relay.log", start_module)
            stack.callback(links[name].close)
        progress = Progress("trials", options.trials)
        for number in range(options.trials):
            for name, link in links.items():
                with filled(link, name.endswith("loaded")):
                    seed = options.seed * 1_000_000 + number
                    results[name].append(trial(link, pictures, folder, options.frames, seed))
            progress.update(number + 1)
        progress.close()
    if options.json:
        print(json.dumps(msgspec.to_builtins(results)))
    else:
        show(results, options.frames)
    reached = all(one.held for trials in results.values() for one in trials)
    return 0 if reached and median(t.bound_ms for t in results[TARGET]) < TARGET_MS else 1


def show(results: dict[str, list[Trial]], frames: int) -> None:
    print(f"{described()}; {frames} frames a trial\n")
    print(
        f"{'link':<16} {'held':>8}  {'bound ms':>8} {'largest':>7} {'below 1':>7}  {'error':>6} "
        f"{'largest':>7}  {'up':>5} {'down':>5}  {'half rtt':>8} {'bound':>6}"
    )
    for name, trials in results.items():
        bounds, errors = [t.bound_ms for t in trials], [t.error_ms for t in trials]
        below = 100 * sum(bound < TARGET_MS for bound in bounds) / len(bounds)
        print(
            f"{name:<16} {sum(t.held for t in trials):>3}/{len(trials):<4}  "
            f"{median(bounds):>8.3f} {max(bounds):>7.3f} {below:>5.0f} %  {median(errors):>6.3f} "
            f"{max(errors):>7.3f}  {median(t.up_pct for t in trials):>3.0f} % "
            f"{median(t.down_pct for t in trials):>3.0f} %  "
            f"{sum(t.plain_held for t in trials):>4}/{len(trials):<3} "
            f"{median(t.plain_bound_ms for t in trials):>6.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
