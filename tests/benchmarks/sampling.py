"""What sampling resources costs: CPU time a sample, and percent of a core at 10 Hz.

    python tests/benchmarks/sampling.py [--samples 400] [--cores 8 64 256] [--seconds 10]

Each source is read in turn (A B C A B C ...) by one thread whose own CPU time counts
(CLOCK_THREAD_CPUTIME_ID). First the machine as it is, then made-up machines with that many cores,
each with its cpufreq policy, its throttle counter and its thermal zone, sixteen power sensors,
RAPL of two sockets and eight GPUs by a stand-in for NVML. Their files are tmpfs or disk files: the
kernel's own work for a real sysfs file (asking a core or a chip) is not in them. The last part
runs the whole sampler, its rows written to a file, at 10 Hz and tells what the process used, less
the same without a sampler. 95 % intervals are Student's, over blocks of samples.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from splitbed.host import described
from splitbed.resources import ResourceSampler
from splitbed.resources.gpu import GpuMeter
from splitbed.resources.meters import Meters
from splitbed.run_folder import RowWriter
from splitbed.student import spread95
from tests.unit.pretend_nvml import PretendNvml

HZ = 10
BLOCKS = 20


def machine(root: Path, cores: int) -> Path:
    """A tree of sysfs and procfs."""
    files: dict[str, object] = {}
    for core in range(cores):
        cpu = f"sys/devices/system/cpu/cpu{core}"
        files[f"sys/devices/system/cpu/cpufreq/policy{core}/scaling_cur_freq"] = 2_100_000
        files[f"{cpu}/thermal_throttle/core_throttle_count"] = 3
        files[f"{cpu}/thermal_throttle/package_throttle_count"] = 3
        files[f"{cpu}/topology/physical_package_id"] = core * 2 // cores
        files[f"sys/class/thermal/thermal_zone{core}/temp"] = 45_000
        files[f"sys/class/thermal/thermal_zone{core}/type"] = f"zone{core}"
    for sensor in range(16):
        files[f"sys/class/hwmon/hwmon{sensor}/name"] = "ina219"
        files[f"sys/class/hwmon/hwmon{sensor}/power1_input"] = 1_000_000
    for socket in range(2):
        for place, name in (
            (f"intel-rapl:{socket}", f"package-{socket}"),
            (f"intel-rapl:{socket}:0", "dram"),
        ):
            files[f"sys/class/powercap/{place}/name"] = name
            files[f"sys/class/powercap/{place}/energy_uj"] = 1
            files[f"sys/class/powercap/{place}/max_energy_range_uj"] = 262_143_328_850
    files["sys/class/power_supply/BAT0/type"] = "Battery"
    files["sys/class/power_supply/BAT0/status"] = "Discharging"
    files["sys/class/power_supply/BAT0/power_now"] = 5_000_000
    line = "100 200 300 400 500 600 700 800 0 0\n"
    files["proc/stat"] = f"cpu  {line}" + "".join(f"cpu{n} {line}" for n in range(cores))
    files["proc/self/status"] = Path("/proc/self/status").read_text(encoding="utf-8")
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def costs(readers: dict[str, Callable[[], object]], samples: int) -> dict[str, list[float]]:
    """Mean microseconds of CPU time for a reading, by block."""
    found: dict[str, list[float]] = {name: [] for name in readers}
    each = max(1, samples // BLOCKS)
    for _ in range(BLOCKS):
        for name, read in readers.items():
            start = time.thread_time_ns()
            for _ in range(each):
                read()
            found[name].append((time.thread_time_ns() - start) / each / 1e3)
    return found


def readers(meters: Meters) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {
        "process": meters._process.read,
        "system": meters._system.read,
    }
    for name, meter in meters.by_name.items():
        found[name] = lambda meter=meter: meter.read(time.perf_counter_ns())  # type: ignore[misc]
    found["together"] = meters.read
    return found


def by_psutil() -> object:
    """The same of process and system as before, for comparison."""
    process = psutil.Process()
    psutil.cpu_times()
    with process.oneshot():
        return process.memory_info(), process.num_threads(), process.num_ctx_switches()


def show(title: str, meters: Meters, samples: int, more: dict[str, Callable[[], object]]) -> None:
    print(f"\n{title}, {len(meters.read().readings)} readings")
    print("  source      us a sample (95 %)          % of a core at 10 Hz")
    for name, values in costs(readers(meters) | more, samples).items():
        middle, low, high = spread95(values)
        share = middle * HZ / 1e4
        print(f"  {name:<11} {middle:8.1f} ({max(0, low):.1f} to {high:.1f}){'':<8} {share:.3f}")


def whole(seconds: float) -> None:
    """The sampler as it runs, with its thread, its waits and its rows."""
    used: dict[bool, list[float]] = {True: [], False: []}
    rows = 0
    with tempfile.TemporaryDirectory() as name, RowWriter(Path(name) / "rows") as writer:
        for turn in range(8):
            sampling = turn % 4 in (1, 2)
            sampler = ResourceSampler("edge", "bench", writer.write, 1 / HZ)
            start_ns, start_s = time.process_time_ns(), time.perf_counter()
            if sampling:
                sampler.start()
            time.sleep(seconds)
            if sampling:
                sampler.stop()
            passed = time.perf_counter() - start_s
            used[sampling].append((time.process_time_ns() - start_ns) / 1e9 / passed * 100)
        rows = writer.rows
        size = writer.path.stat().st_size
    paired = [a - b for a, b in zip(used[True], used[False], strict=True)]
    middle, low, high = spread95(paired)
    print(
        f"\nthe whole sampler at {HZ} Hz on this machine: {middle:.3f} % of a core "
        f"({low:.3f} to {high:.3f}), start and end included, {size / rows:.0f} bytes a row"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--cores", type=int, nargs="*", default=(8, 64, 256))
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    print(f"{described()}; CPU time of the sampling thread, {BLOCKS} blocks")
    meters = Meters("edge")
    show("this machine", meters, options.samples, {"by psutil": by_psutil})
    meters.close()
    for cores in options.cores:
        with tempfile.TemporaryDirectory() as name:
            meters = Meters("device", machine(Path(name), cores))
            meters.by_name["gpu"] = GpuMeter(PretendNvml(count=8))
            show(f"made up: {cores} cores", meters, options.samples, {})
            meters.close()
    whole(options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
