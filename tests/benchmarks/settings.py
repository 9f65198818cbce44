"""What the transport's settings are worth, each against another choice.

    python tests/benchmarks/settings.py [--rounds 60] [--link PROFILE] [--bytes 1600000] [--json]

A process for each variant, the same settings on both sides; frames go round robin, so that a drift
of the machine's speed falls on all alike; client and servers are pinned to a processor each. On
loopback, and through a relay of 200 Mbit/s and 20 ms one way, where flow control that waits for
acknowledgements would show as time beyond rate and delay; the first frame of a connection apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.children import start_module
from netem.profiles import find_profile
from netem.relay_link import ProcessLink
from splitbed.process import announce, guarded
from splitbed.session import SPLIT, SessionSpec, StageSpec, TensorCodec
from splitbed.tensor import Cut, TensorSpec
from splitbed.transport import grpc_client, grpc_server, grpc_settings
from splitbed.transport.face import Session
from splitbed.wire import pieces
from tests.benchmarks.nodes import Program, end_with_benchmark
from tests.benchmarks.transport import Sink, pin

_MIB = 1024 * 1024
_PIECE_BYTES = pieces.PIECE_BYTES
VARIANTS: dict[str, dict[str, int]] = {
    "as set": {},
    "whole messages": {},
    "frames of 1 MiB": {"grpc.http2.max_frame_size": _MIB},
    "look-ahead 32 MiB": {"grpc.http2.lookahead_bytes": 32 * _MIB},
    "reads of 8 MiB": {
        "grpc.experimental.tcp_read_chunk_size": 8 * _MIB,
        "grpc.experimental.tcp_min_read_chunk_size": 8 * _MIB,
        "grpc.experimental.tcp_max_read_chunk_size": 16 * _MIB,
    },
}
"""What is set in each beside our own. `whole messages`: no frame in pieces."""

LOOPBACK_BYTES = (5_800_000, 1_600_000, 20_000)


def apply(variant: str) -> None:
    """From here on, this process' channels, servers and frames are set like this."""

    def changed(message_bytes: int) -> grpc_settings.Options:
        every = dict(grpc_settings.options(message_bytes)) | VARIANTS[variant]
        return list(every.items())

    vars(grpc_client)["options"] = vars(grpc_server)["options"] = changed


def serve(variant: str) -> None:
    end_with_benchmark()
    pin(1)
    apply(variant)
    server = grpc_server.GrpcServer(Sink(), "127.0.0.1:0")
    announce(address=server.address)
    sys.stdin.read()
    server.stop(0)


def session(variant: str, address: str, size: int) -> tuple[grpc_client.GrpcTransport, Session]:
    apply(variant)
    transport = grpc_client.GrpcTransport(address)
    cut = Cut("x", (TensorSpec("x", "float32", (size // 4,)),))
    codecs = (TensorCodec("x", (StageSpec("raw"),)),)
    return transport, transport.open(SessionSpec("b", "m", "", SPLIT, cut, codecs, "result", ""))


def frame_ms(variant: str, stream: Session, number: int, payload: memoryview) -> float:
    vars(pieces)["PIECE_BYTES"] = sys.maxsize if variant == "whole messages" else _PIECE_BYTES
    start_ns = time.perf_counter_ns()
    stream.submit(number, (payload,)).result()
    return (time.perf_counter_ns() - start_ns) / 1e6


def times_ms(
    where: str, size: int, rounds: int, addresses: dict[str, str], link: str, folder: Path
) -> dict[str, list[float]]:
    links: list[ProcessLink] = []
    if where != "loopback":
        profile, log = find_profile(link), folder / "relay.log"
        links = [ProcessLink(profile, at, log, start_module) for at in addresses.values()]
        addresses = dict(zip(addresses, (made.address for made in links), strict=True))
    payload = memoryview(secrets.token_bytes(size))
    opened = {variant: session(variant, at, size) for variant, at in addresses.items()}
    found: dict[str, list[float]] = {variant: [] for variant in opened}
    for number in range(rounds + 5):
        # Every variant comes first equally often: whoever follows a pause finds cold caches.
        turn = number % len(opened)
        order = list(opened.items())
        for variant, (_, stream) in order[turn:] + order[:turn]:
            if where != "first frame":
                took_ms = frame_ms(variant, stream, number, payload)
            else:
                transport, stream = session(variant, addresses[variant], size)
                took_ms = frame_ms(variant, stream, number, payload)
                stream.close()
                transport.close()
            if number >= 5:
                found[variant].append(took_ms)
    for transport, stream in opened.values():
        stream.close()
        transport.close()
    for made in links:
        made.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--link", default="rate=200mbit,delay=20ms")
    parser.add_argument("--bytes", type=int, default=1_600_000, help="of a frame on the link")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    rows: list[dict[str, Any]] = []
    cases = [("loopback", size) for size in LOOPBACK_BYTES]
    cases += [(where, options.bytes) for where in ("link", "first frame")]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        servers = {
            variant: stack.enter_context(Program("server", __file__, "--serve", variant))
            for variant in VARIANTS
        }
        pin(0)
        addresses = {variant: server.address for variant, server in servers.items()}
        for where, size in cases:
            found = times_ms(where, size, options.rounds, addresses, options.link, Path(name))
            ours = np.asarray(found["as set"])
            for variant, samples in found.items():
                ratios = np.asarray(samples) / ours
                rng = np.random.default_rng(0)
                drawn = rng.integers(0, len(ratios), (2000, len(ratios)))
                low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
                rows.append(
                    {
                        "where": where,
                        "bytes": size,
                        "variant": variant,
                        "p50_ms": float(np.median(samples)),
                        "ratio": float(np.median(ratios)),
                        "ratio_low": float(low),
                        "ratio_high": float(high),
                    }
                )
    if options.json:
        print(json.dumps(rows))
        return 0
    print(f"link: {options.link}; {options.rounds} rounds; ratios paired within a round")
    print("where           bytes  settings             p50 ms    to as set  95 % interval")
    for row in rows:
        print(
            f"{row['where']:<11} {row['bytes']:9,}  {row['variant']:<19} {row['p50_ms']:7.2f}  "
            f"{row['ratio']:11.2f}  {row['ratio_low']:.2f}..{row['ratio_high']:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "settings"))
