"""A replayed trace against what a saturating sender gets through it, second by second.

    python tests/benchmarks/replay.py [--backend relay|kernel]
        [--trace TRACE [--cut 0..60] [--profile NAME]] [--json]

Without a trace: 60 s of the generator, of mahimahi's Verizon-LTE-short.up, and of a UCC 5G drive
(its downlink, as an uplink), where SPLITBED_DATA or ../shared/data has them. The sender is a
process of its own that always has more to send: over the relay by TCP, over the kernel (which needs
root and netem) by datagrams at 1.2 times the trace's rate, because TCP takes its time after a gap.
Bytes are counted where they arrive, in the second in which they left: the relay delays what has
left, the kernel what has not, so there the delay is taken off. A second meets the trace when its
bytes are within 5 %, or a packet, of it. `edge` says that it does so only if what the link carries
in 2 ms may belong to the second before or after it: where the rate falls to a hundredth, a byte's
second is not known so well.

Backends are functions of the signature `Backend`: relay here, and others in `BACKENDS`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from experiments.children import start_module
from netem.hosts_link import HostsLink
from netem.probe import ProbeClient
from netem.profiles import find_profile
from netem.qdisc import ETHERNET_BYTES
from netem.relay_link import ProcessLink
from netem.schedule import Schedule
from netem.shaper import sleep_until
from netem.trace_steps import cut, pieces
from netem.traces import find_trace
from splitbed.address import host_and_port
from splitbed.link import LinkProfile, Replay, Trace, changed

TOLERANCE_PCT: Final = 5.0
PACKET_BYTES: Final = 1448
S: Final = 1_000_000_000
START_NS: Final = 5_000_000
"""After the replay's beginning: what is sent before it may leave at the profile's rate yet."""
LEAD_NS: Final = 500_000_000
EDGE_NS: Final = 2_000_000
"""How exactly a byte's second is known: threads wake up late, and a chunk is a millisecond."""

SENDER: Final = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
    sock.sendall(b"!")
    sys.stdin.readline()
    block = bytes(64 * 1024)
    try:
        while True:
            sock.sendall(block)
    except OSError:
        pass
"""
"""Sends without end to HOST PORT once a line stands on its standard input."""


DATAGRAMS: Final = """
import json, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], int(sys.argv[2])))
sock.send(b"!")
begin_ns, steps = json.loads(sys.stdin.readline())
packet, owed, at, last_ns = bytes(1472), 0.0, 0, time.perf_counter_ns()
while True:
    time.sleep(0.002)
    now_ns = time.perf_counter_ns()
    while at + 1 < len(steps) and now_ns - begin_ns >= steps[at + 1][0]:
        at += 1
    owed += min(now_ns - last_ns, 50_000_000) / 1e9 * steps[at][1] / 12_000
    last_ns = now_ns
    while owed >= 1:
        owed -= 1
        try:
            sock.send(packet)
        except OSError:
            pass
"""
"""The same by datagrams that fill a packet, at rates that change at their instants."""
_OVERLOAD: Final = 1.2
_LEAST_BPS: Final = 100_000


class Made(Protocol):
    """A link with a trace, made by one backend."""

    delays_what_left: bool
    """Whether the delay comes after the rate."""

    def start_sender(self) -> subprocess.Popen[bytes]:
        """Start a sender at the link's other end, its standard input piped; it waits for a line."""

    def orders(self, begin_ns: int) -> object:
        """What the sender's line says, as JSON."""

    def connected(self) -> None:
        """Wait until the sender is there."""

    def receive(self) -> int:
        """Payload bytes of TCP that came, or would have in as many packets, since the last call.

        Where bytes have to be read, it waits for some, 0.5 s at most; else it says so at once.
        """

    def begin(self) -> int:
        """Begin the replay; the instant of its beginning, by `time.perf_counter_ns`."""

    def end(self) -> Replay | None:
        """End the replay."""

    def close(self) -> None:
        """Take the link away."""


Backend = Callable[[LinkProfile, Trace, Path], Made]
"""Makes a link of a profile and a trace, with a folder for its log."""


