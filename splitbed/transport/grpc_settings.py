"""How gRPC is set up, the same on both nodes. METHODOLOGY.md says what each setting was worth."""

from __future__ import annotations

import os
from typing import Final

# Before grpc is imported: its C core reports lost connections on standard error on its own.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

SERVICE: Final = "splitbed.v1.Split"
FAILURE_TRAILER: Final = "splitbed-failure-bin"
WINDOW_HEADER: Final = "splitbed-window"
SESSION_HEADER: Final = "splitbed-session"
TOKEN_HEADER: Final = "authorization"  # noqa: S105  (the name of a header)

MESSAGE_BYTES: Final = 128 * 1024 * 1024
"""Largest message by default: five times the 22 MB of RetinaNet's pyramid (spec B2)."""

CHUNK_BYTES: Final = 512 * 1024
"""Size of a chunk of a part's file."""

Options = list[tuple[str, int]]


def options(message_bytes: int) -> Options:
    """Channel and server options for messages of up to `message_bytes`."""
    return [
        # Deliberate: what is larger is refused by name instead of failing at 4 MB.
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.max_receive_message_length", message_bytes),
        # HTTP/2 frame size, look-ahead and read sizes are gRPC's own: tests/benchmarks/settings.py
        # finds nothing to gain there, once large frames travel in pieces.
        # Frames go where the person said: never through a proxy that a variable names.
        ("grpc.enable_http_proxy", 0),
        # A peer that vanished without a word is noticed within 20 s, also while idle.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        # Our frames are not idempotent measurements: never sent twice.
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.so_reuseport", 0),
    ]
