"""`splitbed demo`: the three anchors and several cuts of the embedded model, and a report."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from rich.console import Console

from experiments import gestures
from experiments.commands.run import stop_on_signals
from experiments.evaluation import LabelledPicture, evaluate, write_evaluation
from experiments.measurement import RunPlan, measure
from experiments.pictures import read_pictures
from experiments.planning import plan_run
from experiments.preparation import PreparedModel, prepare_cut, prepare_model, reference
from experiments.report import gather, write_report
from experiments.run_options import RunOptions
from experiments.table import print_comparison
from experiments.testbed import Testbed, TestbedOptions
from netem.backend import choose
from netem.profiles import WRITTEN_FORM, describe, find_profile
from netem.relay import left_out
from splitbed import config
from splitbed.errors import RecordError, RunIncomplete
from splitbed.progress import Progress
from splitbed.run_folder import cannot_write
from splitbed.task import PICTURE_CUT, RESULT_CUT, models_folder

_FIRST_LAYERS: Final = "stem"
_LOSSLESS_LIKE: Final = "cast+zstd:3"
_SHORT: Final = "quantize:4+zstd:3"

CONFIGURATIONS: Final = (
    (RESULT_CUT, "raw"),
    (PICTURE_CUT, "jpeg:90"),
    (_FIRST_LAYERS, _SHORT),
    ("layer2", _LOSSLESS_LIKE),
    ("layer2", _SHORT),
    ("layer3", _LOSSLESS_LIKE),
    ("layer3", _SHORT),
    ("layer4", _LOSSLESS_LIKE),
    ("layer4", _SHORT),
)
"""The three anchors (all on the device, all on the edge, first layers only), then the splits."""

_CALIBRATION_PICTURES: Final = 32
_ATTEMPTS: Final = 3
"""Runs of one configuration, at most, while the link strays from its profile."""


def _cache_folder() -> Path:
    return Path.home() / ".cache" / "splitbed"


class DemoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Run the embedded gesture model in nine configurations over one link and write a report.

    The pictures are rendered here from a seed; nothing is fetched from anywhere.
    """

    link: Annotated[str, Meta(description=f"a profile's name, or {WRITTEN_FORM}")] = (
        "5g-urban-macro"
    )
    frames: Annotated[int, Meta(description="frames of each configuration", ge=1)] = 50
    pictures: Annotated[
        int, Meta(description="held-out pictures for accuracy, without the link", ge=10)
    ] = 400
    out: Annotated[Path, Meta(description="folder that gets the runs and report.html")] = Path(
        "runs/demo"
    )
    cache: Annotated[Path, Meta(description="where rendered pictures are kept")] = msgspec.field(
        default_factory=_cache_folder
    )
    certify_s: Annotated[
        float, Meta(description="seconds for each link measurement", gt=0, le=600)
    ] = 1.0
    seed: Annotated[int, Meta(description="for the link's jitter")] = 0
    accept_uncertified: Annotated[
        bool, Meta(description="report although the link was outside its tolerance")
    ] = False


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(DemoOptions, argv, command="splitbed demo", table="demo")
    console = Console(highlight=False)
    profile = find_profile(options.link)
    start = time.monotonic()
    console.print(f"link {profile.name}: {describe(profile)}")
    for name, what in left_out(profile).items():
        console.print(f"{name} {what}")
    held_out = _rendered(options, console)
    model = prepare_model(models_folder() / "gesture" / "gesture.onnx")
    # A folder for each time, so that an earlier demo's runs never mix with this one's.
    out = options.out / time.strftime("%Y%m%d-%H%M%S")
    folders: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="splitbed-") as scratch:
        plans = _plans(options, model, held_out, Path(scratch), console)
        settings = TestbedOptions(
            profile=profile,
            # What needs no privileges, so that the demo is the same everywhere.
            kind=choose("relay", profile).kind,
            models=model.canonical.source.path,
            out=out,
            remote=None,
            provider="cpu",
            edge_threads=0,
            certify_s=options.certify_s,
            sample_s=0.5,
            seed=options.seed,
        )
        try:
            with stop_on_signals() as stop, Testbed(settings, out / "logs") as testbed:
                for number, plan in enumerate(plans, 1):
                    name = f"[{number}/{len(plans)}] {plan.cut} {plan.planned.codec}"
                    folders.append(_measured(testbed, plan, name, stop, console))
        except OSError as error:
            raise cannot_write(error, out) from error
        _evaluate(model, plans, folders, held_out)
    found = gather(folders, options.accept_uncertified)
    print_comparison(found.shown, console)
    verdicts = write_report(found.shown, out / "report.html")
    console.print()
    for verdict in verdicts:
        console.print(f"[bold]{verdict.sentence}[/bold]")
        if verdict.outlook:
            console.print(verdict.outlook)
    console.print(f"report: {out / 'report.html'} ({time.monotonic() - start:.0f} s)")
    found.check()
    return 0


