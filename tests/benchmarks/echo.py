"""What gRPC's Python takes for a frame at the least: ready bytes there, ready bytes back.

`tests/benchmarks/framework.py` starts it as two processes, with the settings that splitbed uses:

    python -m tests.benchmarks.echo serve REPLY_BYTES
    python -m tests.benchmarks.echo ask ADDRESS BYTES FRAMES PAUSE_US

`ask` prints the round trips in nanoseconds. Between two of them it computes for PAUSE_US, as a head
does: an edge that is asked again at once has no time to fall asleep.
"""

from __future__ import annotations

import queue
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import grpc
import msgspec
import numpy as np

from splitbed.process import announce
from splitbed.transport.grpc_settings import MESSAGE_BYTES, options
from tests.benchmarks.nodes import end_with_benchmark

_SERVICE: Final = "splitbed.benchmarks.Echo"


def serve(reply_bytes: int) -> None:
    """Answer every message with ready bytes, until the benchmark ends."""
    end_with_benchmark()
    reply = secrets.token_bytes(reply_bytes)

    def answers(requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
        for _message in requests:
            yield reply

    server = grpc.server(ThreadPoolExecutor(2), options=options(MESSAGE_BYTES))
    handler: Any = grpc.stream_stream_rpc_method_handler(answers)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {"Frames": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(address=f"127.0.0.1:{port}")
    threading.Event().wait()


def ask(address: str, nbytes: int, frames: int, pause_s: float) -> list[int]:
    """Round trips of frames one after another; a thread takes the replies in, as a device's."""
    end_with_benchmark()
    channel = grpc.insecure_channel(address, options(MESSAGE_BYTES))
    grpc.channel_ready_future(channel).result(10)
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    waiting: queue.SimpleQueue[Future[bytes]] = queue.SimpleQueue()
    method: Any = channel.stream_stream(f"/{_SERVICE}/Frames")
    replies: Iterator[bytes] = method(iter(requests.get, None))
    message, work = secrets.token_bytes(nbytes), np.ones((64, 64), np.float32)

    def take_in() -> None:
        for reply in replies:
            waiting.get().set_result(reply)

    thread = threading.Thread(target=take_in, daemon=True)
    thread.start()
    found = []
    for _ in range(frames):
        end_s = time.perf_counter() + pause_s
        while time.perf_counter() < end_s:
            np.matmul(work, work)
        start_ns = time.perf_counter_ns()
        future: Future[bytes] = Future()
        waiting.put(future)
        requests.put(message)
        future.result(60)
        found.append(time.perf_counter_ns() - start_ns)
    requests.put(None)
    thread.join(10)
    channel.close()
    return found


def main() -> int:
    """One of the two sides."""
    what, *words = sys.argv[1:]
    if what == "serve":
        serve(int(words[0]))
    else:
        address, nbytes, frames, pause_us = words
        trips_ns = ask(address, int(nbytes), int(frames), float(pause_us) / 1e6)
        print(msgspec.json.encode(trips_ns).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
