"""`splitbed codec bench`: what codecs do at cuts of a model, against each other and the picture."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from experiments.bench_report import (
    ANCHOR_CODECS,
    BenchReport,
    CutReport,
    compared,
    pooled,
    smallest,
    smallest_same,
)
from experiments.bench_table import page, write_csv
from experiments.choice_cache import ChoiceCache, cache_folder
from experiments.codec_bench import WARMUP, Bench, LeftOut, Measured, check_codec
from experiments.cut_off import is_cut_off
from experiments.cut_rule import RuleCut, branched_cuts_by_rule, cuts_by_rule
from experiments.embedded import model_file, rendered_pictures
from experiments.learned import find_pair
from experiments.preparation import PreparedModel, prepare_model
from experiments.task_metric import LabelledPictures, read_labelled
from experiments.tile_formats import video_missing
from experiments.tiles import is_tiles
from splitbed import config
from splitbed.errors import UsageError
from splitbed.graph import Listing, find_cut, list_cuts
from splitbed.host import versions
from splitbed.process import INTERRUPTED
from splitbed.task import PICTURE_CUT, RESULT_CUT

LADDER: Final = (
    *("raw", "raw+zstd:3", "raw+shuffle+zstd:3", "cast", "cast+zstd:3"),
    *(f"quantize:{bits}+zstd:3" for bits in (8, 6, 5, 4, 3, 2)),
    *(f"uniform:{step}+ans" for step in (0.2, 0.3, 0.4, 0.6, 0.8, 1, 1.4)),
    *(f"uniform:{step},diffuse=0.8+ans" for step in (0.6, 1, 1.4)),
    *(f"shaped:{step}+ans" for step in (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1)),
    *("uniform:0.6+ans:channel", "uniform:0.6+zstd:3"),
    *("tiles:png", "tiles:jpeg:90", "tiles:jpeg:50", "tiles:webp:80", "tiles:webp:30"),
)
VIDEO_LADDER: Final = ("tiles:h264:20", "tiles:h264:32", "tiles:hevc:20", "tiles:hevc:32")
"""Where PyAV is installed."""


class BenchOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Code what crosses a model's cuts with one codec after the other, and say what each is worth.

    Bytes, times, errors and answers, against the uncut model and against sending the picture.
    """

    model: Annotated[
        Path, config.POSITIONAL, Meta(description="an ONNX file, or gesture: the embedded model")
    ]
    images: Annotated[
        Path | None,
        Meta(
            description="folder of pictures, with labels.tsv if there is one (default, for the "
            "embedded model: rendered here)"
        ),
    ] = None
    cut: Annotated[
        tuple[str, ...],
        Meta(
            description="a cut of `splitbed model cuts`, several times if need be (default: rule)"
        ),
    ] = ()
    codec: Annotated[
        tuple[str, ...],
        Meta(description="a codec, several times if need be (default: a ladder of them)"),
    ] = ()
    labels: Annotated[
        Path | None,
        Meta(
            description="another label file; for a detector a folder of YOLO text files or a COCO "
            "file (default: labels, in that of the pictures or beside it)"
        ),
    ] = None
    count: Annotated[
        Annotated[int, Meta(ge=2)] | None,
        Meta(description="so many of the pictures, evenly spaced (default: all)"),
    ] = None
    folds: Annotated[
        int, Meta(description="groups that are calibrated from each other", ge=2, le=1000)
    ] = 3
    seed: Annotated[int, Meta(description="of the folds")] = 0
    auto_cache: Annotated[
        bool, Meta(description="take what auto found before on the same pictures")
    ] = True
    threads: Annotated[int, Meta(description="of the network, 0: ONNX Runtime's", ge=0)] = 0
    plot: Annotated[Path | None, Meta(description="draw bytes against loss (.svg, .png, .pdf)")] = (
        None
    )
    json: Annotated[bool, Meta(description="print all figures as JSON")] = False
    csv: Annotated[bool, Meta(description="print all figures as CSV")] = False


