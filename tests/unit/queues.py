"""Made-up runs of known truth: frames that fall due at a machine which serves one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from splitbed.record import FrameRecord
from tests.unit.test_summary import MANIFEST, MS, written

AFTER_MS = 27
SERVICE_MS = 10.0
"""Of the head. Then 25 ms on the link and 2 of the tail, which are never short of time."""


def rows(
    count: int,
    rate_fps: float,
    *,
    poisson: bool = False,
    deadline_ms: float | None = None,
    drop: bool = False,
    stall_s: tuple[float, float] | None = None,
    seed: int = 0,
) -> list[FrameRecord]:
    """Frames of a run in open loop; `stall_s`: when nothing is served, and for how long."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1e9 / rate_fps, count) if poisson else np.full(count, 1e9 / rate_fps)
    due_ns, free_ns, found = np.cumsum(gaps), 0.0, []
    for number, due in enumerate(due_ns):
        begun = max(due, free_ns)
        if stall_s is not None and stall_s[0] * 1e9 <= begun < sum(stall_s) * 1e9:
            begun = sum(stall_s) * 1e9
        wait = int(begun - due)
        if drop and deadline_ms is not None and wait > deadline_ms * MS:
            found.append(_row(number, "dropped", due, wait))
            continue
        took = int(SERVICE_MS * MS * random.gamma(100, 0.01))
        free_ns = begun + took
        late = deadline_ms is not None and wait + took + AFTER_MS * MS > deadline_ms * MS
        found.append(_row(number, "late" if late else "ok", due, wait, took))
    return found


def _row(number: int, status: str, due_ns: float, wait_ns: int, took_ns: int = 0) -> FrameRecord:
    figures: dict[str, Any] = {}
    if took_ns:
        figures = {
            "head_ns": took_ns, "rtt_ns": AFTER_MS * MS, "edge_ns": 2 * MS, "edge_tail_ns": 2 * MS,
            "edge_batch": 1, "total_ns": wait_ns + took_ns + AFTER_MS * MS,
            "raw_bytes": 4000, "payload_bytes": 1000, "request_bytes": 1000, "reply_bytes": 100,
        }  # fmt: skip
    return FrameRecord(
        run_id="abc-1", session_id=1, frame_id=number, warmup=False, status=status,
        source=f"p{number % 7}.png", intended_ns=int(due_ns), wait_ns=wait_ns, **figures,
    )  # fmt: skip


def run(folder: Path, frames: list[FrameRecord], **load: Any) -> Path:
    """A run folder with these rows, its load as the device tells it."""
    told = {
        "kind": "rate",
        "rate_fps": 80.0,
        "window": 4,
        "seed": 0,
        "rule": {},
        "stopped_by": "frames",
    }
    config = MANIFEST.config | {"window": 4}
    return written(folder, frames, frames_wanted=len(frames), load=told | load, config=config)


def replaced(row: FrameRecord, **fields: Any) -> FrameRecord:
    """The same row, other in these fields."""
    return msgspec.structs.replace(row, **fields)
