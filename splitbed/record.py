"""What is known of each frame, each node and each run: the rows and the manifest.

Raw samples are stored; statistics are made when they are read. `splitbed.run_folder` writes and
reads the files.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from splitbed.certificate import LinkCertificate
from splitbed.link import Replay
from splitbed.session import Node
from splitbed.tensor import canonical_json


class FrameRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One frame as the device saw it: the canonical row.

    Durations in nanoseconds by the device's monotonic clock, `edge_*` by the edge's. A field that
    does not apply is left out of the row and reads as its default.
    """

    run_id: str
    session_id: int
    frame_id: int
    warmup: bool
    status: str
    """`ok`, `late`, `dropped` or `failed:KIND` (see splitbed.errors)."""
    source: str = ""
    """The picture, by file name."""
    intended_ns: int = 0
    """Due time, from the start of the run; equals the start of work in closed loop. The load of a
    manifest says when it began (`start_ns`), warm-up over."""
    wait_ns: int = 0
    """Due until work on it began."""
    preprocess_ns: int = 0
    head_ns: int = 0
    encode_ns: int = 0
    window_ns: int = 0
    """Waiting for a free slot among the frames in flight."""
    queue_ns: int = 0
    """Waiting between the device's own stages, where they work on several frames at once."""
    rtt_ns: int = 0
    """Handed to the transport until its reply was complete."""
    edge_ns: int = 0
    """At the edge: request complete until reply handed over. The next four are parts of it."""
    edge_queue_ns: int = 0
    edge_decode_ns: int = 0
    edge_tail_ns: int = 0
    edge_encode_ns: int = 0
    edge_batch: int = 0
    finish_ns: int = 0
    """Decode the reply, run what is left, post-process."""
    total_ns: int = 0
    """Due until the result was there."""
    submitted_ns: int = 0
    """This node's clock at the start of `rtt_ns`; with the next, for the clocks with hindsight."""
    edge_received_ns: int = 0
    """The edge's clock at the start of `edge_ns`. The two clocks have nothing in common."""
    uplink_ns: int | None = None
    """Submit until the edge had the request; only where the clocks' bound allows, by the exchanges
    until then."""
    uplink_error_ns: int | None = None
    downlink_ns: int | None = None
    """The edge handed the reply over until it was complete; only where the clocks' bound allows."""
    downlink_error_ns: int | None = None
    raw_bytes: int = 0
    """The boundary uncoded."""
    payload_bytes: int = 0
    """The boundary coded."""
    request_bytes: int = 0
    """The message sent, without gRPC's and HTTP/2's own framing."""
    reply_bytes: int = 0
    result: dict[str, Any] | None = None
    """The task's answer, and its agreement with the uncut model where a reference was given."""
    error: str = ""
    """The sentence that goes with `failed:KIND`."""

    @property
    def is_answered(self) -> bool:
        """In time or too late: a result came."""
        return self.status in ("ok", "late")

    @property
    def stages_ns(self) -> int:
        """Sum of the parts of `total_ns`."""
        return (
            self.wait_ns
            + self.preprocess_ns
            + self.head_ns
            + self.encode_ns
            + self.window_ns
            + self.queue_ns
            + self.rtt_ns
            + self.finish_ns
        )

    @property
    def link_ns(self) -> int:
        """Time that the frame and its reply spent between the two nodes."""
        return self.rtt_ns - self.edge_ns

    @property
    def rest_ns(self) -> int:
        """Total less its parts: the bookkeeping's own cost."""
        return self.total_ns - self.stages_ns


class EdgeFrameRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One frame as the edge saw it: an audit row, joined on (run_id, session_id, frame_id)."""

    run_id: str
    session_id: int
    frame_id: int
    status: str
    received_ns: int
    """The edge's monotonic clock."""
    edge_ns: int
    queue_ns: int = 0
    decode_ns: int = 0
    tail_ns: int = 0
    encode_ns: int = 0
    batch: int = 1
    request_bytes: int = 0
    reply_bytes: int = 0
    error: str = ""


Phase = Literal["idle", "warmup", "frames"]
"""What a node did while a sample was taken: waited for the first frame, or worked on frames."""

