"""`splitbed run`: one configuration, measured from end to end."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from rich.console import Console

from experiments.measurement import RunPlan, measure
from experiments.pictures import PictureSet, hold_out, read_pictures
from experiments.preparation import (
    PreparedModel,
    calibrate,
    prepare_cut,
    prepare_model,
    reference,
    verify_cut,
    write_reference,
)
from experiments.summary import summarise
from experiments.table import print_run
from experiments.testbed import Testbed, TestbedOptions
from netem.profiles import WRITTEN_FORM, describe, find_profile
from splitbed import codec, config
from splitbed.codec import Calibration
from splitbed.errors import LinkUncertified, RecordError, RunIncomplete
from splitbed.progress import Progress
from splitbed.record import RunManifest
from splitbed.session import ProviderChoice

_REFERENCE_BYTES = 1 << 30
"""Outputs of the uncut model are kept for comparison up to this size."""


class RunOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cut a model, run it across two processes over a shaped and certified link, show the numbers.

    Starts an edge, a relay and a device as three processes and leaves a run folder with every raw
    sample.
    """

    model: Annotated[Path, config.POSITIONAL, Meta(description="an ONNX file")]
    cut: Annotated[
        str,
        Meta(
            description="a cut of `splitbed model cuts`; @picture or @input: all on the edge; "
            "@result or @output: all on the device"
        ),
    ]
    images: Annotated[Path, Meta(description="folder of pictures, with labels.tsv if there is one")]
    codec: Annotated[
        str, Meta(description="as in raw, cast+zstd:3, quantize:4+zstd:3, jpeg:90")
    ] = "raw"
    link: Annotated[str, Meta(description=f"a profile's name, or {WRITTEN_FORM}")] = "none"
    frames: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="default: every picture once")
    ] = None
    warmup: Annotated[int, Meta(description="frames before that, marked in the rows", ge=0)] = 5
    labels: Annotated[Path | None, Meta(description="another label file")] = None
    calibration: Annotated[Path | None, Meta(description="file of `splitbed calibrate`")] = None
    calibration_images: Annotated[
        Path | None, Meta(description="folder to calibrate from (default: some of --images)")
    ] = None
    calibration_count: Annotated[int, Meta(description="pictures to calibrate from", ge=1)] = 16
    reply: Annotated[
        Literal["auto", "full", "result"],
        Meta(description="what comes back; auto: the result, or full tensors of a raw task"),
    ] = "auto"
    window: Annotated[int, Meta(description="frames in flight", ge=1, le=256)] = 1
    provider: Annotated[ProviderChoice, Meta(description="what the edge runs the tail on")] = "auto"
    threads: Annotated[int, Meta(description="threads of the head, 0: ONNX Runtime's", ge=0)] = 1
    edge_threads: Annotated[int, Meta(description="threads of the tail, 0: likewise", ge=0)] = 0
    edge: Annotated[str, Meta(description="relay before an edge that runs already, host:port")] = ""
    out: Annotated[Path, Meta(description="folder of run folders")] = Path("runs")
    certify_s: Annotated[float, Meta(description="seconds for each link measurement", gt=0)] = 3.0
    timeout_s: Annotated[float, Meta(description="longest wait for a reply", gt=0)] = 30.0
    sample_s: Annotated[float, Meta(description="seconds between resource samples", gt=0)] = 0.5
    seed: Annotated[int, Meta(description="for the calibration's choice and the jitter")] = 0
    accept_uncertified: Annotated[
        bool, Meta(description="exit with 0 although the link was outside its tolerance")
    ] = False
    json: Annotated[bool, Meta(description="print the figures as JSON")] = False


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(RunOptions, argv, command="splitbed run", table="run")
    quiet = Console(stderr=True, quiet=options.json)
    profile = find_profile(options.link)
    codec.parse(options.codec)
    pictures = read_pictures(options.images, options.labels)
    model = prepare_model(options.model)
    stop = stop_on_signals()
    with tempfile.TemporaryDirectory(prefix="splitbed-") as scratch:
        plan = plan_run(model, options, pictures, Path(scratch), quiet)
        run_id = plan.new_run_id()
        folder = options.out / run_id
        quiet.print(
            f"link {profile.name}: {describe(profile)}; run folder {folder}", highlight=False
        )
        testbed_options = TestbedOptions(
            profile=profile,
            models=options.model,
            out=options.out,
            edge=options.edge,
            provider=options.provider,
            edge_threads=options.edge_threads,
            certify_s=options.certify_s,
            sample_s=options.sample_s,
            seed=options.seed,
        )
        try:
            with Testbed(testbed_options, folder) as testbed:
                progress = Progress("frames", plan.warmup + plan.frames)
                manifest = measure(testbed, plan, run_id, stop, progress.update)
                progress.close()
        except OSError as error:
            raise RecordError(f"cannot use the run folder {folder}: {error.strerror}") from error
    return show(folder, manifest, options.json, options.accept_uncertified)


