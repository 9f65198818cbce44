"""The gRPC transport against a bare socket, on loopback, in the same pair of processes.

    python tests/benchmarks/transport.py [--pairs 400] [--json]

Both sides send a payload of N bytes and wait for a small reply. The socket's receiver reads into a
buffer that is allocated once (`recv_into`); that is as little as a transport can do. Blocks run
A B B A, so a drift of the machine's speed falls on both alike. The two processes are pinned to a
processor each where there are two. The interval of the ratio comes from resampling whole blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from splitbed.codec import raw_array
from splitbed.process import announce, guarded
from splitbed.session import (
    SPLIT,
    CutAnswer,
    CutQuestion,
    EdgeTimes,
    Frame,
    Reply,
    SessionAgreed,
    SessionSpec,
    StageSpec,
    TensorCodec,
)
from splitbed.tensor import Cut, TensorSpec
from splitbed.transport import Work
from splitbed.transport.grpc_client import GrpcTransport
from splitbed.transport.grpc_server import GrpcServer
from tests.benchmarks.nodes import Program, end_with_benchmark

SIZES = (5_800_000, 1_600_000, 20_000)
_HEADER = struct.Struct("<Q")
_REPLY = bytes(64)


class Sink:
    """The least that an edge can do with a frame: see the payload as a tensor."""

    def describe_cut(self, question: CutQuestion) -> CutAnswer:
        raise NotImplementedError

    def part_chunks(self, sha256: str, offset: int) -> Iterator[bytes]:
        raise NotImplementedError

    def open_session(self, spec: SessionSpec) -> SessionAgreed:
        self.spec = spec.cut.boundary[0]
        return SessionAgreed(1, "", (), 0, 0)

    def attach(self, session_id: int) -> int:
        return 1

    def process(self, frame: Frame, received_ns: int) -> Reply:
        array = raw_array(frame.payloads[0], self.spec)
        times = EdgeTimes(received_ns=received_ns, edge_ns=time.perf_counter_ns() - received_ns)
        return Reply(frame.session_id, frame.frame_id, times, (), f'{{"n":{array.size}}}')

    def start(self, frame: Frame, received_ns: int) -> Work:
        raise NotImplementedError

    def answered(self, reply: Reply, request_bytes: int, reply_bytes: int) -> None:
        pass

    def close_session(self, session_id: int) -> None:
        pass


def serve() -> None:
    end_with_benchmark()
    server = GrpcServer(Sink(), "127.0.0.1:0")
    listener = socket.create_server(("127.0.0.1", 0))
    announce(address=server.address, port=listener.getsockname()[1])
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(max(SIZES)))
    while True:
        header = client.recv(_HEADER.size, socket.MSG_WAITALL)
        if len(header) < _HEADER.size:
            break
        (size,) = _HEADER.unpack(header)
        got = 0
        while got < size:
            got += client.recv_into(buffer[got:size])
        client.sendall(_REPLY)
    server.stop(0)


def pin(processor: int) -> None:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) > 1:
        os.sched_setaffinity(0, {usable[processor % len(usable)]})


def medians(blocks: np.ndarray, seed: int = 0) -> np.ndarray:
    """Medians of gRPC and socket in milliseconds, 2000 times with resampled blocks; 2000 x 2.

    A block is (grpc, grpc, socket, socket), from one A B B A.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(2000):
        chosen = blocks[rng.integers(0, len(blocks), len(blocks))]
        found.append((np.median(chosen[:, :2]) / 1e6, np.median(chosen[:, 2:]) / 1e6))
    return np.asarray(found)


def compared(address: str, port: int, pairs: int) -> list[dict[str, Any]]:
    """A row for each size."""
    transport = GrpcTransport(address)
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    rows = []
    for size in SIZES:
        payload = memoryview(secrets.token_bytes(size))
        spec = TensorSpec("x", "float32", (size // 4,))
        cut = Cut("x", (spec,))
        codecs = (TensorCodec("x", (StageSpec("raw"),)),)
        session = transport.open(SessionSpec("bench", "m", "", SPLIT, cut, codecs, "result", ""))
        number = 0

        def by_grpc() -> int:
            nonlocal number
            number += 1
            start = time.perf_counter_ns()
            session.submit(number, (payload,)).result()  # noqa: B023
            return time.perf_counter_ns() - start

        def by_socket() -> int:
            start = time.perf_counter_ns()
            sock.sendall(_HEADER.pack(size))  # noqa: B023
            sock.sendall(payload)  # noqa: B023
            sock.recv(len(_REPLY), socket.MSG_WAITALL)
            return time.perf_counter_ns() - start

        for _ in range(20):
            by_grpc()
            by_socket()
        blocks = np.asarray(
            [
                (a1, a2, b1, b2)
                for a1, b1, b2, a2 in (
                    (by_grpc(), by_socket(), by_socket(), by_grpc()) for _ in range(pairs // 2)
                )
            ],
            np.float64,
        )
        session.close()
        grpc_ms, socket_ms = np.median(blocks[:, :2]) / 1e6, np.median(blocks[:, 2:]) / 1e6
        drawn = medians(blocks)
        low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
        excess_low, excess_high = np.quantile(drawn[:, 0] - drawn[:, 1], [0.025, 0.975])
        rows.append(
            {
                "bytes": size,
                "pairs": 2 * len(blocks),
                "grpc_ms": grpc_ms,
                "socket_ms": socket_ms,
                "excess_ms": grpc_ms - socket_ms,
                "excess_ms_low": float(excess_low),
                "excess_ms_high": float(excess_high),
                "ratio": grpc_ms / socket_ms,
                "ratio_low": float(low),
                "ratio_high": float(high),
            }
        )
    transport.close()
    sock.close()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=400, help="pairs for each size")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        pin(1)
        serve()
        return 0
    with Program("server", __file__, "--serve") as server:
        pin(0)
        rows = compared(server.address, server.ready["port"], options.pairs)
    if options.json:
        print(json.dumps(rows))
        return 0
    pinned = len(os.sched_getaffinity(0)) == 1
    print(f"processes {'pinned to a processor each' if pinned else 'not pinned'}")
    print("    bytes  pairs  grpc ms  socket ms  excess ms  95 % interval  ratio  95 % interval")
    for row in rows:
        print(
            f"{row['bytes']:9,}  {row['pairs']:5}  {row['grpc_ms']:7.3f}  {row['socket_ms']:9.3f}  "
            f"{row['excess_ms']:9.3f}  {row['excess_ms_low']:6.3f}..{row['excess_ms_high']:5.3f}  "
            f"{row['ratio']:5.2f}  "
            f"{row['ratio_low']:.2f}..{row['ratio_high']:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, "transport"))
