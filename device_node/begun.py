"""One frame on its way through the device."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from splitbed.errors import SplitbedError
from splitbed.record import FrameRecord
from splitbed.session import Buffer, Reply
from splitbed.tensor import Array


class Begun(msgspec.Struct, eq=False):
    """One frame on its way through the device. What a stage has used up is let go."""

    row: FrameRecord
    path: Path
    due_ns: int = 0
    mark_ns: int = 0
    """When its last stage ended, by the monotonic clock."""
    image: Any = None
    """The decoded picture."""
    unreadable: SplitbedError | None = None
    """Why there is no picture."""
    values: Mapping[str, Array] = {}
    """What the next stage works on: the model's inputs, then the boundary."""
    payloads: tuple[Buffer, ...] = ()
    local: dict[str, Array] = {}
    """Outputs that the device has itself (everything ran here)."""
    reply: Future[Reply] | None = None
    deadline_s: float = 0.0
    """By the monotonic clock: no reply is waited for after it."""
    wait_ns: int = 0
    preprocess_ns: int = 0
    head_ns: int = 0
    encode_ns: int = 0
    window_ns: int = 0
    queue_ns: int = 0
