"""What is lost when packet opportunities are counted in steps: a frame's time over the link.

    python tests/benchmarks/bins.py FILE... [--frames 500]

For mahimahi files: frames of 20 kB and 400 kB start at evenly spread instants of the trace. Each
one's time by the single opportunities is compared with its time by steps of each length. Printed:
how far off the time is at the median and at the 95th percentile of the frames, in milliseconds and
in per cent of the median time, and how often a second the link changes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netem.schedule import Schedule
from netem.trace_files import load_trace
from netem.trace_steps import pieces
from splitbed.link import Direction

Array = NDArray[np.float64]

BINS_MS: Final = (10, 20, 50, 100, 200, 500, 1000)
FRAMES_BYTES: Final = (20_000, 400_000)
PACKET_BYTES: Final = 1448


def by_opportunity(times_ms: Array, starts_ms: Array, packets: int) -> Array:
    """When the last of `packets` passes that are there from each start on, in ms."""
    period, count = times_ms[-1], len(times_ms)
    index = np.searchsorted(times_ms, starts_ms) + packets - 1
    found: Array = index // count * period + times_ms[index % count] - starts_ms
    return found


def by_steps(schedule: Schedule, starts_ms: Array, packets: int) -> Array:
    """The same by a schedule of rates."""
    size = packets * PACKET_BYTES
    ends_ns = [schedule.instant_ns(schedule.carried_bytes(s * 1e6) + size) for s in starts_ms]
    return np.asarray(ends_ns, np.float64) / 1e6 - starts_ms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=500)
    options = parser.parse_args()
    for path in options.files:
        times_ms = np.array([float(line) for line in path.read_text().split()])
        starts_ms = np.linspace(0, times_ms[-1], options.frames, endpoint=False)
        print(path.name)
        print("   frame kB  step ms  changes/s   ms off p50    p95   % off p50    p95")
        for size in FRAMES_BYTES:
            packets = -(-size // PACKET_BYTES)
            exact = by_opportunity(times_ms, starts_ms, packets)
            for bin_ms in BINS_MS:
                trace = load_trace(path, "up", bin_ms * 1_000_000)
                schedule = Schedule(Direction(), pieces(trace, "up"), trace.duration_ns)
                off = np.quantile(abs(by_steps(schedule, starts_ms, packets) - exact), (0.5, 0.95))
                low, high = 100 * off / np.median(exact)
                often = len(trace.steps) * 1e9 / trace.duration_ns
                print(
                    f"   {size / 1e3:8g}  {bin_ms:7}  {often:9.1f}"
                    f"   {off[0]:10.1f}  {off[1]:5.1f}   {low:9.1f}  {high:5.1f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
