"""From a run's raw rows to its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from experiments.evaluation import Evaluation, read_evaluation
from experiments.likeness import is_alike
from experiments.node_use import NodeUse, node_use
from experiments.prediction import arithmetic, predicted_link_ns, violations
from experiments.statistics import PairedLoss, Percentile, Share, paired_loss, percentile, share
from splitbed import codec
from splitbed.certificate import LinkCertificate
from splitbed.errors import RecordError
from splitbed.graph import INPUT_CUT, OUTPUT_CUT
from splitbed.link import Replay
from splitbed.record import FrameRecord, RunManifest
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from splitbed.session import TensorCodec
from splitbed.task import PICTURE_CUT, RESULT_CUT

SHARES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}

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


class Setting(msgspec.Struct, frozen=True):
    """What runs must share to be compared, as it was asked for; None where nobody did."""

    window: int | None
    threads: int | None
    edge_threads: int | None
    provider: str | None
    cpus: str | None = None
    cpu_quota: float | None = None


class CertifiedLink(msgspec.Struct, frozen=True):
    """Means of the measurements before and after the run."""

    up_goodput_mbps: float
    down_goodput_mbps: float
    rtt_ms: float
    jitter_ms: float = 0.0
    """Standard deviation of the round trip."""
    up_loss_pct: float | None = None
    """Of the probe's datagrams; None where there were none, as through a relay."""
    down_loss_pct: float | None = None
    up_udp_bps: float | None = None
    """IP packets, where packets are lost on purpose; None elsewhere."""
    down_udp_bps: float | None = None


