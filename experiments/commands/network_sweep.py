"""Before and after the runs of `experiments/network_sweep.sh`: the plan, and the figures."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from experiments.embedded import model_file
from experiments.learned import coded_cut, needs_calibration
from experiments.network_sweep import Sweep, read_sweep
from experiments.pictures import read_pictures
from experiments.preparation import prepare_cut, prepare_model
from experiments.run_options import check_batches, check_whose_link
from netem.backend import choose
from netem.profiles import find_profile, needs_kernel
from netem.traces import find_trace
from splitbed import codec, process
from splitbed.errors import LinkError, RunIncomplete, UsageError
from splitbed.limits import HeldLimits, Limits
from splitbed.load import plan_load

_USAGE: Final = "python -m experiments.commands.network_sweep plan|figures SWEEP.toml FOLDER"


def main(argv: Sequence[str]) -> int:
    """`plan`: the options of each run still to be made, a line each; `figures`: what came of it."""
    if len(argv) != 3 or argv[0] not in ("plan", "figures"):
        raise UsageError(f"this is {_USAGE}; experiments/network_sweep.sh calls it")
    sweep = read_sweep(Path(argv[1]), Path(argv[2]))
    return _plan(sweep) if argv[0] == "plan" else _figures(sweep)


def _plan(sweep: Sweep) -> int:
    _check_link(sweep)
    _check_load(sweep)
    _check_points(sweep)
    _find_pictures(sweep)
    found, missing = sweep.measured()
    sys.stderr.write(
        f"{len(found) + len(missing)} configurations: {len(sweep.points)} points on "
        f"{len(sweep.links)} links; {len(found)} of them are measured in {sweep.options.out}\n"
    )
    for cut, coding, link in missing:
        options = ("--cut", cut, "--codec", coding, "--link", link, *sweep.arguments)
        sys.stdout.write(shlex.join(options) + "\n")
    return 0


def _check_link(sweep: Sweep) -> None:
    """Refuse once, for all runs, what this machine cannot make."""
    options = sweep.options
    check_whose_link(options)
    check_batches(options)
    if options.edge:  # behind a link that somebody else made
        return
    lossy = [link for link in sweep.links if needs_kernel(find_profile(link.text))]
    profile = find_profile((lossy or sweep.links)[0].text)
    trace = find_trace(options.trace, profile) if options.trace else None
    try:
        choice = choose(options.backend, profile, trace)
        if lossy and choice.kind != "kernel":
            raise LinkError(
                f"only the kernel can make '{profile.name}', and [run] asks for a relay"
            )
    except LinkError as error:
        if not lossy:
            raise
        leave_out = dict.fromkeys(link.loss or link.text for link in lossy)
        raise LinkError(
            f"{error}; or take {', '.join(leave_out)} out of the sweep ({len(lossy)} of its "
            f"{len(sweep.links)} links)"
        ) from error


def _check_load(sweep: Sweep) -> None:
    """Refuse once what no run could be loaded with, and limits that its device cannot have here."""
    options = sweep.options
    plan_load(options, options.frames or 1)
    with HeldLimits(Limits(options.cpus or "", options.cpu_quota)):
        pass


def _check_points(sweep: Sweep) -> None:
    """Refuse a cut that the model has not, and a codec that does not fit what crosses it."""
    model = prepare_model(model_file(sweep.options.model))
    for cut, coding in sweep.points:
        plain = prepare_cut(model, cut)
        # What is found or calibrated is so in its run; it fits wherever there is a float.
        if codec.find_target(coding) is not None or coding.startswith(codec.FILE_MARK):
            continue
        coded = coded_cut(model, plain, coding)
        if not needs_calibration(coding, coded):
            codec.plan(coding, coded.cut.boundary, None, coded.ranges)


def _find_pictures(sweep: Sweep) -> None:
    """Render those that nobody gave, and see that there are some."""
    options = sweep.options
    if sweep.rendered is not None:
        sweep.rendered.render(options.frames, sweep.calibrated_from)
    assert options.images is not None  # read_sweep saw to it
    read_pictures(options.images, options.labels)


def _figures(sweep: Sweep) -> int:
    found, missing = sweep.measured()
    if found:
        from experiments import sweep_figures  # matplotlib: nothing for a plan

        sweep_figures.show(sweep, found, missing)
    for one, why in missing.items():
        sys.stderr.write(f"not measured: {one.cut} {one.codec} over {one.link}: {why}\n")
    if missing:
        raise RunIncomplete(
            f"{len(missing)} of {len(found) + len(missing)} configurations are not measured; the "
            "same sweep with the same folder tries them again"
        )
    return 0


if __name__ == "__main__":
    sys.exit(process.guarded(lambda: main(sys.argv[1:]), "network_sweep"))
