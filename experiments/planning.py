"""What was asked of a run, and the plan that is made of it before anything is started."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from rich.console import Console

from experiments.codec_planning import CodecPlan, calibration_pictures, plan_codec
from experiments.learned import verify_pair
from experiments.measurement import RunPlan
from experiments.pictures import PictureSet, digests, hold_out, read_pictures
from experiments.preparation import (
    PreparedModel,
    prepare_cut,
    reference,
    verify_cut,
    write_reference,
)
from experiments.quantising import verify_quantising
from netem.backend import Backend
from netem.profiles import WRITTEN_FORM, find_profile
from netem.traces import WRITTEN_TRACE, find_trace
from splitbed import config
from splitbed.errors import UsageError
from splitbed.graph import list_cuts
from splitbed.limits import usable_cpus
from splitbed.load import (
    DeadlineMs,
    LateChoice,
    LoadText,
    MaxFrames,
    MaxSeconds,
    MinSeconds,
    UntilText,
    plan_load,
)
from splitbed.session import ProviderChoice

_LOAD = ("load", "deadline_ms", "late", "min_s", "until", "max_frames", "max_s")
_IDENTIFYING = (
    *("cut", "warmup", "window", "reply", "provider", "threads", "edge_threads"),
    *("edge", "backend", "seed"),
)
_LIMITING = ("cpus", "cpu_quota")
_REFERENCE_BYTES = 1 << 30
"""Outputs of the uncut model are kept for comparison up to this size."""


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
    warmup: Annotated[int, Meta(description="frames before that, marked in the rows", ge=0)] = 5
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
    reply: Annotated[
        Literal["auto", "full", "result"],
        Meta(description="what comes back; auto: the result, or full tensors of a raw task"),
    ] = "auto"
    window: Annotated[int, Meta(description="frames in flight", ge=1, le=256)] = 1
    load: LoadText = ""
    deadline_ms: DeadlineMs = None
    late: LateChoice = None
    min_s: MinSeconds = None
    until: UntilText = ""
    max_frames: MaxFrames = None
    max_s: MaxSeconds = None
    provider: Annotated[ProviderChoice, Meta(description="what the edge runs the tail on")] = "auto"
    threads: Annotated[int, Meta(description="threads of the head, 0: ONNX Runtime's", ge=0)] = 1
    cpus: Annotated[str, Meta(description="cores of the device, as in 0,2-3: a weaker device")] = ""
    cpu_quota: Annotated[
        Annotated[float, Meta(ge=0.01, le=1024)] | None,
        Meta(description="share of a core's time that the device may have, as in 0.5"),
    ] = None
    edge_threads: Annotated[int, Meta(description="threads of the tail, 0: likewise", ge=0)] = 0
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
    timeout_s: Annotated[float, Meta(description="longest wait for a reply", gt=0, le=86_400)] = (
        30.0
    )
    sample_s: Annotated[
        float, Meta(description="seconds between resource samples", ge=0.01, le=3600)
    ] = 0.5
    idle_s: Annotated[
        float,
        Meta(
            description="seconds of rest before the first frame, for energy over idle",
            ge=0,
            le=3600,
        ),
    ] = 0.0
    anchor: Annotated[
        bool, Meta(description="count this cut among the anchors: first layers only, for privacy")
    ] = False
    message_mib: Annotated[int, Meta(description="largest message", ge=1, le=2000)] = 128
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
    if options.together and not options.edge:
        raise UsageError("--together waits for others on the link of --edge: give that, too")


def plan_run(
    model: PreparedModel, options: RunOptions, pictures: PictureSet, scratch: Path, say: Console
) -> RunPlan:
    """Cut, verify, calibrate, and ask the uncut model, before anything is started."""
    if options.cpus:
        usable_cpus(options.cpus)
    plain = prepare_cut(model, options.cut)
    profile = find_profile(options.link)
    notes: list[str] = []
    coding = plan_codec(
        model,
        plain,
        options.codec,
        lambda: _for_calibration(model, options, pictures),
        calibration=options.calibration,
        threads=options.threads,
        seed=options.seed,
        cached=options.auto_cache,
    )
    prepared, planned = coding.cut, coding.planned
    if coding.choice is not None:
        notes.append(coding.choice.sentence)
        say.print(notes[-1], highlight=False, markup=False)
    if planned.digests:
        seen = [path for path, sha in digests(pictures.paths).items() if sha in planned.digests]
        measurable = pictures.without(seen)
        if seen:
            notes.append(f"{len(seen)} of the pictures served for calibration")
            say.print(f"{notes[-1]}; {len(measurable.paths)} are measured", highlight=False)
        pictures = measurable
        if not pictures.paths:
            raise UsageError(
                "every picture served for calibration and none is left to be measured: calibrate "
                "from others with --calibration-images"
            )
    listed = next(
        (c for c in list_cuts(model.canonical).cuts if c.point.name == prepared.cut.name), None
    )
    if listed is not None and listed.marks.breaks:
        notes.append(
            f"the cut separates {listed.marks.breaks}, which a runtime fuses; at "
            f"'{listed.marks.moved_to}' the same bytes cross"
        )
        say.print(notes[-1], highlight=False)
    check_labels(model, pictures)
    frames = options.frames or len(pictures.paths)
    measured = pictures.spread(frames)
    verification = verify_cut(model, plain, measured, options.threads)
    verify_pair(model, plain, prepared, measured, options.threads)
    verify_quantising(model, prepared, planned.codecs, measured, options.threads)
    keep = model.task.output != "argmax" or options.reply == "full"
    output_bytes = sum(spec.nbytes for spec in model.canonical.outputs) * len(measured)
    uncut = reference(model, measured, 0, keep and output_bytes <= _REFERENCE_BYTES)
    path: Path | None = None
    if uncut.outputs:
        path = scratch / "reference.npz"
        write_reference(path, uncut.outputs)
    settings: dict[str, Any] = msgspec.to_builtins(options, enc_hook=str)
    settings["command"] = config.command_line(options, "splitbed run")
    load = plan_load(options, frames)
    contents = hashlib.sha256("".join(digests(measured).values()).encode())
    return RunPlan(
        model=model,
        cut=options.cut if options.cut.startswith("@") else prepared.cut.name,
        planned=planned,
        pictures=measured,
        labels=pictures.labels,
        frames=frames,
        warmup=options.warmup,
        load=load,
        reply=options.reply,
        provider=options.provider,
        threads=options.threads,
        timeout_s=options.timeout_s,
        seed=options.seed,
        load_flags={
            name.replace("_", "-"): settings[name]
            for name in ("seed", *_LOAD)
            if settings[name] not in (None, "")
        },
        device={
            name: value
            for name, value in (
                ("cpus", options.cpus),
                ("cpu-quota", options.cpu_quota),
                ("idle-s", options.idle_s),
            )
            if value
        },
        connection={
            name: value
            for name, value in (
                ("tls-ca", options.tls_ca),
                ("token-file", options.token_file),
                ("message-mib", options.message_mib),
            )
            if value is not None
        },
        settings=settings,
        identity={
            "model": model.canonical.id.digest,
            "codec": planned.codec,
            "calibration": _fitted(coding),
            "link": msgspec.to_builtins(profile),
            "trace": find_trace(options.trace, profile).digest if options.trace else None,
            "pictures": contents.hexdigest(),
            "frames": frames,
            "load": load.facts(),
            # Left out where nothing is limited, so that older runs keep their identity.
            **{name: settings[name] for name in _LIMITING if settings[name]},
            **({} if planned.pair is None else {"pair": planned.pair.digest}),
            **{name: settings[name] for name in _IDENTIFYING},
        },
        answers=uncut.answers,
        reference=path,
        verification=verification,
        notes=tuple(notes),
    )


def _fitted(coding: CodecPlan) -> object:
    """What else than its text makes a codec what it is."""
    if coding.calibration is not None:
        return msgspec.to_builtins(coding.calibration.tensors)
    return msgspec.to_builtins(coding.planned.codecs) if coding.planned.digests else None


def _for_calibration(model: PreparedModel, options: RunOptions, pictures: PictureSet) -> PictureSet:
    if options.calibration_images is None:
        paths, labels = hold_out(pictures, options.calibrated_from, options.seed), pictures.labels
    else:
        given = read_pictures(options.calibration_images, None)
        paths, labels = given.spread(options.calibrated_from), given.labels
    found = PictureSet(paths, labels)
    check_labels(model, found)
    return found


def check_labels(model: PreparedModel, pictures: PictureSet) -> None:
    """A label that the model cannot answer is a mistake in the labels, not a wrong answer."""
    if model.task.output != "argmax":
        return
    outputs = model.canonical.outputs
    scores = next((o for o in outputs if o.name == model.task.scores), outputs[0])
    low, high = -model.task.label_offset, math.prod(scores.shape) - model.task.label_offset
    for path in pictures.paths:
        label = pictures.labels.get(path.name)
        if label is not None and not low <= label < high:
            raise UsageError(
                f"the label of {path.name} is class {label}, and {model.name} knows classes "
                f"{max(0, low)} to {high - 1}: is it the right label file for this model?"
            )
