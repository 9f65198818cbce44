"""`splitbed run`: one configuration, measured from end to end."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from experiments.measurement import measure
from experiments.pictures import read_pictures
from experiments.planning import RunOptions, plan_run
from experiments.preparation import prepare_model
from experiments.summary import summarise
from experiments.table import print_run
from experiments.testbed import Testbed, TestbedOptions
from netem.backend import choose
from netem.profiles import describe, find_profile
from netem.traces import find_trace
from splitbed import codec, config, process
from splitbed.errors import LinkUncertified, RecordError, RunIncomplete, UsageError
from splitbed.progress import Progress
from splitbed.record import RunManifest


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(RunOptions, argv, command="splitbed run", table="run")
    quiet = Console(stderr=True, quiet=options.json)
    profile = find_profile(options.link)
    if options.edge and options.trace:
        raise UsageError(
            "--trace is for a link that is made here: give the trace to the link before that edge "
            "(`splitbed link serve --trace`), and the run begins it"
        )
    trace = find_trace(options.trace, profile) if options.trace else None
    choice = choose(options.backend, profile, trace) if not options.edge else None
    codec.parse(options.codec)
    pictures = read_pictures(options.images, options.labels)
    model = prepare_model(options.model)
    with tempfile.TemporaryDirectory(prefix="splitbed-") as scratch:
        plan = plan_run(model, options, pictures, Path(scratch), quiet)
        run_id = plan.new_run_id()
        folder = options.out / run_id
        quiet.print(
            f"link {profile.name}: {describe(profile)}; run folder {folder}", highlight=False
        )
        if choice is not None:
            quiet.print(f"backend {choice.kind}: {choice.why}", highlight=False)
        testbed_options = TestbedOptions(
            profile=profile,
            kind="direct" if choice is None else choice.kind,
            models=options.model,
            out=options.out,
            edge=options.edge,
            provider=options.provider,
            edge_threads=options.edge_threads,
            certify_s=options.certify_s,
            sample_s=options.sample_s,
            seed=options.seed,
            message_mib=options.message_mib,
            trace=trace,
        )
        try:
            with stop_on_signals() as stop, Testbed(testbed_options, folder) as testbed:
                progress = Progress("frames", plan.warmup + plan.frames)
                manifest = measure(testbed, plan, run_id, stop, progress.update)
                progress.close()
        except OSError as error:
            raise RecordError(f"cannot use the run folder {folder}: {error.strerror}") from error
    try:
        return show(folder, manifest, options.json, options.accept_uncertified)
    except RunIncomplete as error:
        if stop.is_set():
            sys.stderr.write(f"splitbed: interrupted: {error}\n")
            return process.INTERRUPTED
        raise


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


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second one interrupts at once."""
    event = process.StopEvent()

    def handle(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
