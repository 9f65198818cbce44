"""From a run's raw rows to its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
import numpy as np

from experiments.availability import Availability, availability
from experiments.clock_summary import ClockSummary, clock_summary, hindsight
from experiments.evaluation import Evaluation, read_evaluation
from experiments.flow import Flow, Load, flow, load_of
from experiments.node_use import NodeUse, node_use
from experiments.prediction import arithmetic, predicted_link_ns, violations
from experiments.quality import quality
from experiments.run_facts import (
    CertifiedLink,
    Preparation,
    Setting,
    certified,
    codec_text,
    preparation,
    setting,
)
from experiments.statistics import PairedLoss, Share
from splitbed.dependence import memory
from splitbed.errors import RecordError
from splitbed.graph import INPUT_CUT, OUTPUT_CUT
from splitbed.latency import latency_ms, stream_percentile
from splitbed.link import Replay
from splitbed.load import SHARES
from splitbed.percentile import Percentile
from splitbed.record import FrameRecord, RunManifest
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from splitbed.task import PICTURE_CUT, RESULT_CUT

STAGES: Final[dict[str, Callable[[FrameRecord], int]]] = {
    "wait": lambda row: row.wait_ns,
    "preprocess": lambda row: row.preprocess_ns,
    "head": lambda row: row.head_ns,
    "encode": lambda row: row.encode_ns,
    "window": lambda row: row.window_ns,
    "device queue": lambda row: row.queue_ns,
    "link": lambda row: row.link_ns,
    "edge queue": lambda row: row.edge_queue_ns,
    "decode": lambda row: row.edge_decode_ns,
    "tail": lambda row: row.edge_tail_ns,
    "reply encode": lambda row: row.edge_encode_ns,
    "finish": lambda row: row.finish_ns,
}
"""The parts of a frame's time in the order in which it passes them."""

_ONE_NODE: Final = (PICTURE_CUT, RESULT_CUT, INPUT_CUT, OUTPUT_CUT)


class Summary(msgspec.Struct, frozen=True):
    """The figures of one run. Times in milliseconds; warm-up frames are not in them."""

    run_id: str
    folder: str
    model: str
    model_digest: str
    setting: Setting
    cut: str
    is_anchor: bool
    """Everything on one node, or called an anchor when it was run (first layers only)."""
    codec: str
    link: str
    link_kind: str
    replay: Replay | None
    """What became of the link's trace, where it had one. The certificate is of its profile, and no
    arithmetic is done with it then."""
    outcome: str
    complete: bool
    violations: tuple[str, ...]
    certified: CertifiedLink | None
    link_attempts: int
    """Measurements of the link before the run, until one met the profile; 0: not certified."""
    frames_wanted: int
    frames_ok: int
    """With an answer in time, where there was a deadline."""
    frames_late: int
    """With an answer after its deadline; they are in all times."""
    frames_dropped: int
    """Never sent, because their deadline had passed; in no time but that of the queue."""
    frames_failed: int
    warmup_frames: int
    memory: int
    """So many frames on, a latency is still like the one that it was; 0: as good as independent.
    The intervals of `total_ms` know of it."""
    load: Load
    flow: Flow
    availability: Availability
    total_ms: dict[str, Percentile]
    stages_ms: dict[str, dict[str, float]]
    raw_bytes: int
    payload_bytes: float
    """Coded boundary of a frame, median."""
    request_bytes: float
    reply_bytes: float
    head_bytes: int
    head_fetch_ms: float
    tail_bytes: int
    preparation: dict[str, Preparation]
    """What each node did once, before the first frame; empty for one that runs no part."""
    rest_pct: float
    """Total less its parts, in percent of the total, median."""
    arithmetic_ms: float | None
    """What head, coding and tail, and the certified link, predict for the median frame; None with
    several frames in flight or in open loop, where frames wait for each other."""
    transport_excess_ms: float | None
    """Time on the link beyond the certificate's arithmetic, median: gRPC, HTTP/2 and TCP. With
    several frames in flight the arithmetic lets each wait for those before it."""
    accuracy: Share | None
    anchor_accuracy: Share | None
    """The uncut model on the same pictures."""
    loss: PairedLoss | None
    agreement: Share | None
    """Frames with the uncut model's answer (`is_alike`)."""
    max_difference: float | None
    """Largest absolute difference of any output element from the uncut model's."""
    rms_difference_pct: float | None
    """Root of squared error over squared output, all outputs of a frame together; the worst."""
    use: dict[str, NodeUse]
    evaluation: Evaluation | None
    """Accuracy on more pictures than were measured, where it was evaluated."""
    slowdown: dict[str, Any] | None = None
    """What the device's limits do to its head, measured: `ratio` within `low` to `high`."""
    link_users: int = 1
    """Devices that shared the link; arithmetic and transport excess know of one."""
    session_bytes: int = 0
    """Codecs and what they learnt from the calibration, sent once when the session opens."""
    clock: ClockSummary | None = None

    @property
    def points_lost(self) -> float | None:
        """Net points of accuracy lost, on the larger of the two sets of pictures."""
        if self.evaluation is not None:
            return self.evaluation.loss.points
        return None if self.loss is None else self.loss.points

    @property
    def frames_answered(self) -> int:
        """In time or late."""
        return self.frames_ok + self.frames_late

    @property
    def name(self) -> str:
        """The configuration in short."""
        return f"{self.cut} {self.codec}".strip()


