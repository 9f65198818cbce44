"""`splitbed calibrate`: statistics of one cut, for codecs that need them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from experiments.learned import coded_cut
from experiments.pictures import read_pictures
from experiments.preparation import calibrate, prepare_cut, prepare_model
from splitbed import codec, config
from splitbed.errors import RecordError


class CalibrateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Run a head on a few real pictures and keep the statistics of what crosses the cut.

    Use pictures that are not in the set you measure; `splitbed run` leaves out those that are. The
    file goes to `splitbed run` or to a device with --calibration.
    """

    model: Annotated[Path, config.POSITIONAL, Meta(description="an ONNX file")]
    cut: Annotated[str, Meta(description="a cut of `splitbed model cuts`")]
    images: Annotated[Path, Meta(description="folder of pictures")]
    codec: Annotated[
        str,
        Meta(description="of the session; of learned:NAME+... the code is looked at that crosses"),
    ] = "raw"
    count: Annotated[int, Meta(description="how many of them, evenly spaced", ge=1)] = 16
    threads: Annotated[int, Meta(description="threads, 0: as ONNX Runtime chooses", ge=0)] = 0
    out: Annotated[Path, Meta(description="the file to write")] = Path("calibration.json")


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(
        CalibrateOptions, argv, command="splitbed calibrate", table="calibrate"
    )
    codec.parse(options.codec)
    model = prepare_model(options.model)
    cut = coded_cut(model, prepare_cut(model, options.cut), options.codec)
    pictures = read_pictures(options.images, None)
    chosen = pictures.spread(options.count)
    found = calibrate(model, cut, chosen, options.threads)
    content = msgspec.json.encode(found)
    try:
        options.out.write_bytes(content)
    except OSError as error:
        raise RecordError(f"cannot write {options.out}: {error.strerror}") from error
    for name, statistics in found.tensors.items():
        sys.stdout.write(
            f"{name}: {statistics.low:.4g} to {statistics.high:.4g}, 99.9 % below "
            f"{statistics.quantile(0.999):.4g}, {100 * statistics.zeros / statistics.elements:.1f} "
            "% zero\n"
        )
    sys.stdout.write(f"{options.out}: {len(content)} bytes, from {len(chosen)} pictures\n")
    return 0