class RelayLink:
    """The relay, in a process of its own as in a run."""

    delays_what_left = True

    def __init__(self, profile: LinkProfile, trace: Trace, folder: Path) -> None:
        self._profile = profile
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._buffer = bytearray(1 << 20)
        edge = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._link = ProcessLink(profile, edge, folder / "relay.log", start_module, trace=trace)
        self._probe = ProbeClient(host_and_port(self._link.address))
        self._probe.round_trips(3, 1)  # the relay is awake and knows the connection
        self._asking: threading.Thread | None = None

    def start_sender(self) -> subprocess.Popen[bytes]:
        host, port = host_and_port(self._link.address)
        return subprocess.Popen(
            [sys.executable, "-c", SENDER, host, str(port)], stdin=subprocess.PIPE
        )

    def orders(self, begin_ns: int) -> object:
        return None

    def connected(self) -> None:
        self._sock, _ = self._listener.accept()
        self._sock.recv(1)
        self._sock.settimeout(0.5)

    def receive(self) -> int:
        try:
            return self._sock.recv_into(self._buffer)
        except TimeoutError:
            return 0

    def begin(self) -> int:
        # The request travels up the idle link, as by the profile, and begins the replay there. The
        # answer comes as the trace lets it, so nobody waits for it.
        asked_ns = time.perf_counter_ns()
        self._asking = threading.Thread(target=self._probe.replay, args=(True,))
        self._asking.start()
        return asked_ns + self._profile.up.delay_ns

    def end(self) -> Replay | None:
        assert self._asking is not None
        self._asking.join()
        return self._probe.replay(False)

    def close(self) -> None:
        self._probe.__exit__()
        self._link.close()
        self._sock.close()
        self._listener.close()


class KernelHosts:
    """Two hosts that the kernel keeps apart, as in a run."""

    delays_what_left = False

    def __init__(self, profile: LinkProfile, trace: Trace, folder: Path) -> None:
        self._link = HostsLink(profile, folder / "link.log", start_module, trace)
        self._steps = [
            (step.at_ns, _OVERLOAD * max(changed(profile.up, step.up).rate_bps or 0, _LEAST_BPS))
            for step in trace.steps
        ]
        with self._link.on_edge():
            self._probe = ProbeClient(self._link.probe_at)
            # Nobody reads it. What arrived is counted by the edge's interface, so that a receiver
            # takes no time of the processor that sender, queues and replay share.
            self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._sock.bind((self._link.edge_host, 0))
            self._interfaces = open("/proc/thread-self/net/dev", encoding="ascii")  # noqa: SIM115
        self._seen = 0

    def _arrived(self) -> int:
        """Full packets that have come in at the edge's interface."""
        self._interfaces.seek(0)
        line = next(row for row in self._interfaces if row.strip().startswith("splitbed:"))
        return int(line.split()[1]) // (ETHERNET_BYTES + 1500)

    def start_sender(self) -> subprocess.Popen[bytes]:
        host, port = self._sock.getsockname()
        words = [sys.executable, "-c", DATAGRAMS, host, str(port)]
        with self._link.on_device():
            return subprocess.Popen(words, stdin=subprocess.PIPE)

    def orders(self, begin_ns: int) -> object:
        return begin_ns, self._steps

    def connected(self) -> None:
        self._sock.settimeout(30)
        self._sock.recv(1)
        self._seen = self._arrived()

    def receive(self) -> int:
        arrived = self._arrived()
        got, self._seen = arrived - self._seen, arrived
        return got * PACKET_BYTES

    def begin(self) -> int:
        asked_ns = time.perf_counter_ns()
        self._probe.replay(True)
        return (asked_ns + time.perf_counter_ns()) // 2

    def end(self) -> Replay | None:
        return self._probe.replay(False)

    def close(self) -> None:
        self._sock.close()
        self._interfaces.close()
        self._probe.__exit__()
        self._link.close()


BACKENDS: Final[dict[str, Backend]] = {"relay": RelayLink, "kernel": KernelHosts}