class Preparation(msgspec.Struct, frozen=True):
    """One node's ONNX Runtime session. Zeros where the edge had it warm from an earlier run."""

    provider: str
    init_ms: float
    first_inference_ms: float


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
    frames_failed: int
    warmup_frames: int
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
    several frames in flight, which wait for each other."""
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

    @property
    def points_lost(self) -> float | None:
        """Net points of accuracy lost, on the larger of the two sets of pictures."""
        if self.evaluation is not None:
            return self.evaluation.loss.points
        return None if self.loss is None else self.loss.points

    @property
    def name(self) -> str:
        """The configuration in short."""
        return f"{self.cut} {self.codec}".strip()


def summarise(folder: Path) -> Summary:
    """The figures of a run folder, whatever state the run was left in.

    Raises RecordError where there is no run, or no measured frame to speak of.
    """
    manifest, files = read_manifest(folder), RunFolder(folder)
    rows = list(read_rows(files.frames("device"), FrameRecord))
    ok = [row for row in rows if row.status == "ok" and not row.warmup]
    if not ok:
        raise RecordError(
            f"the run in {folder} has no frame that was measured ({manifest.outcome})"
        )
    totals = [row.total_ns / 1e6 for row in ok]
    certificate = manifest.certificate or files.read_link()
    predicted = None
    if certificate is not None and not manifest.config.get("trace") and manifest.replay is None:
        predicted = predicted_link_ns(rows, certificate)
    cut = (manifest.cut or {}).get("name", str(manifest.config.get("cut", "")))
    complete = manifest.outcome == "complete" and len(ok) == manifest.frames_wanted
    outcome = manifest.outcome
    if outcome == "running":
        outcome = f"ended without a word after {len(rows)} rows (killed, or still going on)"
    head = manifest.head or {}
    return Summary(
        run_id=manifest.run_id,
        folder=str(folder),
        model=Path(str(manifest.config.get("model", ""))).stem,
        model_digest=manifest.model_digest,
        setting=_setting(manifest),
        cut=cut,
        is_anchor=cut in _ONE_NODE or bool(manifest.config.get("anchor")),
        codec=_codec_text(manifest),
        link=certificate.profile.name if certificate else "unknown",
        link_kind=certificate.kind if certificate else "uncertified",
        replay=manifest.replay,
        outcome=outcome,
        complete=complete,
        violations=violations(certificate, manifest, ok, predicted),
        certified=None if certificate is None else _certified(certificate),
        link_attempts=certificate.before_attempts if certificate else 0,
        frames_wanted=manifest.frames_wanted,
        frames_ok=len(ok),
        frames_failed=sum(row.status != "ok" and not row.warmup for row in rows),
        warmup_frames=sum(row.warmup for row in rows),
        total_ms={name: percentile(totals, at) for name, at in SHARES.items()},
        stages_ms={
            stage: {n: percentile([of(r) / 1e6 for r in ok], at).value for n, at in SHARES.items()}
            for stage, of in STAGES.items()
        },
        raw_bytes=ok[0].raw_bytes,
        payload_bytes=median(row.payload_bytes for row in ok),
        request_bytes=median(row.request_bytes for row in ok),
        reply_bytes=median(row.reply_bytes for row in ok),
        head_bytes=int(head.get("file_bytes", 0)),
        session_bytes=len(msgspec.json.encode(manifest.codecs)) if manifest.codecs else 0,
        head_fetch_ms=head.get("fetch_ns", 0) / 1e6,
        tail_bytes=int((manifest.edge or {}).get("tail_bytes", 0)),
        preparation=_preparation(manifest),
        rest_pct=median(100 * row.rest_ns / row.total_ns for row in ok),
        **arithmetic(ok, predicted, int(manifest.config.get("window", 1))),
        **_quality(ok, manifest),
        use=node_use(files),
        evaluation=read_evaluation(folder),
        slowdown=manifest.host.get("limits", {}).get("slowdown"),
        link_users=certificate.users if certificate else 1,
    )


def _preparation(manifest: RunManifest) -> dict[str, Preparation]:
    nodes = {"device": manifest.head or {}, "edge": manifest.edge or {}}
    return {
        node: Preparation(
            facts["provider"],
            facts.get("init_ns", 0) / 1e6,
            facts.get("first_inference_ns", 0) / 1e6,
        )
        for node, facts in nodes.items()
        if facts.get("provider")
    }


def _setting(manifest: RunManifest) -> Setting:
    # The provider as asked for: all on the device, nothing runs on any.
    asked = manifest.config
    found = {name: asked.get(name) for name in Setting.__struct_fields__}
    return Setting(**found | {"cpus": asked.get("cpus") or None})


def _certified(certificate: LinkCertificate) -> CertifiedLink:
    return CertifiedLink(
        certificate.up_goodput_bps / 1e6,
        certificate.down_goodput_bps / 1e6,
        certificate.rtt_ns / 1e6,
        certificate.rtt_sd_ns / 1e6,
        certificate.loss_pct("up"),
        certificate.loss_pct("down"),
        certificate.udp_bps("up"),
        certificate.udp_bps("down"),
    )


def _codec_text(manifest: RunManifest) -> str:
    """As the person wrote it; as it was agreed where nobody did, or where tensors differ."""
    codecs = [msgspec.convert(item, TensorCodec) for item in manifest.codecs]
    agreed = list(dict.fromkeys(codec.written(item) for item in codecs))
    asked = manifest.codec or str(manifest.config.get("codec", ""))
    return asked if asked and len(agreed) < 2 else ", ".join(agreed)


def _quality(rows: Sequence[FrameRecord], manifest: RunManifest) -> dict[str, Any]:
    reference = manifest.reference or {}
    answers: dict[str, Any] = reference.get("answers", {})
    labels: dict[str, int] = reference.get("labels", {})
    # A picture that was measured several times counts once: its answer is always the same.
    by_picture = {row.source: row.result for row in rows if row.result is not None}
    found: dict[str, Any] = dict.fromkeys(
        (
            *("accuracy", "anchor_accuracy", "loss", "agreement"),
            *("max_difference", "rms_difference_pct"),
        )
    )
    classified = {p: r["label"] for p, r in by_picture.items() if "label" in r}
    compared = {p: answers[p]["label"] for p in classified if "label" in answers.get(p, {})}
    alike = [is_alike(r, answers[p]) for p, r in by_picture.items() if p in answers]
    told = [same for same in alike if same is not None]
    if told:
        found["agreement"] = share(sum(told), len(told))
    labelled = [p for p in classified if p in labels]
    if labelled:
        right = [classified[p] == labels[p] for p in labelled]
        found["accuracy"] = share(sum(right), len(right))
        if all(p in compared for p in labelled):
            anchor = [compared[p] == labels[p] for p in labelled]
            found["anchor_accuracy"] = share(sum(anchor), len(anchor))
            found["loss"] = paired_loss(anchor, right)
    compared_outputs = [r["agreement"] for r in by_picture.values() if "agreement" in r]
    for name, key in (("max_difference", "max_abs"), ("rms_difference_pct", "nmse")):
        values = [item[key] for item in compared_outputs]
        if values:
            found[name] = math.inf if None in values else max(values)
    if found["rms_difference_pct"] is not None:
        found["rms_difference_pct"] = 100 * math.sqrt(found["rms_difference_pct"])
    return found
