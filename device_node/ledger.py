"""The account of a run's frames: one row for each that was begun, and what ends the run early."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from device_node.begun import Begun
from device_node.stages import failed
from device_node.stopping import Stopping
from splitbed.errors import FrameTimeout, RecordError, SplitbedError
from splitbed.latency import latency_ms
from splitbed.load import LoadPlan
from splitbed.record import FrameRecord
from splitbed.run_folder import RowWriter


class Ledger:
    """Rows are kept by any thread, in the order in which frames end."""

    def __init__(
        self, plan: LoadPlan, writer: RowWriter, stopping: Stopping, timeout_s: float
    ) -> None:
        self._plan, self._writer, self._stopping = plan, writer, stopping
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self.fatal: SplitbedError | None = None
        """What ended the run early, where something did."""
        self.crash: Exception | None = None
        """A mistake of ours."""
        self.begun = 0
        """Frames that work began on, warm-up included."""
        self.kept = 0
        """Rows written, or tried to be."""
        self.last_ns = 0
        """When the last of them was, by the monotonic clock."""
        self.ok = 0
        """Measured frames that went well, warm-up not counted."""
        self.late = 0
        """Measured frames that were answered after their deadline."""
        self.dropped = 0
        """Measured frames that were not sent because their deadline had passed."""
        self.failed: list[str] = []
        """The sentence of every frame that failed."""

    @property
    def ended_early(self) -> Exception | None:
        """What no frame can go on after."""
        return self.crash or self.fatal

    @property
    def is_quiet(self) -> bool:
        """Whether every frame begun has its row: nothing is in flight."""
        return self.kept == self.begun

    def guard(self, work: Callable[[int | None], None], gap_ns: int | None) -> None:
        """Do something that belongs to no frame; what it raises ends the run."""
        try:
            work(gap_ns)
        except SplitbedError as error:
            self.fatal = self.fatal or error
        except Exception as error:  # a mistake of ours, and no frame's
            self.crash = self.crash or error

    def begin(self) -> None:
        """Work on a frame begins: from here on it will have a row."""
        with self._lock:
            self.begun += 1

    def keep(self, row: FrameRecord) -> None:
        """Write the row of a frame that has ended; one that took too long becomes `late`."""
        deadline_ns = self._plan.deadline_ns
        measured = row.status == "ok" and not row.warmup
        if measured and deadline_ns is not None and row.total_ns > deadline_ns:
            row = msgspec.structs.replace(row, status="late")
        with self._lock:
            self._count(row)
            try:
                self._writer.write(row)
            except RecordError as error:
                self.fatal = error
            finally:
                self.kept += 1
                self.last_ns = time.perf_counter_ns()

    def _count(self, row: FrameRecord) -> None:
        if row.status.startswith("failed"):
            self.failed.append(row.error)
        elif row.warmup:
            return
        elif row.status == "dropped":
            self.dropped += 1
        elif row.status == "late":
            self.late += 1
        else:
            self.ok += 1
        if not row.warmup:
            self._stopping.saw(latency_ms(row))

    def overtaken(self, frame: Begun, at_ns: int) -> bool:
        """Whether a frame is to be dropped: its deadline is over, and nobody wants it any more."""
        deadline_ns = self._plan.deadline_ns
        if not self._plan.drop or deadline_ns is None or frame.row.warmup:
            return False
        return at_ns - frame.due_ns > deadline_ns

    def crashed(self, frame: Begun, error: Exception) -> None:
        """A mistake of ours, on a thread that nobody listens to: heard, and the frame has a row."""
        self.crash = self.crash or error
        self.keep(failed(frame.row, SplitbedError(f"{type(error).__name__}: {error}")))

    def lost(self, frame: Begun, error: SplitbedError) -> None:
        """A frame failed in a way after which no further one can go through."""
        self.fatal = self.fatal or error
        self.keep(failed(frame.row, error))

    def abandon(self, frame: Begun) -> None:
        """The row of a frame that was on its way when the run ended early."""
        reason = self.ended_early
        if isinstance(reason, SplitbedError):
            cause: SplitbedError = reason
        else:
            cause = SplitbedError(f"{type(reason).__name__}: {reason}")
        self.keep(failed(frame.row, cause))

    def give_up(self, late: list[Begun]) -> None:
        """Write the rows of frames in flight, the first of which is overdue."""
        for frame in late:
            first = late[0].row.frame_id
            if frame is late[0]:
                error = FrameTimeout(
                    f"the edge did not answer frame {first} within {self._timeout_s:g} s: it may "
                    "hang, or the link may be too slow for this cut; allow more with --timeout-s, "
                    "or code the cut"
                )
            else:
                error = FrameTimeout(
                    f"given up behind frame {first}, which the edge did not answer within "
                    f"{self._timeout_s:g} s"
                )
            try:
                self.lost(frame, error)
            except Exception as mistake:  # of ours: the others have their rows all the same
                self.crash = self.crash or mistake