def carried(made: Made, profile: LinkProfile, trace: Trace) -> tuple[list[int], Replay | None]:
    """Bytes in each second of the trace; what the backend says of the replay."""
    counts = [0] * -(-trace.duration_ns // S)
    sender = made.start_sender()
    assert sender.stdin is not None
    try:
        made.connected()
        schedule = Schedule(profile.up, pieces(trace, "up"), trace.duration_ns)
        if made.delays_what_left:
            begin_ns = made.begin()
            sleep_until(begin_ns + START_NS)
        planned_ns = time.perf_counter_ns() + LEAD_NS
        sender.stdin.write(json.dumps(made.orders(planned_ns)).encode() + b"\n")
        sender.stdin.flush()
        if not made.delays_what_left:
            # What waits when the trace begins has its delay behind it, and nothing has to be read:
            # a look at the end of each second tells best what came in it.
            sleep_until(planned_ns)
            made.receive()
            begin_ns = made.begin()
            for second in range(len(counts)):
                sleep_until(begin_ns + min((second + 1) * S, trace.duration_ns))
                counts[second] = made.receive()
            return counts, made.end()
        while True:
            got = made.receive()
            left_ns = time.perf_counter_ns() - begin_ns
            # The delay that held when it left; it changes seldom, so a look back finds it.
            left_ns -= schedule.delay_ns(max(0, left_ns - profile.up.delay_ns))
            if left_ns >= trace.duration_ns:
                sender.kill()  # the request to end goes the same way
                return counts, made.end()
            counts[max(0, left_ns) // S] += got
    finally:
        sender.kill()
        sender.wait()
        sender.stdin.close()


def table(trace: Trace, profile: LinkProfile, backend: Backend) -> dict[str, Any]:
    """Every second of one trace."""
    schedule = Schedule(profile.up, pieces(trace, "up"), trace.duration_ns)
    with tempfile.TemporaryDirectory() as folder:
        made = backend(profile, trace, Path(folder))
        try:
            counts, replay = carried(made, profile, trace)
        finally:
            made.close()
    rows = []
    for second, got in enumerate(counts):
        begins_ns, ends_ns = second * S, min((second + 1) * S, trace.duration_ns)
        wanted = between(schedule, begins_ns, ends_ns)
        off = abs(got - wanted)
        near = max(
            between(schedule, at_ns - EDGE_NS, at_ns + EDGE_NS) for at_ns in (begins_ns, ends_ns)
        )
        if second == 0 and profile.up.payload_bps:  # before the trace the profile's rate held
            near += profile.up.payload_bps / 8 * EDGE_NS / 1e9
        verdict = "edge" if off <= near else "MISSED"
        rows.append(
            {
                "second": second,
                "trace_bytes": round(wanted),
                "carried_bytes": got,
                "off_pct": 100 * (got / wanted - 1) if wanted else None,
                "verdict": ""
                if off <= max(TOLERANCE_PCT / 100 * wanted, PACKET_BYTES)
                else verdict,
            }
        )
    return {
        "trace": trace.name,
        "source": trace.source,
        "profile": profile.name,
        "replay": None
        if replay is None
        else {f: getattr(replay, f) for f in replay.__struct_fields__},
        "rows": rows,
    }


def between(schedule: Schedule, begin_ns: int, end_ns: int) -> float:
    """Bytes that the trace lets through from one instant to another."""
    return schedule.carried_bytes(end_ns) - schedule.carried_bytes(max(0, begin_ns))


def cases(options: argparse.Namespace) -> list[tuple[Trace, LinkProfile]]:
    """Traces to replay, each over its profile."""
    if options.trace:
        profile = find_profile(options.profile)
        trace = find_trace(options.trace, profile)
        begin_s, _, end_s = options.cut.partition("..")
        end_ns = min(trace.duration_ns, int(float(end_s) * S))
        return [(cut(trace, int(float(begin_s) * S), end_ns), profile)]
    lte, macro = find_profile("lte-verizon"), find_profile("5g-urban-macro")
    found = [(find_trace("generate:seed=1", macro), macro)]
    data = os.environ.get("SPLITBED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
    traces = Path(data) / "traces"
    if traces.is_dir():
        verizon = find_trace(str(traces / "mahimahi" / "Verizon-LTE-short.up"), lte)
        drive = traces / "ucc_5g" / "driving_B_2020.02.14_07.29.00.csv"
        ucc = find_trace(f"up={drive}", macro)
        found += [(cut(verizon, 0, 60 * S), lte), (cut(ucc, 600 * S, 660 * S), macro)]
    else:
        print(f"no recorded traces at {traces}: set SPLITBED_DATA", file=sys.stderr)
    return found


def show(found: dict[str, Any]) -> None:
    rows = found["rows"]
    print(f"{found['trace']} over {found['profile']} ({found['source']})")
    print("second  trace bytes  carried bytes   off %")
    for row in rows:
        off = "-" if row["off_pct"] is None else f"{row['off_pct']:+.2f}"
        print(
            f"{row['second']:6}  {row['trace_bytes']:11}  {row['carried_bytes']:13}  {off:>6}"
            + f"  {row['verdict']}".rstrip()
        )
    # Where a packet is more than 5 %, per cent say nothing.
    least = 100 / TOLERANCE_PCT * PACKET_BYTES
    offs = [abs(row["off_pct"]) for row in rows if row["trace_bytes"] >= least]
    total, wanted = (sum(row[key] for row in rows) for key in ("carried_bytes", "trace_bytes"))
    print(
        f"{sum(not row['verdict'] for row in rows)} of {len(rows)} seconds within "
        f"{TOLERANCE_PCT:g} % or a packet; median {statistics.median(offs):.2f} % off, worst "
        f"{max(offs):.2f} %, all together {100 * (total / wanted - 1):+.3f} %"
    )
    print(f"replay: {found['replay']}\n", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=BACKENDS, default="relay")
    parser.add_argument("--trace", default="", help="a trace, as written for the relay")
    parser.add_argument("--cut", default="0..60", help="seconds of it, START..END")
    parser.add_argument("--profile", default="lte-verizon", help="the profile below the trace")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = []
    for trace, profile in cases(options):
        found.append(table(trace, profile, BACKENDS[options.backend]))
        if not options.json:
            show(found[-1])
    if options.json:
        print(json.dumps(found))
    return int(any(row["verdict"] == "MISSED" for one in found for row in one["rows"]))


if __name__ == "__main__":
    sys.exit(main())