How = Literal["measured", "modelled", "unavailable"]


class ResourceSample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one node's process used, since the sample before it.

    Where a value comes from stands once for the run, in NodeResources; what cannot be read is left
    out, and reads as None or as no reading.
    """

    run_id: str
    node: Node
    t_ns: int
    """This node's monotonic clock, from the start of its sampler."""
    interval_ns: int
    process_cpu_ns: int
    """CPU time of the process within the interval, user and system."""
    process_cpu_pct: float
    """The same as a share of one core."""
    system_cpu_pct: float | None
    """All cores of the machine, 100 = all busy; null where the machine does not tell, or where its
    clock did not move within the interval."""
    rss_bytes: int
    threads: int
    source: str
    """Where the values before this come from."""
    phase: Phase = "frames"
    system_cpu_ns: int | None = None
    """Time within the interval in which cores of the machine were not idle, all of them added; None
    where the machine does not tell."""
    rss_peak_bytes: int | None = None
    """High-water mark since the process began, not since the run did."""
    voluntary_switches: int | None = None
    """Context switches of all threads within the interval: a thread had to wait."""
    involuntary_switches: int | None = None
    """Likewise: a thread was made to wait."""
    readings: dict[str, float] = {}
    """By names that end with their unit. Names in `_j` and `_count` count up from any start."""


class ReadingSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the values of one name come from, or why there are none."""

    name: str
    """As in ResourceSample.readings, or a field of ResourceSample."""
    unit: str
    how: How
    source: str
    reason: str = ""
    """Why it is unavailable and what to do about it, or why it ended early."""
    scope: str = ""
    """Of energy and power: `machine`, `part`, or the name of a GPU."""
    resolution: float = 0.0
    """Smallest step, in the unit; 0 where it is not known."""
    window_s: float = 0.0
    """Over less time than this nothing is said: its gauge moves slowly."""


class NodeResources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What holds for all resource samples of one node in one run."""

    sources: tuple[ReadingSource, ...] = ()
    memory_bytes: dict[str, int] = {}
    """RSS at `before_engine`, `after_engine` and `after_first_frame`."""
    start_ns: int | None = None
    """This node's monotonic clock at the start of its sampler, by which its frames are stamped as
    well; None in older runs."""


class ModelDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model file as test material: MD5 for cross-checks (A6 of the spec), SHA-256 as identity."""

    name: str
    file_bytes: int
    md5: str
    sha256: str


class RunManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was run, with what, where; written when a run starts, completed when it ends."""

    run_id: str
    config_id: str
    config: dict[str, Any]
    seed: int
    started_utc: str
    outcome: str
    """`running`, `complete`, or what ended it early; `running` on disk after a kill."""
    frames_wanted: int
    versions: dict[str, str]
    host: dict[str, Any]
    models: tuple[ModelDigest, ...] = ()
    model_digest: str = ""
    cut: dict[str, Any] | None = None
    codecs: list[dict[str, Any]] = []
    codec: str = ""
    """As it was planned: what `auto` found, or what a file held; `config` says what was asked."""
    certificate: LinkCertificate | None = None
    link_violations: tuple[str, ...] = ()
    link_settings: dict[str, str] = {}
    """What else was set on the link: TCP settings, offloads, queue lengths."""
    replay: Replay | None = None
    """What became of the link's trace. The certificate is of its profile, without the trace."""
    verification: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None
    """What the uncut model answers on the same pictures."""
    head: dict[str, Any] | None = None
    """Fetching and preparing the head, timed apart from frames."""
    edge: dict[str, Any] | None = None
    """What the edge answered when the session was opened."""
    load: dict[str, Any] | None = None
    """When frames were due, their deadline, the rule for stopping and why the run stopped."""
    clock: dict[str, Any] | None = None
    """The edge's clock against the device's (`ClockFacts`)."""
    ended_utc: str = ""
    notes: tuple[str, ...] = ()


def config_id(settings: object) -> str:
    """Short hash of a configuration's canonical JSON: equal settings, equal id."""
    return hashlib.sha256(canonical_json(settings)).hexdigest()[:12]