_EPILOG: Final = """\
The rule for cuts: for 25, 50 and 75 % of the multiply-accumulates the cut of
one tensor with the fewest bytes within 5 points, and the one straight after a
ReLU. For a detector: for 50 and 75 % the cut of several tensors with the
fewest bytes within 5 points.

Codecs are those of `splitbed codec list`, and for comparison channels tiled
into a grey picture, with the quality of JPEG and WebP and the QP of H.264 and
HEVC, which need PyAV:
  tiles:jpeg:85  tiles:webp:80  tiles:png  tiles:h264:30  tiles:hevc:30
learned:NAME+... is measured from the boundary to what its decoder makes of
it, both networks' time included.
auto:1pp is the smallest codec that loses at most a point, chosen for each fold
on the pictures of the other folds.

A codec of layers with a share of its bytes is cut off there, as by a link:
  uniform:0.4+layers@50%

columns, with the 95 % interval below a figure:
  bytes       median a frame
  bit/el      bits for each element of the cut
  times       raw bytes over coded
  top-1       accuracy of a classifier; AP and AP 50 of a detector are COCO's
              average precision at IoU 50:95 and 50, in points of 100
  loss        points of accuracy or AP lost, paired by picture with the uncut
              model
  as uncut    answers that are the uncut model's; of a detector, boxes with a
              score of 0.3 in one of the two that the other one has (IoU 0.5)
  within      of a pose, key points (score 0.5) within 0.01 of the uncut
              model's, median and largest distance, pictures with all of them in
  PSNR, nMSE  of any other output, against the uncut model's; pictures at 40 dB
  JPEG        bytes of the picture, as the smallest JPEG or PNG that loses no
              more (without labels: agrees no less), over those of the row:
              below 1 coding the cut loses
  MB/s        raw megabytes encoded, decoded a second
  pays <      rate of the link in Mbit/s below which the codec pays for its
              own time, against sending the tensors raw
  nMSE        squared error over the variance of the elements
  order-0     bits an element if an ideal coder had one table for each tensor,
  channel     or for each channel, of what is decoded; where that is symbols
  session     bytes of the codec and its calibration, sent once a session
Each picture is coded once, with a calibration that saw only other folds.
Ctrl-C keeps what is measured."""


def main(argv: Sequence[str]) -> int:
    """Run it; an exit code."""
    options = config.from_command_line(
        BenchOptions, argv, command="splitbed codec bench", table="bench", epilog=_EPILOG
    )
    if options.json and options.csv:
        raise UsageError("give either --json or --csv, not both")
    if options.plot is not None:
        from experiments.drawing import check_picture

        check_picture(options.plot)
    for text in options.codec:
        check_codec(text)
    with tempfile.TemporaryDirectory(prefix="splitbed-") as scratch:
        report = _measured(options, Path(scratch))
    if options.plot is not None and any(cut.rows for cut in report.cuts):
        # Drawing is slow to load, and seldom asked for.
        from experiments.bench_plot import draw_bench

        draw_bench(report, options.plot)
    if options.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    elif options.csv:
        write_csv(report, sys.stdout)
    else:
        sys.stdout.write(page(report))
    return 0 if report.complete else INTERRUPTED


