"""What a person can say to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from splitbed.flags import (
    CpuQuota,
    Cpus,
    HeadThreads,
    MessageMib,
    ReplyChoice,
    ReplySeconds,
    RestSeconds,
    SampleSeconds,
    TailProvider,
    Warmup,
    Window,
)
from splitbed.load import (
    DeadlineMs,
    LateChoice,
    LoadText,
    MaxFrames,
    MaxSeconds,
    MinSeconds,
    UntilText,
)


def _cache_folder() -> Path:
    return Path.home() / ".cache" / "splitbed"


class DeviceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Run the head of a model on pictures and stream the intermediate data to an edge.

    The device needs no model file: it fetches its head from the edge. Each frame leaves a row in
    the folder --out.
    """

    edge: Annotated[str, Meta(description="the edge, or the relay before it, host:port")]
    model: Annotated[str, Meta(description="a model's name at the edge, without .onnx")]
    cut: Annotated[
        str,
        Meta(
            description="where to cut: a tensor's name, @picture or @input (all on the edge), "
            "@result or @output (all on the device)"
        ),
    ]
    images: Annotated[Path | None, Meta(description="folder of pictures")] = None
    pictures: Annotated[Path | None, Meta(description="text file, one picture a line")] = None
    codec: Annotated[
        str,
        Meta(
            description="how the cut is coded, as in cast+zstd:3 or learned:bottleneck+quantize:4, "
            "or @FILE: a file that `splitbed calibrate --codec` made for this cut"
        ),
    ] = "raw"
    frames: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="frames to measure, at least with --min-s or --until (default: every "
            "picture once)"
        ),
    ] = None
    warmup: Warmup = 5
    reply: ReplyChoice = "auto"
    window: Window = 1
    load: LoadText = ""
    deadline_ms: DeadlineMs = None
    late: LateChoice = None
    min_s: MinSeconds = None
    until: UntilText = ""
    max_frames: MaxFrames = None
    max_s: MaxSeconds = None
    seed: Annotated[int, Meta(description="of arrivals at random")] = 0
    provider: TailProvider = "auto"
    threads: HeadThreads = 1
    cpus: Cpus = ""
    cpu_quota: CpuQuota = None
    out: Annotated[Path, Meta(description="folder that gets a folder for this run")] = Path("runs")
    run_id: Annotated[str, Meta(description="name of that folder (default: made up)")] = ""
    cache: Annotated[Path, Meta(description="where fetched heads are kept")] = msgspec.field(
        default_factory=_cache_folder
    )
    model_digest: Annotated[str, Meta(description="refuse any other model of that name")] = ""
    pair_digest: Annotated[str, Meta(description="refuse any other learned codec of its name")] = ""
    reference: Annotated[
        Path | None, Meta(description="outputs of the uncut model (.npz), to compare with")
    ] = None
    timeout_s: ReplySeconds = 30.0
    connect_s: Annotated[float, Meta(description="longest wait for the edge", gt=0, le=86400)] = 5.0
    sample_s: SampleSeconds = 0.5
    clock_s: Annotated[
        float,
        Meta(description="seconds between clock exchanges while idle, 0: none", ge=0, le=3600),
    ] = 1.0
    link_delay_ms: Annotated[
        str,
        Meta(
            description="UP,DOWN: one-way delays that nothing on the link is faster than, for a "
            "tighter bound of the edge's clock (default: none known)"
        ),
    ] = ""
    idle_s: RestSeconds = 0.0
    message_mib: MessageMib = 128
    tls_ca: Annotated[Path | None, Meta(description="CA of the edge in PEM; turns TLS on")] = None
    token_file: Annotated[Path | None, Meta(description="file with the edge's token")] = None
    orchestrated: Annotated[
        bool, Meta(description="somebody else writes the manifest (for `splitbed run`)")
    ] = False
