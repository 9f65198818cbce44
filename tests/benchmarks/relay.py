"""The user-space relay against its target: rate, round trip, sharing.

    python tests/benchmarks/relay.py [--seconds 2] [--busy 1] [--json]

The relay runs in a process of its own, as in a run. `busy` is the number of processes that compute
without pause meanwhile, on the same processors: a receiver that is busy with a tail. Sharing: four
connections upload at once through 50 Mbit/s; their sum is compared with the rate, and the slowest
with a quarter of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from experiments.children import start_module
from netem.probe import ProbeClient, measure
from netem.profiles import find_profile
from netem.relay_link import ProcessLink
from netem.transfer import TransferPlan
from splitbed.address import host_and_port

RATES = ("1mbit", "10mbit", "50mbit", "200mbit", "1gbit")


def link_for(text: str, folder: Path) -> ProcessLink:
    return ProcessLink(find_profile(text), "127.0.0.1:1", folder / "relay.log", start_module)


def hogs(count: int) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]


def one(rate: str, busy: int, seconds: float, folder: Path) -> dict[str, object]:
    profile = find_profile(f"rate={rate},delay=20ms")
    link = link_for(f"rate={rate},delay=20ms", folder)
    burning = hogs(busy)
    try:
        time.sleep(0.2)
        found = measure(host_and_port(link.address), profile, 3 * seconds)
    finally:
        for process in burning:
            process.kill()
            process.wait()
        link.close()
    wanted = profile.up.payload_bps or 1
    return {
        "rate": rate,
        "busy": busy,
        "up_off_pct": 100 * (found.up_goodput_bps / wanted - 1),
        "down_off_pct": 100 * (found.down_goodput_bps / wanted - 1),
        "rtt_median_off_ms": found.rtt_median_ns / 1e6 - 40,
        "rtt_p95_off_ms": found.rtt_p95_ns / 1e6 - 40,
        "samples": len(found.rtt_ns),
        "priority": link.priority,
    }


def shared(seconds: float, folder: Path, connections: int = 4) -> dict[str, float]:
    profile = find_profile("rate=50mbit,delay=5ms")
    link = link_for("rate=50mbit,delay=5ms", folder)
    wanted = profile.up.payload_bps or 1
    plan = TransferPlan(int(seconds * 1e9), 100_000_000, 1 << 40)
    rates = [0.0] * connections
    start = threading.Barrier(connections)

    def upload(index: int) -> None:
        with ProbeClient(host_and_port(link.address)) as client:
            client.round_trips(3, 1)
            start.wait()
            rates[index] = client.upload(plan).bps

    threads = [threading.Thread(target=upload, args=(i,)) for i in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    link.close()
    return {
        "connections": connections,
        "sum_of_rates_off_pct": 100 * (sum(rates) / wanted - 1),
        "slowest_share": min(rates) / (wanted / connections),
        "fastest_share": max(rates) / (wanted / connections),
        "seconds": took,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--busy", type=int, default=1, help="computing processes, where busy")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [one(r, busy, options.seconds, folder) for r in RATES for busy in (0, options.busy)]
        together = shared(options.seconds, folder)
    if options.json:
        print(json.dumps({"rows": rows, "shared": together}))
        return 0
    print(f"relay priority: {rows[0]['priority']}; delay 20 ms each way")
    print("    rate  busy  up off %  down off %  rtt median off ms  p95 off ms  samples")
    for row in rows:
        print(
            f"{row['rate']:>8}  {row['busy']:4}  {row['up_off_pct']:+8.2f}  "
            f"{row['down_off_pct']:+10.2f}  {row['rtt_median_off_ms']:+17.2f}  "
            f"{row['rtt_p95_off_ms']:+10.2f}  {row['samples']:7}"
        )
    print(
        f"four connections at once over 50 Mbit/s: sum {together['sum_of_rates_off_pct']:+.2f} % "
        f"off the rate, slowest {together['slowest_share']:.2f} and fastest "
        f"{together['fastest_share']:.2f} of a fair share"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
