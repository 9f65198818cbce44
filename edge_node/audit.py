"""What an edge keeps of one session: audit rows and resource samples, beside the device's own."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from edge_node.metrics import Metrics
from splitbed.errors import RecordError
from splitbed.record import EdgeFrameRecord
from splitbed.resources import ResourceSampler
from splitbed.run_folder import RowWriter, RunFolder
from splitbed.session import Reply


class Losses:
    """Says once what an edge could not record; a device never pays for it with its reply."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._samples_lost = False

    def row(self, error: RecordError) -> None:
        """An audit row was lost."""
        if self._metrics.lost_row() == 1:
            sys.stderr.write(f"edge: {error}; frames go on without audit rows\n")

    def samples(self, error: RecordError) -> None:
        """A session goes on without resource samples."""
        with self._lock:
            said, self._samples_lost = self._samples_lost, True
        if not said:
            sys.stderr.write(f"edge: {error}; frames go on without resource samples\n")


class Audit:
    """The rows of one session, in the folder of its run."""

    def __init__(
        self,
        folder: RunFolder,
        run_id: str,
        interval_s: float,
        losses: Losses,
        memory_bytes: dict[str, int],
    ) -> None:
        """Open both files; RecordError where that cannot be done."""
        self._run_id, self._losses = run_id, losses
        self._frames = RowWriter(folder.frames("edge"))
        try:
            self._resources = RowWriter(folder.resources("edge"))
        except RecordError:
            self._frames.close()
            raise
        self._sampler = ResourceSampler(
            "edge",
            run_id,
            self._resources.write,
            interval_s,
            about=lambda about: folder.write_sources("edge", about),
            phase="idle",
            memory_bytes=memory_bytes,
            lost=losses.samples,
        )
        self._sampler.start()

    def write(self, reply: Reply, session_id: int, request_bytes: int, reply_bytes: int) -> None:
        """One row for a frame that was answered."""
        self._sampler.mark("after_first_frame")
        self._sampler.enter("frames")
        times, error = reply.times, reply.error
        row = EdgeFrameRecord(
            run_id=self._run_id,
            session_id=session_id,
            frame_id=reply.frame_id,
            status="ok" if error is None else f"failed:{error.kind}",
            received_ns=times.received_ns,
            edge_ns=times.edge_ns,
            queue_ns=times.queue_ns,
            decode_ns=times.decode_ns,
            tail_ns=times.tail_ns,
            encode_ns=times.encode_ns,
            batch=times.batch,
            request_bytes=request_bytes,
            reply_bytes=reply_bytes,
            error="" if error is None else str(error),
        )
        try:
            self._frames.write(row)
        except RecordError as failure:
            self._losses.row(failure)

    def close(self) -> None:
        """Take a last sample and close both files."""
        self._sampler.stop()
        self._frames.close()
        self._resources.close()


def open_audit(
    records: Path | None,
    run_id: str,
    interval_s: float,
    losses: Losses,
    memory_bytes: dict[str, int],
) -> Audit | None:
    """The audit of one session; None where none is wanted, or none can be kept.

    `memory_bytes` is the process's memory at named moments before.
    """
    if records is None:
        return None
    try:
        return Audit(RunFolder(records / run_id), run_id, interval_s, losses, memory_bytes)
    except RecordError as error:
        losses.row(error)
        return None