def show(folder: Path, manifest: RunManifest, as_json: bool, accept_uncertified: bool) -> int:
    """Print a run's figures; raises RunIncomplete or LinkUncertified where they are not whole."""
    try:
        summary = summarise(folder)
    except RecordError as error:
        raise RunIncomplete(f"{manifest.outcome}; nothing was measured") from error
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
        sys.stdout.flush()
    else:
        print_run(summary, Console())
    if not summary.complete:
        raise RunIncomplete(
            f"{summary.outcome} ({summary.frames_ok} of {summary.frames_wanted} frames are "
            f"measured and kept in {folder})"
        )
    if summary.violations and not accept_uncertified:
        raise LinkUncertified(
            f"the link was not what {summary.link} asks for ({'; '.join(summary.violations)}): "
            "repeat the run on a quieter machine, or use --accept-uncertified"
        )
    return 0


def plan_run(
    model: PreparedModel, options: RunOptions, pictures: PictureSet, scratch: Path, say: Console
) -> RunPlan:
    """Cut, verify, calibrate, and ask the uncut model, before anything is started."""
    prepared = prepare_cut(model, options.cut)
    notes: list[str] = []
    calibration: Path | None = options.calibration
    found: Calibration | None = None
    if calibration is not None:
        found = codec.read_calibration(calibration)
    elif codec.needs_calibration(options.codec):
        if options.calibration_images is not None:
            others = read_pictures(options.calibration_images, None)
            chosen = others.paths[: options.calibration_count]
        else:
            chosen = hold_out(pictures, options.calibration_count, options.seed)
            pictures = pictures.without(chosen)
            notes.append(f"{len(chosen)} of the pictures were kept for calibration")
            say.print(f"{notes[-1]}; {len(pictures.paths)} are measured", highlight=False)
        found = calibrate(model, prepared, chosen, options.threads)
        calibration = scratch / "calibration.json"
        calibration.write_bytes(msgspec.json.encode(found))
    codec.plan(options.codec, prepared.cut.boundary, found)
    frames = options.frames or len(pictures.paths)
    measured = pictures.spread(frames)
    verification = verify_cut(model, prepared, measured, options.threads)
    keep = model.task.output == "raw" or options.reply == "full"
    output_bytes = sum(spec.nbytes for spec in model.canonical.outputs) * len(measured)
    uncut = reference(model, measured, 0, keep and output_bytes <= _REFERENCE_BYTES)
    path: Path | None = None
    if uncut.outputs:
        path = scratch / "reference.npz"
        write_reference(path, uncut.outputs)
    settings: dict[str, Any] = msgspec.to_builtins(options, enc_hook=str)
    return RunPlan(
        model=model,
        cut=options.cut if options.cut.startswith("@") else prepared.cut.name,
        codec=options.codec,
        calibration=calibration,
        pictures=measured,
        labels=pictures.labels,
        frames=frames,
        warmup=options.warmup,
        window=options.window,
        reply=options.reply,
        provider=options.provider,
        threads=options.threads,
        timeout_s=options.timeout_s,
        seed=options.seed,
        settings=settings,
        answers=uncut.answers,
        reference=path,
        verification=verification,
        notes=tuple(notes),
    )


def stop_on_signals() -> threading.Event:
    """An event that the first Ctrl-C or SIGTERM sets; the second one interrupts at once."""
    event = threading.Event()

    def handle(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return event
