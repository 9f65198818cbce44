"""`splitbed run`: one configuration, measured from end to end."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from experiments.codec_planning import check_written
from experiments.embedded import model_file, rendered_pictures
from experiments.measurement import measure
from experiments.pictures import read_pictures
from experiments.planning import plan_run
from experiments.preparation import prepare_model
from experiments.remote_link import RemoteLink
from experiments.run_options import RunOptions, check_batches, check_whose_link
from experiments.summary import summarise
from experiments.table import print_run
from experiments.testbed import Testbed, TestbedOptions
from netem.backend import choose
from netem.profiles import describe, find_profile
from netem.traces import find_trace
from splitbed import config, process
from splitbed.errors import (
    LinkError,
    LinkUncertified,
    RecordError,
    RunIncomplete,
    SplitbedError,
)
from splitbed.link import LinkProfile
from splitbed.load import plan_load
from splitbed.progress import Progress
from splitbed.record import RunManifest
from splitbed.run_folder import cannot_write


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(RunOptions, argv, command="splitbed run", table="run")
    # Names are not to be read as markup, and a folder's must not be broken by anything.
    quiet = Console(stderr=True, quiet=options.json, highlight=False, markup=False, soft_wrap=True)
    profile = find_profile(options.link)
    check_whose_link(options)
    check_batches(options)
    check_written(options.codec)
    plan_load(options, options.frames or 1)
    if not options.edge:
        return _run(options, profile, None, quiet)
    with contextlib.closing(RemoteLink(profile, options.edge, quiet.print)) as remote:
        if options.together:
            return _together(remote, lambda: _run(options, profile, remote, quiet))
        return _run(options, profile, remote, quiet)


def _run(
    options: RunOptions, profile: LinkProfile, remote: RemoteLink | None, quiet: Console
) -> int:
    trace = find_trace(options.trace, profile) if options.trace else None
    choice = choose(options.backend, profile, trace) if remote is None else None
    with tempfile.TemporaryDirectory(prefix="splitbed-") as name:
        scratch, path = Path(name), model_file(options.model)
        model = prepare_model(path)
        images = options.images or rendered_pictures(
            path, scratch, options.frames, options.calibrated_from
        )
        pictures = read_pictures(images, options.labels)
        plan = plan_run(model, options, pictures, scratch, quiet)
        run_id = plan.new_run_id()
        folder = options.out / run_id
        quiet.print(f"link {profile.name}: {describe(profile)}")
        quiet.print(f"run folder {folder}")
        if choice is not None:
            quiet.print(f"backend {choice.kind}: {choice.why}")
        testbed_options = TestbedOptions(
            profile=profile,
            kind="direct" if choice is None else choice.kind,
            models=path,
            out=options.out,
            remote=remote,
            provider=options.provider,
            edge_threads=options.edge_threads,
            certify_s=options.certify_s,
            sample_s=options.sample_s,
            seed=options.seed,
            message_mib=options.message_mib,
            trace=trace,
            edge_turns=options.edge_turns,
        )
        with stop_on_signals() as stop:
            if remote is not None:
                quiet.print(remote.describe())
                remote.stop = stop
            try:
                with Testbed(testbed_options, folder) as testbed:
                    progress = Progress("frames", plan.warmup + plan.frames)
                    manifest = measure(testbed, plan, run_id, stop, progress.update)
                    progress.close()
            except OSError as error:
                raise cannot_write(error, folder) from error
            except LinkError as error:
                return _interrupted(stop, error)
    try:
        return show(folder, manifest, options.json, options.accept_uncertified)
    except RunIncomplete as error:
        return _interrupted(stop, error)


def _interrupted(stop: threading.Event, error: SplitbedError) -> int:
    """What a person ended is told as that; anything else is raised again."""
    if not stop.is_set():
        raise error
    sys.stderr.write(f"splitbed: interrupted: {error}\n")
    return process.INTERRUPTED


def _together(remote: RemoteLink, run: Callable[[], int]) -> int:
    """Run, and stay until every user of the link has ended; their failure is ours too.

    `docker compose up --exit-code-from device` stops all devices when the first one ends, and
    returns the exit code of any of them.
    """
    try:
        code = run()
    except SplitbedError as error:
        sys.stderr.write(f"splitbed: {error}\n")
        code = error.exit_code
    if code == process.INTERRUPTED:
        return code
    with stop_on_signals() as stop:
        remote.stop = stop
        try:
            worst = remote.end_with_others(code)
        except LinkError as error:
            sys.stderr.write(f"splitbed: not waiting for other devices on the link: {error}\n")
            return code
    if worst and not code:
        raise RunIncomplete(
            f"this device's run is complete, and that of another on its link is not: it ended with "
            f"exit code {worst}"
        )
    return code


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
            f"{summary.outcome} ({summary.frames_answered} of {summary.frames_wanted} frames are "
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
