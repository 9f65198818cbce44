"""`splitbed calibrate`: what a codec learns from pictures, before anything is measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from experiments.codec_planning import calibration_pictures, check_written, plan_codec
from experiments.embedded import model_file
from experiments.files import written
from experiments.pictures import PictureSet, read_pictures
from experiments.planning import check_labels
from experiments.preparation import calibrate, prepare_cut, prepare_model
from splitbed import config
from splitbed.codec import FILE_MARK, Calibration
from splitbed.errors import UsageError

_PLANNED: Final = Path("codec.json")
_CALIBRATION: Final = Path("calibration.json")


class CalibrateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Run a head on a few real pictures and keep what codecs learn from what crosses the cut.

    With --codec a small file is written that a device takes as it is; without, the statistics and
    frames from which `splitbed run --calibration` completes any codec; of learned:NAME+... those of
    its code, with both --codec and --out. Use pictures that are not in the set you measure;
    `splitbed run` leaves out those that are.
    """

    model: Annotated[
        Path, config.POSITIONAL, Meta(description="an ONNX file, or gesture: the embedded model")
    ]
    cut: Annotated[str, Meta(description="a cut of `splitbed model cuts`")]
    images: Annotated[
        Path, Meta(description="folder of pictures, with labels.tsv if there is one (for auto)")
    ]
    codec: Annotated[
        str,
        Meta(
            description="plan this codec, as in uniform:0.6+ans; auto:1pp: the smallest that loses "
            "at most a point"
        ),
    ] = ""
    planned: Annotated[
        Path | None, Meta(description=f"the planned codec's file (default: {_PLANNED})")
    ] = None
    out: Annotated[
        Path | None,
        Meta(description=f"the calibration's file (default: {_CALIBRATION}; with --codec: none)"),
    ] = None
    count: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="how many pictures, evenly spaced (default: 16, and 48 for auto)"),
    ] = None
    tail: Annotated[
        bool,
        Meta(
            description="without --codec: ask the tail what errors it minds, which shaped needs "
            "and which takes a run for each channel and frame"
        ),
    ] = True
    threads: Annotated[int, Meta(description="threads, 0: as ONNX Runtime chooses", ge=0)] = 0
    auto_cache: Annotated[
        bool, Meta(description="take what auto found before on the same pictures")
    ] = True


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(
        CalibrateOptions, argv, command="splitbed calibrate", table="calibrate"
    )
    _check(options)
    model = prepare_model(model_file(options.model))
    cut = prepare_cut(model, options.cut)
    given = read_pictures(options.images, None)
    count = calibration_pictures(options.codec, options.count)
    chosen = PictureSet(given.spread(count), given.labels)
    check_labels(model, chosen)
    found: Calibration | None = None
    if options.codec:
        coding = plan_codec(
            model,
            cut,
            options.codec,
            lambda: chosen,
            threads=options.threads,
            cached=options.auto_cache,
        )
        cut, found = coding.cut, coding.calibration
        if coding.choice is not None:
            sys.stdout.write(f"{coding.choice.sentence}\n")
        path = options.planned or _PLANNED
        size = written(path, msgspec.json.encode(coding.planned))
        fitted = f"from {len(coding.planned.digests)} pictures; " * bool(coding.planned.digests)
        sys.stdout.write(
            f"{path}: {coding.planned.codec} at {cut.cut.name}, {size} bytes, {fitted}"
            f"a device takes it with --codec {FILE_MARK}{path}\n"
        )
        if options.out is None:
            return 0
    # Which codec it will serve is not known: some look at how the tail answers, too.
    found = found or calibrate(model, cut, chosen.paths, options.threads, sensitivity=options.tail)
    for name, statistics in found.tensors.items():
        sys.stdout.write(
            f"{name}: {statistics.low:.4g} to {statistics.high:.4g}, 99.9 % below "
            f"{statistics.quantile(0.999):.4g}, {100 * statistics.zeros / statistics.elements:.1f} "
            "% zero\n"
        )
    out = options.out or _CALIBRATION
    size = written(out, msgspec.json.encode(found))
    sys.stdout.write(f"{out}: {size} bytes, from {len(chosen.paths)} pictures\n")
    return 0


def _check(options: CalibrateOptions) -> None:
    if not options.codec:
        if options.planned is not None:
            raise UsageError("--planned is the file of a planned codec: say which with --codec")
        return
    if options.codec.startswith(FILE_MARK):
        raise UsageError(f"--codec {options.codec} is planned already: write the codec itself")
    check_written(options.codec)
