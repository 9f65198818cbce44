"""Whether the bound of the clocks' offset holds, and how small it is, with the truth known.

    python tests/benchmarks/clocks.py [--trials 100] [--frames 15] [--seed 1] [--json]
    python tests/benchmarks/clocks.py --trials 0 --busy 5 [--busy-s 60]

A device runs against an edge process, through a relay process, as always; but a wrapper about its
transport passes every time stamp of the edge through a clock of its own: seconds off, drifting by
up to 200 ppm, its rate wandering by up to 15 ppm about that. Each trial has its own clock and is
one whole run. The bound holds in a trial if, for every frame, the offset and both one-way times
that the rows and the hindsight give are within their bounds of the truth, which the wrapper knows.

The links take turns: the same 20 ms either way; 5 ms up and 35 down; 20 ms with jitter; 20 ms and
50 Mbit/s that another connection fills in bursts. `bound` and `error` are of the offset at the
frames, in ms: the median, and the largest of the trials' medians. `up` and `down`: share of frames
whose one-way time was known well enough to be in the row. `half rtt` is the same run without what
what is known of the link's delays.

`--busy` adds so many trials of a minute on links that are never free: closed loop, eight frames in
flight, where the exchanges are those of the two bursts, before and after. `held` is as above, for
every frame and also for the exchanges alone. The rest is of the frames in the middle third, once
with the frames' own stamps as exchanges (`with`) and once by the exchanges alone (`alone`), of the
same run: the bound with hindsight, `error` with the frames, and as it goes, `rows`, what the device
knew when it wrote a frame's row; `up` and `down` are shares of one-way times in the rows. Medians
over a trial, then over trials, `largest` of the trials. On the second link the frames fill the
uplink, and each stands in the queue of those before it.
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
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from device_node.__main__ import Device
from device_node.options import DeviceOptions
from experiments.children import end, ready_line, start_module
from experiments.clock_summary import stamps_of, tight_frames
from netem.least_delay import least_delays_ns
from netem.probe import ProbeClient
from netem.relay_link import ProcessLink
from netem.transfer import TransferPlan
from splitbed.address import host_and_port
from splitbed.clock import (
    ClockFacts,
    ClockHistory,
    ClockTrack,
    LeastDelays,
    OffsetAt,
    OneWays,
    history_of,
    one_ways,
)
from splitbed.clock_frames import TightFrames
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
BUSY_LINKS = {
    "20 ms": LINKS["20 ms"],
    "20 ms, 1 Mbit/s": LinkProfile("20 ms, 1 Mbit/s", *both(rate_bps=MS, delay_ns=20 * MS)),
    "1 ms": LinkProfile("1 ms", *both(delay_ns=MS)),
}
BUSY_WINDOW = 8


def drawn_clock(seed: int, period_s: float) -> Clock:
    drawn = random.Random(seed)
    return Clock(
        drawn.randint(-10 * S, 10 * S),
        drawn.uniform(-MOST_DRIFT, MOST_DRIFT),
        drawn.uniform(-MOST_WANDER, MOST_WANDER),
        period_s=period_s,
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


class BusyTrial(msgspec.Struct):
    held: bool
    fps: float
    with_ms: float
    alone_ms: float
    error_ms: float
    rows_with_ms: float
    rows_alone_ms: float
    up_with_pct: float
    up_alone_pct: float
    down_with_pct: float
    down_alone_pct: float


class Ran(msgspec.Struct):
    """What a run left, and the truth."""

    rows: list[FrameRecord]
    exchanges: list[ClockExchange]
    facts: ClockFacts
    transport: ShiftedTransport
    least: LeastDelays

    def histories(self, least: LeastDelays) -> tuple[ClockHistory, ClockHistory]:
        """With the frames, and by the exchanges alone."""
        frames = tight_frames(self.rows, (self.facts.drift_ppm or 0.0) / 1e6)
        return history_of([*self.exchanges, *frames], least), history_of(self.exchanges, least)

    def held(self, at: OffsetAt) -> bool:
        """Whether the offset and both ways of every frame are within their bounds."""
        clock, truth = self.transport.clock, self.transport.truth
        found = (offset(at, row, clock) for row in self.rows)
        return all(error <= bound for bound, error in found) and all(
            ways_hold(row, truth[row.frame_id], at) for row in self.rows
        )

    def drift_held(self) -> bool:
        if self.facts.drift_ppm is None or self.facts.drift_error_ppm is None:
            return False
        off_ppm = abs(self.facts.drift_ppm - 1e6 * self.transport.clock.rate)
        return off_ppm <= self.facts.drift_error_ppm + 1e6 * MOST_WANDER


def ran(
    link: ProcessLink, pictures: list[Path], folder: Path, clock: Clock, name: str, **more: Any
) -> Ran:
    least = least_delays_ns(link.profile)
    options = DeviceOptions(
        edge=link.address,
        model="tiny",
        cut="right",
        out=folder / "runs",
        run_id=f"{link.profile.name.replace(' ', '').replace(',', '-').replace('/', '')}-{name}",
        cache=folder / "cache",
        warmup=1,
        orchestrated=True,
        link_delay_ms=",".join(f"{ns / 1e6:.6f}" for ns in least),
        **more,
    )
    transport = ShiftedTransport(link.address, clock)
    try:
        Device(options).run(transport, pictures, threading.Event())
    finally:
        transport.close()
    files = RunFolder(options.out / options.run_id)
    return Ran(
        rows=list(read_rows(files.frames("device"), FrameRecord)),
        exchanges=list(read_rows(files.clock(), ClockExchange)),
        facts=msgspec.convert(files.read_session()["clock"], ClockFacts),
        transport=transport,
        least=LeastDelays(*least),
    )


def trial(link: ProcessLink, pictures: list[Path], folder: Path, frames: int, seed: int) -> Trial:
    run = ran(
        link, pictures, folder, drawn_clock(seed, 3.0), str(seed), frames=frames, clock_s=0.25
    )
    rows, clock = run.rows, run.transport.clock
    history, _ = run.histories(run.least)
    plain, _ = run.histories(LeastDelays())
    found = [offset(history.at, row, clock) for row in rows]
    found_plain = [offset(plain.at, row, clock) for row in rows]
    return Trial(
        held=run.facts.basis == "link delays" and run.held(history.at) and run.drift_held(),
        bound_ms=median(bound for bound, _ in found) / 1e6,
        error_ms=median(error for _, error in found) / 1e6,
        up_pct=100 * sum(row.uplink_ns is not None for row in rows) / len(rows),
        down_pct=100 * sum(row.downlink_ns is not None for row in rows) / len(rows),
        plain_held=all(error <= bound for bound, error in found_plain),
        plain_bound_ms=median(bound for bound, _ in found_plain) / 1e6,
    )


def busy_trial(
    link: ProcessLink, pictures: list[Path], folder: Path, seconds: float, seed: int
) -> BusyTrial:
    # From a rate that turns often to one that turns once or never.
    clock = drawn_clock(seed, random.Random(seed).uniform(0.05, 3) * seconds)
    more: dict[str, Any] = {"window": BUSY_WINDOW, "frames": 1, "min_s": seconds}
    run = ran(link, pictures, folder, clock, f"busy-{seed}", **more)
    run.rows.sort(key=lambda row: row.submitted_ns + row.rtt_ns)
    third = len(run.rows) // 3
    middle = run.rows[third:-third]
    history, alone = run.histories(run.least)
    found = [offset(history.at, row, clock) for row in middle]
    bounds: dict[bool, list[float]] = {True: [], False: []}
    ways: list[OneWays] = []
    for frames in (True, False):
        for number, (row, at) in enumerate(as_it_went(run, frames)):
            if third <= number < len(run.rows) - third:
                bounds[frames].append(offset(at, row, clock)[0])
                if not frames:
                    ways.append(ways_of(at, row))
    return BusyTrial(
        held=run.facts.basis == "link delays"
        and run.held(history.at)
        and run.held(alone.at)
        and run.drift_held(),
        fps=1e9 * len(run.rows) / (run.rows[-1].submitted_ns - run.rows[0].submitted_ns),
        with_ms=median(bound for bound, _ in found) / 1e6,
        alone_ms=median(offset(alone.at, row, clock)[0] for row in middle) / 1e6,
        error_ms=median(error for _, error in found) / 1e6,
        rows_with_ms=median(bounds[True]) / 1e6,
        rows_alone_ms=median(bounds[False]) / 1e6,
        up_with_pct=known_pct(row.uplink_ns for row in middle),
        up_alone_pct=known_pct(one.uplink_ns for one in ways),
        down_with_pct=known_pct(row.downlink_ns for row in middle),
        down_alone_pct=known_pct(one.downlink_ns for one in ways),
    )


def as_it_went(run: Ran, with_frames: bool) -> Iterator[tuple[FrameRecord, OffsetAt]]:
    """Each frame, in the order of replies, with the clock as far as it was known then."""
    track, tight, exchanges = ClockTrack(run.least), TightFrames(), deque(run.exchanges)
    for row in run.rows:
        stamps = stamps_of(row)
        while exchanges and exchanges[0].received_ns <= stamps.received_ns:
            track.add(exchanges.popleft())
        for chosen in tight.take(stamps) if with_frames else ():
            track.add_frame(chosen)
        yield row, track.at


def known_pct(ways: Iterable[int | None]) -> float:
    found = [way is not None for way in ways]
    return 100 * sum(found) / len(found)


def offset(at: OffsetAt, row: FrameRecord, clock: Clock) -> tuple[float, float]:
    """Bound and true error when a frame was submitted; an error without end where not known."""
    found = at(row.submitted_ns)
    if found is None:
        return math.inf, math.nan
    return found.error_ns, abs(found.offset_ns - clock.offset(row.submitted_ns))


def ways_of(at: OffsetAt, row: FrameRecord) -> OneWays:
    complete_ns = row.submitted_ns + row.rtt_ns
    return one_ways(at, row.submitted_ns, complete_ns, row.edge_received_ns, row.edge_ns)


def ways_hold(row: FrameRecord, truth: tuple[int, int], at: OffsetAt) -> bool:
    for said in (row, ways_of(at, row)):
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
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--busy-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, list[Trial]] = {name: [] for name in LINKS}
    busy: dict[str, list[BusyTrial]] = {name: [] for name in BUSY_LINKS}
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
        for name, profile in (LINKS | BUSY_LINKS).items():
            links[name] = ProcessLink(profile, address, folder / "relay.log", start_module)
            stack.callback(links[name].close)
        progress = Progress("trials", options.trials + options.busy)
        for number in range(options.trials):
            for name in LINKS:
                with filled(links[name], name.endswith("loaded")):
                    seed = options.seed * 1_000_000 + number
                    one = trial(links[name], pictures, folder, options.frames, seed)
                    results[name].append(one)
            progress.update(number + 1)
        for number in range(options.busy):
            for name in BUSY_LINKS:
                seed = options.seed * 1_000_000 + number
                found = busy_trial(links[name], pictures, folder, options.busy_s, seed)
                busy[name].append(found)
            progress.update(options.trials + number + 1)
        progress.close()
    if options.json:
        print(json.dumps(msgspec.to_builtins({"idle": results, "busy": busy})))
    else:
        print(f"{described()}\n")
        if options.trials:
            show(results, options.frames)
        if options.busy:
            show_busy(busy, options.busy_s)
    held = [one.held for trials in results.values() for one in trials]
    held += [one.held for trials in busy.values() for one in trials]
    bounds = [one.bound_ms for one in results[TARGET]] or [0.0]
    return 0 if all(held) and median(bounds) < TARGET_MS else 1


def show(results: dict[str, list[Trial]], frames: int) -> None:
    print(f"{frames} frames a trial, one after another\n")
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


def show_busy(busy: dict[str, list[BusyTrial]], seconds: float) -> None:
    print(
        f"\n{seconds:g} s a trial, {BUSY_WINDOW} frames in flight; in the middle third, ms and %\n"
    )
    heads = ("with", "largest", "alone", "error", "rows with", "alone", "up with", "alone")
    print(
        f"{'link':<16} {'held':>6} {'fps':>4} "
        + " ".join(f"{head:>{max(5, len(head))}}" for head in (*heads, "down with", "alone"))
    )
    for name, trials in busy.items():

        def of(field: str, trials: list[BusyTrial] = trials) -> float:
            return float(median(getattr(one, field) for one in trials))

        print(
            f"{name:<16} {sum(t.held for t in trials):>2}/{len(trials):<3} {of('fps'):>4.0f} "
            f"{of('with_ms'):>5.3f} {max(t.with_ms for t in trials):>7.3f} {of('alone_ms'):>5.3f} "
            f"{of('error_ms'):>5.3f} {of('rows_with_ms'):>9.3f} {of('rows_alone_ms'):>5.2f} "
            f"{of('up_with_pct'):>7.0f} {of('up_alone_pct'):>5.0f} "
            f"{of('down_with_pct'):>9.0f} {of('down_alone_pct'):>5.0f}"
        )


if __name__ == "__main__":
    sys.exit(main())