def _measured(
    testbed: Testbed, plan: RunPlan, name: str, stop: threading.Event, console: Console
) -> Path:
    """The folder of a complete run; one whose link strayed is repeated, and set aside."""
    out = testbed.options.out
    for attempt in range(1, _ATTEMPTS + 1):
        run_id = plan.new_run_id()
        progress = Progress(name, plan.warmup + plan.frames)
        manifest = measure(testbed, plan, run_id, stop, progress.update)
        progress.close()
        if stop.is_set():
            console.print(f"{name}: {manifest.outcome}; rows are kept in {out}", markup=False)
            raise KeyboardInterrupt
        if manifest.outcome != "complete":
            raise RunIncomplete(f"{name}: {manifest.outcome}; rows are kept in {out}")
        if not manifest.link_violations or attempt == _ATTEMPTS:
            break
        console.print(f"{name}: {manifest.link_violations[0]}; once more", markup=False)
        aside = out / "link-outside-tolerance"
        aside.mkdir(exist_ok=True)
        (out / run_id).rename(aside / run_id)
    console.print(f"{name}: {manifest.outcome}", markup=False)
    return out / run_id


def _rendered(options: DemoOptions, console: Console) -> Path:
    """Pictures of the held-out set, rendered once."""
    folder = (
        options.cache / f"gestures-v{gestures.GENERATOR_VERSION}" / f"held-out-{options.pictures}"
    )
    calibration = folder.with_name(f"calibration-{_CALIBRATION_PICTURES}")
    console.print(f"synthetic pictures of hand gestures in {folder}")
    try:
        gestures.write_folder(folder, gestures.HELD_OUT_SEED, options.pictures)
        gestures.write_folder(calibration, gestures.CALIBRATION_SEED, _CALIBRATION_PICTURES)
    except OSError as error:
        raise RecordError(
            f"cannot keep pictures in {folder}: {error.strerror}; give another --cache"
        ) from error
    return folder


def _plans(
    options: DemoOptions, model: PreparedModel, held_out: Path, scratch: Path, console: Console
) -> list[RunPlan]:
    pictures = read_pictures(held_out, None)
    plans = []
    for cut, coding in CONFIGURATIONS:
        run = RunOptions(
            model=model.canonical.source.path,
            cut=cut,
            images=held_out,
            codec=coding,
            link=options.link,
            backend="relay",
            frames=options.frames,
            calibration_images=held_out.with_name(f"calibration-{_CALIBRATION_PICTURES}"),
            calibration_count=_CALIBRATION_PICTURES,
            anchor=cut == _FIRST_LAYERS,
            provider="cpu",
            certify_s=options.certify_s,
            seed=options.seed,
        )
        plans.append(plan_run(model, run, pictures, scratch, console))
    return plans


def _evaluate(
    model: PreparedModel,
    plans: Sequence[RunPlan],
    folders: Sequence[Path],
    held_out: Path,
) -> None:
    """Accuracy of each configuration on all held-out pictures, beside its rows."""
    pictures = read_pictures(held_out, None)
    answers = reference(model, pictures.paths, 0, keep_outputs=False).answers
    labelled = [
        LabelledPicture(path, pictures.labels[path.name], answers[path.name])
        for path in pictures.paths
    ]
    for plan, folder in zip(plans, folders, strict=True):
        cut = prepare_cut(model, plan.cut)
        write_evaluation(folder, evaluate(model, cut, plan.planned, labelled))