def _measured(options: BenchOptions, scratch: Path) -> BenchReport:
    model = prepare_model(model_file(options.model))
    listing = list_cuts(model.canonical)
    cuts = _cuts(options, model, listing)
    pictures = _pictures(options, model, scratch)
    codecs, notes = _codecs(options)
    for text in options.codec:
        if not is_tiles(text):
            find_pair(model, text)  # a pair that is not there is no reason to measure the others
    found: dict[str, list[Measured]] = {}
    left_out: list[LeftOut] = []
    wanted = len(ANCHOR_CODECS) + len(cuts) * len(codecs)
    choices = ChoiceCache(cache_folder() if options.auto_cache else None)
    bench = Bench(model, pictures, options.folds, options.seed, options.threads, wanted, choices)
    complete = True
    try:
        for name in (PICTURE_CUT, *cuts):
            found[name] = []
            for one in bench.measure(name, ANCHOR_CODECS if name == PICTURE_CUT else codecs):
                if isinstance(one, Measured):
                    found[name].append(one)
                else:
                    left_out.append(one)
    except KeyboardInterrupt:
        complete = False
        rows = sum(map(len, found.values())) + len(left_out)
        notes.append(f"interrupted: {rows} of {wanted} rows were measured")
    finally:
        bench.close()
    notes += [
        f"{one.row.codec} at {name} is, fold by fold: {', '.join(one.row.chosen)}"
        for name, measured in found.items()
        for one in measured
        if one.row.chosen
    ]
    anchors = [one.row for one in found.pop(PICTURE_CUT, [])]
    reports = []
    for name, measured in found.items():
        point = find_cut(model.canonical, model.points, name)
        assert point.cut is not None
        ordered = sorted((one.row for one in measured), key=lambda row: row.payload_bytes.value)
        head_macs = sum(listing.node_macs[node] for node in point.head)
        reports.append(
            CutReport(
                name=name,
                boundary=point.cut.boundary,
                macs_pct=100 * head_macs / max(1, listing.macs),
                taken_for=cuts[name],
                rows=tuple(compared(row, anchors) for row in ordered),
                smallest=smallest(row for row in ordered if _is_whole(row.codec)),
                smallest_tiles=smallest(row for row in ordered if is_tiles(row.codec)),
                smallest_same=smallest_same(row for row in ordered if _is_whole(row.codec)),
            )
        )
    sizes = {len(pictures.paths) - len(fold) for fold in bench.folds}
    return BenchReport(
        model=model.canonical.source.path.name,
        model_sha256=model.canonical.source.sha256,
        terms=bench.metric.terms,
        pictures=len(pictures.paths),
        labelled=bench.metric.labelled,
        folds=len(bench.folds),
        calibration_pictures=tuple(sorted(sizes)),
        warmup_frames=WARMUP,
        threads=options.threads,
        seed=options.seed,
        complete=complete,
        cuts=tuple(reports),
        anchors=tuple(anchors),
        smallest_anchor=smallest(anchors),
        pooled=pooled(found, bench.metric),
        left_out=tuple(left_out),
        notes=tuple(notes),
        versions=versions(),
    )


def _is_whole(text: str) -> bool:
    """Whether a session can have this codec, and sends what it makes."""
    return not is_tiles(text) and not is_cut_off(text)


def _cuts(
    options: BenchOptions, model: PreparedModel, listing: Listing
) -> Mapping[str, tuple[RuleCut, ...]]:
    """The cuts by name, with the reasons for which the rule took them."""
    if not options.cut:
        by_name: dict[str, tuple[RuleCut, ...]] = {}
        rule = branched_cuts_by_rule if model.task.output == "boxes" else cuts_by_rule
        for cut in rule(listing):
            by_name[cut.name] = (*by_name.get(cut.name, ()), cut)
        return by_name
    names = []
    for name in options.cut:
        if name in (PICTURE_CUT, RESULT_CUT):
            raise UsageError(
                f"--cut {name}: there are no features to code; the picture is measured at any rate"
            )
        names.append(find_cut(model.canonical, model.points, name, f"model '{model.name}'").name)
    return dict.fromkeys(names, ())


def _pictures(options: BenchOptions, model: PreparedModel, scratch: Path) -> LabelledPictures:
    folder = options.images
    if folder is None:
        folder = rendered_pictures(model.canonical.source.path, scratch, options.count, 0)
    pictures = read_labelled(model, folder, options.labels)
    if options.count is not None:
        pictures = msgspec.structs.replace(pictures, paths=pictures.spread(options.count))
    return pictures


def _codecs(options: BenchOptions) -> tuple[tuple[str, ...], list[str]]:
    """Those asked for, or the ladder, and what is missing of it."""
    if options.codec:
        return tuple(dict.fromkeys(options.codec)), []
    missing = video_missing()
    if missing is None:
        return LADDER + VIDEO_LADDER, []
    return LADDER, [f"without {', '.join(VIDEO_LADDER)}: {missing}"]
