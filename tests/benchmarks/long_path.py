"""What TCP and HTTP/2 need on a long path, each setting against another choice.

    python tests/benchmarks/long_path.py [--link rate=100mbit,delay=20ms] [--frames 12] [--json]

Needs root and a kernel with netem. Two hosts on this machine (netem.hosts_link); for every variant
a new connection over the project's transport, then frames of each size: the first one, the ones
that follow at once (closed loop), and ones after a pause of a second. The excess is the time beyond
bytes over rate and one round trip, nominal, so what anything costs shows whole.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from experiments.children import start_module
from netem import host_settings
from netem.hosts_link import HostsLink
from netem.profiles import find_profile
from splitbed.process import announce, guarded
from splitbed.session import SPLIT, SessionSpec, StageSpec, TensorCodec
from splitbed.tensor import Cut, TensorSpec
from splitbed.transport import grpc_client, grpc_server, grpc_settings
from tests.benchmarks.nodes import Program, end_with_benchmark
from tests.benchmarks.transport import Sink

SIZES = (20_000, 400_000, 1_600_000, 6_000_000)
PAUSE_S = 1.0
SYSTEM = {
    "tcp_slow_start_after_idle": "1",
    "tcp_no_metrics_save": "0",
    "tcp_rmem": "4096 131072 6291456",
    "tcp_wmem": "4096 16384 4194304",
}
"""As Linux has them where nobody changes anything (6.1, 4 GiB and more)."""

TCP: dict[str, dict[str, str]] = {
    "as set": {},
    "all as Linux has it": SYSTEM,
    "slow start after idle": {"tcp_slow_start_after_idle": "1"},
    "metrics kept": {"tcp_no_metrics_save": "0"},
    "Linux's buffers": {name: SYSTEM[name] for name in ("tcp_rmem", "tcp_wmem")},
    "buffers of 32 MiB": {"tcp_rmem": "4096 131072 33554432", "tcp_wmem": "4096 131072 33554432"},
}
HTTP2: dict[str, dict[str, int]] = {
    "no BDP probing": {"grpc.http2.bdp_probe": 0},
    "look-ahead 32 MiB": {"grpc.http2.lookahead_bytes": 32 << 20},
}


def set_options(variant: str) -> None:
    """From here on, this process' channels and servers are set like this."""

    def changed(message_bytes: int) -> grpc_settings.Options:
        every = dict(grpc_settings.options(message_bytes)) | HTTP2.get(variant, {})
        return list(every.items())

    vars(grpc_client)["options"] = vars(grpc_server)["options"] = changed


def serve(variant: str, host: str) -> None:
    end_with_benchmark()
    set_options(variant)
    server = grpc_server.GrpcServer(Sink(), f"{host}:0")
    announce(address=server.address)
    sys.stdin.read()
    server.stop(0)


def excesses_ms(
    variant: str, address: str, size: int, frames: int, least_ms: float
) -> dict[str, float]:
    set_options(variant)
    payload = memoryview(secrets.token_bytes(size))
    transport = grpc_client.GrpcTransport(address)
    cut = Cut("x", (TensorSpec("x", "float32", (size // 4,)),))
    codecs = (TensorCodec("x", (StageSpec("raw"),)),)
    spec = SessionSpec("b", "m", "", SPLIT, cut, codecs, "result", "")
    stream = transport.open(spec)
    took: list[float] = []
    for number in range(2 * frames + 1):
        if number > frames:
            time.sleep(PAUSE_S)
        start_ns = time.perf_counter_ns()
        stream.submit(number, (payload,)).result()
        took.append((time.perf_counter_ns() - start_ns) / 1e6 - least_ms)
    stream.close()
    transport.close()
    # The second half of each: what the connection comes to, not how it got there.
    return {
        "first": took[0],
        "at once": median(took[1 + frames // 2 : frames + 1]),
        "after a pause": median(took[frames + 1 + frames // 2 :]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--link", default="rate=100mbit,delay=20ms")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--only", nargs="+", default=[*TCP, *HTTP2], metavar="SETTING")
    parser.add_argument("--bytes", nargs="+", type=int, default=SIZES, metavar="BYTES")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return 0
    profile = find_profile(options.link)
    payload_bps = profile.up.payload_bps or 1e12
    as_set = host_settings.for_link(profile, None)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        link = HostsLink(profile, Path(folder) / "log", start_module)
        for variant in options.only:
            with link.on_edge():
                host_settings.apply(as_set | TCP.get(variant, {}))
                server = Program("server", __file__, "--serve", variant, link.edge_host)
            with server, link.on_device():
                host_settings.apply(as_set | TCP.get(variant, {}))
                for size in options.bytes:
                    least_ms = size * 8e3 / payload_bps + profile.rtt_ns / 1e6
                    found = excesses_ms(variant, server.address, size, options.frames, least_ms)
                    rows.append((variant, size, least_ms, found))
        link.close()
    if options.json:
        print(json.dumps(rows))
        return 0
    print(f"link {options.link}; ms beyond bytes over rate and a round trip; {options.frames} each")
    print("setting                    bytes  least ms  first  at once   off %  paused   off %")
    for variant, size, least_ms, found in rows:
        at_once, paused = found["at once"], found["after a pause"]
        print(
            f"{variant:22} {size:9,} {least_ms:9.1f} {found['first']:+6.0f} {at_once:+8.1f} "
            f"{100 * at_once / least_ms:+7.1f} {paused:+7.1f} {100 * paused / least_ms:+7.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "long_path"))