def measured_rows(folder: Path) -> list[FrameRecord]:
    """A run's rows in the order in which frames were due, warm-up left out."""
    return _measured(read_rows(RunFolder(folder).frames("device"), FrameRecord))


def summarise(folder: Path) -> Summary:
    """The figures of a run folder, whatever state the run was left in.

    Raises RecordError where there is no run, or no measured frame to speak of.
    """
    manifest, files = read_manifest(folder), RunFolder(folder)
    rows = list(read_rows(files.frames("device"), FrameRecord))
    measured = _measured(rows)
    answered = [row for row in measured if row.is_answered]
    if not answered:
        raise RecordError(
            f"the run in {folder} has no frame that was measured ({manifest.outcome})"
        )
    load = load_of(manifest)
    totals = [ms for row in measured if (ms := latency_ms(row)) is not None]
    alike = memory(totals)
    certificate = manifest.certificate or files.read_link()
    predicted = None
    is_steady = not manifest.config.get("trace") and manifest.replay is None
    if certificate is not None and is_steady:
        predicted = predicted_link_ns(rows, certificate)
    cut = (manifest.cut or {}).get("name", str(manifest.config.get("cut", "")))
    counts = Counter(row.status.partition(":")[0] for row in measured)
    outcome = manifest.outcome
    if outcome == "running":
        outcome = f"ended without a word after {len(rows)} rows (killed, or still going on)"
    head, clock = manifest.head or {}, hindsight(files, manifest, rows)
    return Summary(
        run_id=manifest.run_id,
        folder=str(folder),
        model=Path(str(manifest.config.get("model", ""))).stem,
        model_digest=manifest.model_digest,
        setting=setting(manifest, load),
        cut=cut,
        is_anchor=cut in _ONE_NODE or bool(manifest.config.get("anchor")),
        codec=codec_text(manifest),
        link=certificate.profile.name if certificate else "unknown",
        link_kind=certificate.kind if certificate else "uncertified",
        replay=manifest.replay,
        outcome=outcome,
        complete=_is_complete(manifest, load, counts),
        violations=violations(certificate, manifest, answered, predicted),
        certified=None if certificate is None else certified(certificate),
        link_attempts=certificate.before_attempts if certificate else 0,
        frames_wanted=manifest.frames_wanted,
        frames_ok=counts["ok"],
        frames_late=counts["late"],
        frames_dropped=counts["dropped"],
        frames_failed=len(measured) - len(answered) - counts["dropped"],
        warmup_frames=len(rows) - len(measured),
        memory=alike,
        load=load,
        flow=flow(measured, load, certificate if is_steady else None),
        availability=availability(measured, load, clock.uplinks(measured) if clock else {}),
        total_ms={name: stream_percentile(totals, at, alike) for name, at in SHARES.items()},
        stages_ms=_stages(answered),
        raw_bytes=answered[0].raw_bytes,
        payload_bytes=median(row.payload_bytes for row in answered),
        request_bytes=median(row.request_bytes for row in answered),
        reply_bytes=median(row.reply_bytes for row in answered),
        head_bytes=int(head.get("file_bytes", 0)),
        session_bytes=len(msgspec.json.encode(manifest.codecs)) if manifest.codecs else 0,
        head_fetch_ms=head.get("fetch_ns", 0) / 1e6,
        tail_bytes=int((manifest.edge or {}).get("tail_bytes", 0)),
        preparation=preparation(manifest),
        rest_pct=median(100 * row.rest_ns / row.total_ns for row in answered),
        **arithmetic(answered, predicted, load.kind == "single"),
        **quality(answered, manifest),
        use=node_use(files),
        evaluation=read_evaluation(folder),
        slowdown=manifest.host.get("limits", {}).get("slowdown"),
        link_users=certificate.users if certificate else 1,
        clock=clock_summary(clock, answered),
    )


def _measured(rows: Iterable[FrameRecord]) -> list[FrameRecord]:
    return sorted((row for row in rows if not row.warmup), key=lambda row: row.frame_id)


def _is_complete(manifest: RunManifest, load: Load, counts: Counter[str]) -> bool:
    """Every frame that was begun has its row and none failed; dropped ones where that was asked."""
    done = counts["ok"] + counts["late"] + (counts["dropped"] if load.late == "drop" else 0)
    return manifest.outcome == "complete" and done == counts.total() == manifest.frames_wanted


def _stages(answered: Sequence[FrameRecord]) -> dict[str, dict[str, float]]:
    names, shares = list(SHARES), list(SHARES.values())
    return {
        stage: dict(
            zip(names, np.quantile([of(r) / 1e6 for r in answered], shares).tolist(), strict=True)
        )
        for stage, of in STAGES.items()
    }
