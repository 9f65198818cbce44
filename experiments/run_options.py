"""What a person can ask of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from experiments.codec_planning import calibration_pictures
from netem.backend import Backend
from netem.profiles import WRITTEN_FORM
from netem.traces import WRITTEN_TRACE
from splitbed import config
from splitbed.errors import UsageError
from splitbed.flags import (
    Batch,
    BatchWaitMs,
    CpuQuota,
    Cpus,
    HeadThreads,
    MessageMib,
    ReplyChoice,
    ReplySeconds,
    RestSeconds,
    SampleSeconds,
    TailProvider,
    Tails,
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


class RunOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cut a model, run it across two processes over a shaped and certified link, show the numbers.

    Starts an edge, a link (two hosts joined by the kernel, or a relay) and a device as processes,
    or with --edge the device alone, and leaves a run folder with every raw sample.
    """

    model: Annotated[
        Path, config.POSITIONAL, Meta(description="an ONNX file, or gesture: the embedded model")
    ]
    cut: Annotated[
        str,
        Meta(
            description="a cut of `splitbed model cuts`; @picture or @input: all on the edge; "
            "@result or @output: all on the device"
        ),
    ]
    images: Annotated[
        Path | None,
        Meta(
            description="folder of pictures, with labels.tsv if there is one (default, for the "
            "embedded model: rendered here)"
        ),
    ] = None
    codec: Annotated[
        str,
        Meta(
            description="as in raw, cast+zstd:3, uniform:0.6+ans, jpeg:90; learned:FOLDER+... "
            "with the learned codec in that folder beside the model; auto:1pp: the smallest "
            "that loses at most a point, found on the pictures to calibrate from; @FILE: of "
            "`splitbed calibrate --codec`"
        ),
    ] = "raw"
    link: Annotated[str, Meta(description=f"a profile's name, or {WRITTEN_FORM}")] = "none"
    trace: Annotated[
        str, Meta(description=f"what the link does while frames go over it: {WRITTEN_TRACE}")
    ] = ""
    backend: Annotated[
        Backend,
        Meta(description="auto: the kernel's netem where this process may use it, else the relay"),
    ] = "auto"
    frames: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="frames to measure, at least with --min-s or --until (default: every "
            "picture once)"
        ),
    ] = None
    warmup: Warmup = 5
    labels: Annotated[Path | None, Meta(description="another label file")] = None
    calibration: Annotated[Path | None, Meta(description="file of `splitbed calibrate`")] = None
    calibration_images: Annotated[
        Path | None, Meta(description="folder to calibrate from (default: some of --images)")
    ] = None
    calibration_count: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="pictures to calibrate from (default: 16, and 48 for auto)"),
    ] = None
    auto_cache: Annotated[
        bool, Meta(description="take what auto found before on the same pictures")
    ] = True
    reply: ReplyChoice = "auto"
    window: Window = 1
    load: LoadText = ""
    deadline_ms: DeadlineMs = None
    late: LateChoice = None
    min_s: MinSeconds = None
    until: UntilText = ""
    max_frames: MaxFrames = None
    max_s: MaxSeconds = None
    provider: TailProvider = "auto"
    threads: HeadThreads = 1
    cpus: Cpus = ""
    cpu_quota: CpuQuota = None
    edge_threads: Annotated[
        int, Meta(description="threads of the tail, 0: ONNX Runtime's", ge=0)
    ] = 0
    tails: Tails | None = None
    batch: Batch | None = None
    batch_wait_ms: BatchWaitMs | None = None
    edge: Annotated[
        str, Meta(description="link to an edge that runs already: its probe's or relay's host:port")
    ] = ""
    together: Annotated[
        bool, Meta(description="with --edge: end when every other device on the link has ended")
    ] = False
    out: Annotated[Path, Meta(description="folder of run folders")] = Path("runs")
    certify_s: Annotated[
        float, Meta(description="seconds for each link measurement", gt=0, le=600)
    ] = 3.0
    timeout_s: ReplySeconds = 30.0
    sample_s: SampleSeconds = 0.5
    idle_s: RestSeconds = 0.0
    anchor: Annotated[
        bool, Meta(description="count this cut among the anchors: first layers only, for privacy")
    ] = False
    message_mib: MessageMib = 128
    tls_ca: Annotated[Path | None, Meta(description="CA of a remote edge in PEM")] = None
    token_file: Annotated[Path | None, Meta(description="file with a remote edge's token")] = None
    seed: Annotated[
        int, Meta(description="of the calibration's choice, the link's chance, arrivals at random")
    ] = 0
    accept_uncertified: Annotated[
        bool, Meta(description="exit with 0 although the link was outside its tolerance")
    ] = False
    json: Annotated[bool, Meta(description="print the figures as JSON")] = False

    @property
    def calibrated_from(self) -> int:
        """Pictures that are kept aside for the codec."""
        return calibration_pictures(self.codec, self.calibration_count)

    @property
    def edge_turns(self) -> dict[str, float]:
        """What an edge that is started here is told of its tails' turns, by its flags' names."""
        told = {"tails": self.tails, "batch": self.batch, "batch-wait-ms": self.batch_wait_ms}
        return {name: value for name, value in told.items() if value is not None}


def check_whose_link(options: RunOptions) -> None:
    """Refuse what is for a link that is made here on that of --edge, and the other way round."""
    if options.edge and options.trace:
        raise UsageError(
            "--trace is for a link that is made here: give the trace to the link before that edge "
            "(`splitbed link serve --trace`), and the run begins it"
        )
    if options.edge and options.backend != "auto":
        raise UsageError(
            f"--backend {options.backend} is for a link that is made here: say it to the link "
            "before that edge (`splitbed link serve --backend`)"
        )
    if options.edge and options.edge_threads:
        raise UsageError(
            f"--edge-threads {options.edge_threads} is for an edge that is started here: say it to "
            "that edge (`python -m edge_node --threads`)"
        )
    for name, value in options.edge_turns.items():
        if options.edge:
            raise UsageError(
                f"--{name} {value:g} is for an edge that is started here: say it to that edge "
                f"(`python -m edge_node --{name}`)"
            )
    if options.together and not options.edge:
        raise UsageError("--together waits for others on the link of --edge: give that, too")


def check_batches(options: RunOptions) -> None:
    """Refuse a wait for batches that are never made."""
    if options.batch_wait_ms is not None and (options.batch or 1) == 1:
        raise UsageError(
            f"--batch-wait-ms {options.batch_wait_ms:g} is how long a batch waits to be full, and "
            "tails run one by one: say how many frames may share a run with --batch, too"
        )
