"""The source documents' figures beside the same ones computed from the zoo's graphs.

Published figures stand here as they were printed; everything else comes out of the graphs. MB means
2^20 bytes or 10^6 bytes as each table turns out to use it; every table says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from splitbed import zoo
from splitbed.graph import (
    CanonicalModel,
    CutPoint,
    Listing,
    built,
    canonicalise,
    find_cut,
    list_cuts,
    parameter_count,
)

MIB: Final = 1 << 20
FRAMES_PER_S: Final = 30


class Row(msgspec.Struct, frozen=True):
    """One line: `cells` in the order of the headings; `remark` where a published figure differs."""

    cells: tuple[str, ...]
    figures: int = 0
    """Published figures in this line."""
    met: int = 0
    """Those that the computed ones equal, rounded as the table rounds."""
    remark: str = ""


class PublishedTable(msgspec.Struct, frozen=True):
    """One table of a source document, computed."""

    id: str
    title: str
    rounding: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    """Cells of a published figure begin with `= ` where it is met and with `≠ ` where not."""


class _Network:
    """A network of the zoo without its weights, and its cuts."""

    def __init__(self, name: str) -> None:
        self.model: CanonicalModel = canonicalise(
            built(f"zoo:{name}", zoo.build(name, weights="hollow"))
        )
        self.listing: Listing = list_cuts(self.model)
        self.points = [cut.point for cut in self.listing.cuts]

    def cut(self, name: str) -> CutPoint:
        return find_cut(self.model, self.points, name)

    def nbytes(self, name: str) -> int:
        point = self.cut(name)
        return 0 if point.cut is None else point.cut.nbytes


def tables() -> dict[str, Callable[[], list[PublishedTable]]]:
    """What can be computed, by the requirement's id."""
    return {"C1": _c1, "D1": _d1, "B1": _b1, "B2": _b2, "B3": _b3, "B4": _b4}


# ---------------------------------------------------------------------- C1: uplink rates of splits

_ALEXNET: Final = (
    ("input, 8 bit", "@input", "0.15", "36"),
    ("pool1", "/pool1/MaxPool", "0.27", "65"),
    ("pool2", "/pool2/MaxPool", "0.17", "41"),
    ("pool5", "/pool5/MaxPool", "0.02", "4.8"),
)
_VGG: Final = (
    ("input", "@input", "0.6", "145"),
    ("pool1", "/features/features.4/MaxPool", "3", "720"),
    ("pool2", "/features/features.9/MaxPool", "1.5", "360"),
    ("pool3", "/features/features.16/MaxPool", "0.8", "192"),
    ("pool4", "/features/features.23/MaxPool", "0.5", "120"),
    ("pool5", "/features/features.30/MaxPool", "0.1", "24"),
)


def _c1() -> list[PublishedTable]:
    alexnet, vgg = _Network("alexnet"), _Network("vgg16")
    fc6 = alexnet.nbytes("/relu6/Relu")
    remarks = {
        ("alexnet", "pool5"): f"256x6x6 numbers of 32 bit are {alexnet.nbytes('/pool5/MaxPool'):,} "
        f"bytes; 0.02 MB is what the next layer, fc6, makes: {fc6:,} bytes",
        ("vgg16", "pool4"): f"512x14x14 numbers of 32 bit are {vgg.nbytes(_VGG[4][1]):,} bytes",
    }
    found = []
    for number, name, network, lines in (
        ("5.1.1-1", "alexnet", alexnet, _ALEXNET),
        ("5.1.1-2", "vgg16", vgg, _VGG),
    ):
        rows = []
        for label, cut, megabytes, rate in lines:
            nbytes = network.nbytes(cut)
            if "8 bit" in label:
                nbytes //= 4
            size = _like(nbytes / MIB, megabytes)
            # The tables multiply the rounded size; the input of VGG-16 alone is exact.
            exact = nbytes * 8 * FRAMES_PER_S / 1e6
            rounded = float(size) * 8 * FRAMES_PER_S
            if label == "input":
                rounded = exact
            met = (size == megabytes) + (_like(rounded, rate) == rate)
            rows.append(
                Row(
                    (
                        label,
                        f"{nbytes:,}",
                        size,
                        _against(size, megabytes),
                        _like(rounded, rate),
                        _against(_like(rounded, rate), rate),
                        f"{exact:.2f}",
                    ),
                    2,
                    met,
                    remarks.get((name, label), "") if met < 2 else "",
                )
            )
        found.append(
            PublishedTable(
                "C1",
                f"TR 22.874 table {number}, {name} at {FRAMES_PER_S} frames/s",
                "MB are 2^20 bytes, rounded to the printed digits; a rate is the rounded MB x 8 x "
                "30 (of the exact bytes for VGG-16's input); the last column is not rounded before",
                ("split point", "bytes", "MB", "printed", "Mbit/s", "printed", "exact"),
                tuple(rows),
            )
        )
    return found


# -------------------------------------------------------------------------- D1: model distribution

_D1: Final = (
    ("AlexNet", "alexnet", "60", "240", "1920", "60", "480"),
    ("VGG16", "vgg16", "138", "552", "4416", "138", "1104"),
    ("ResNet-152", "resnet152", "60", "240", "1920", "60", "480"),
    ("ResNet-50", "resnet50", "25", "100", "800", "25", "200"),
    ("GoogleNet", "googlenet_2014", "6.8", "27.2", "217.6", "6.8", "54.4"),
    ("Inception-V3", "inception_v3", "23", "92", "736", "23", "184"),
    ("1.0 MobileNet-224", "mobilenet_v1", "4.2", "16.8", "134.4", "4.2", "33.6"),
)


def _d1() -> list[PublishedTable]:
    rows = []
    for label, name, *printed in _D1:
        count = parameter_count(zoo.build(name, weights="hollow", batch_norm="kept"))
        digits = 1 if "." in printed[0] else 0
        # Cut off, not rounded: ResNet-50 has 25.56 million.
        millions = math.floor(count / 1e6 * 10**digits) / 10**digits
        computed = [
            f"{value:.{digits}f}"
            for value in (millions, 4 * millions, 32 * millions, millions, 8 * millions)
        ]
        met = sum(a == b for a, b in zip(computed, printed, strict=True))
        remark = ""
        if met < len(printed):
            other = parameter_count(zoo.build("googlenet", weights="hollow", batch_norm="kept"))
            remark = (
                f"the paper's layers have {count:,} parameters, torchvision's form {other:,}; the "
                "paper's own table adds up to 6.8 with K for 1024"
            )
        cells = [label, f"{count:,}"]
        for a, b in zip(computed, printed, strict=True):
            cells.append(a if a == b else f"{a} ≠ {b}")
        rows.append(Row(tuple(cells), len(printed), met, remark))
    return [
        PublishedTable(
            "D1",
            "TR 22.874 table 6.x.1-1, download within 1 s",
            "millions of parameters cut off (one decimal below 10); MB are 10^6 bytes, 4 or 1 a "
            "parameter; a cell with ≠ shows the computed and then the printed figure",
            ("network", "parameters", "M", "MB, 32 bit", "Mbit/s", "MB, 8 bit", "Mbit/s"),
            tuple(rows),
        )
    ]


# ------------------------------------------------------------------------------- B1: PoseNet 31:0


def _b1() -> list[PublishedTable]:
    network = _Network("posenet_mobilenet_v1_100")
    layers = max(cut.marks.layer or 0 for cut in network.listing.cuts)
    rows = []
    for cut in network.listing.cuts:
        done = cut.marks.layer
        if done is None or cut.cost is None or cut.point.cut is None:
            continue
        rows.append(
            Row(
                (
                    f"{done}:{layers - done}",
                    f"{cut.cost.head_parameters:,}",
                    f"{cut.cost.head_parameter_bytes:,}",
                    str(len(cut.point.tensors)),
                    f"{cut.point.cut.nbytes:,}",
                    cut.point.name.removesuffix("_output_0"),
                )
            )
        )
    count, nbytes = network.listing.parameters, network.model.file().nbytes
    whole = [
        Row(("layers", str(layers), _against(str(layers), "31")), 1, int(layers == 31)),
        Row(("splits", str(len(rows)), _against(str(len(rows)), "32")), 1, int(len(rows) == 32)),
        Row(
            ("size, MB", f"{nbytes / 1e6:.1f}", _against(f"{nbytes / 1e6:.1f}", "13.3")),
            1,
            int(f"{nbytes / 1e6:.1f}" == "13.3"),
        ),
        Row(
            ("parameters", f"{count:,}", _against(f"{count:,}", "1,180,147")),
            1,
            0,
            "the printed parameters would be 4.7 MB at 32 bit, which the printed size is not",
        ),
    ]
    return [
        PublishedTable(
            "B1",
            "S4-240785 table 10.2.4-1, PoseNet (MobileNetV1 1.0, 257x257)",
            "MB are 10^6 bytes",
            ("figure", "computed", "printed"),
            tuple(whole),
        ),
        PublishedTable(
            "B1",
            "S4-240785 clause 10.2.6, the 32 splits (layers in the head : in the tail)",
            "nothing is printed for these; bytes are exact, the boundary is float32",
            ("split", "head parameters", "bytes", "n", "boundary bytes", "after"),
            tuple(rows),
        ),
    ]


# --------------------------------------------------------------------- B2: RetinaNet at the pyramid

_PYRAMID: Final = (
    ("FPN 0", "/backbone/fpn/layer_blocks.0", "256x100x160"),
    ("FPN 1", "/backbone/fpn/layer_blocks.1", "256x50x80"),
    ("FPN 2", "/backbone/fpn/layer_blocks.2", "256x25x40"),
    ("FPN 6", "/backbone/fpn/extra_blocks/p6", "256x13x20"),
)


def _b2() -> list[PublishedTable]:
    network = _Network("retinanet_resnet50_fpn")
    convolutions = [
        node for node in network.model.proto.graph.node if node.op_type == "Conv" and node.name
    ]
    tensors = [
        next(node.output[0] for node in convolutions if node.name.startswith(prefix))
        for _, prefix, _ in _PYRAMID
    ]
    # The cut is asked for by its four tensors; a fifth that crossed would be an error.
    point = network.cut(",".join(tensors))
    specs = {spec.name: spec for spec in point.cut.boundary} if point.cut is not None else {}
    rows = []
    for (label, _, shape), tensor in zip(_PYRAMID, tensors, strict=True):
        spec = specs[tensor]
        found = "x".join(map(str, spec.shape[1:]))
        rows.append(
            Row((label, found, _against(found, shape), f"{spec.nbytes:,}"), 1, int(found == shape))
        )
    total = sum(spec.nbytes for spec in specs.values())
    size = f"{total / 1e6:.0f} MB"
    rows.append(
        Row(
            (f"{len(specs)} tensors", size, _against(size, "22 MB"), f"{total:,}"),
            1,
            size == "22 MB",
        )
    )
    return [
        PublishedTable(
            "B2",
            "S4-240785 table 10.3.3-1, RetinaNet at its feature pyramid, 800x1280",
            "one cut of four tensors and no dummy image; MB are 10^6 bytes",
            ("level", "computed", "printed", "bytes"),
            tuple(rows),
        )
    ]


# ------------------------------------------------------------------ B3: SSD300 at its named nodes

_NODE: Final = "/feature_extractor/feature_extractor/feature_extractor."
_SSD: Final = (
    ("anchor", "@input", "1.08"),
    ("1", "after:2/Relu", "5.76"),
    ("3", "before:4/feature_extractor.4.0/conv1/Conv", "1.44"),
    ("10", "after:4/feature_extractor.4.0/relu_2/Relu", "5.76"),
    ("17", "after:4/feature_extractor.4.1/relu_2/Relu", "5.76"),
    ("24", "after:4/feature_extractor.4.2/relu_2/Relu", "5.76"),
    ("25", "before:5/feature_extractor.5.0/conv1/Conv", "5.76"),
    ("39", "after:5/feature_extractor.5.1/relu_2/Relu", "2.96"),
    ("46", "after:5/feature_extractor.5.2/relu_2/Relu", "2.96"),
    ("54", "before:6/feature_extractor.6.0/conv1/Conv", "2.96"),
    ("62", "before:6/feature_extractor.6.1/conv1/Conv", "5.91"),
    ("68", "after:6/feature_extractor.6.1/relu_2/Relu", "5.91"),
    ("69", "before:6/feature_extractor.6.2/conv1/Conv", "5.91"),
    ("75", "after:6/feature_extractor.6.2/relu_2/Relu", "5.91"),
    ("76", "before:6/feature_extractor.6.3/conv1/Conv", "5.91"),
    ("82", "after:6/feature_extractor.6.3/relu_2/Relu", "5.91"),
)


def _b3() -> list[PublishedTable]:
    network = _Network("ssd300_resnet50")
    rows = []
    for split, place, printed in _SSD:
        side, colon, node = place.partition(":")
        point = network.cut(f"{side}:{_NODE}{node}" if colon else place)
        nbytes = 0 if point.cut is None else point.cut.nbytes
        size = f"{nbytes / 1e6:.2f}"
        rows.append(
            Row(
                (
                    split,
                    str(len(point.tensors)),
                    f"{nbytes:,}",
                    size,
                    _against(size, printed),
                    f"{side} {node}" if colon else "the input",
                ),
                1,
                int(size == printed),
            )
        )
    return [
        PublishedTable(
            "B3",
            "S4-240785 clause 10.3.9.2, SSD300 (ResNet-50): 15 named nodes and the GPU anchor",
            "MB are 10^6 bytes (5,760,000 is 5.49 of 2^20); a cut is before a convolution, so that "
            "one tensor crosses, and after an activation; nodes under feature_extractor.",
            ("split_node", "n", "bytes", "MB", "printed", "where"),
            tuple(rows),
        )
    ]


# --------------------------------------------------------------------- B4: networks for gestures

_B4: Final = (
    ("resnet18", "11", "45"),
    ("resnet152", "60", "230"),
    ("resnext50_32x4d", "25", "96"),
    ("resnext101_32x8d", "89", "340"),
)


def _b4() -> list[PublishedTable]:
    sizes, stages = [], []
    for name, millions, printed in _B4:
        kept = canonicalise(built(name, zoo.build(name, weights="hollow", batch_norm="kept")))
        count = parameter_count(kept.proto)
        # 11.69 million stands as 11 and 88.79 as 89: cut off and rounded both occur.
        about = next(
            (text for text in (f"{count // 10**6}", f"{count / 1e6:.0f}") if text == millions),
            f"{count / 1e6:.0f}",
        )
        size = f"{kept.file().nbytes / MIB:.0f}"
        met = (about == millions) + (size == printed)
        sizes.append(
            Row(
                (
                    name,
                    f"{count:,}",
                    about,
                    _against(about, millions),
                    size,
                    _against(size, printed),
                ),
                2,
                met,
            )
        )
        network = _Network(name)
        ends = [cut for cut in network.listing.legal if cut.marks.stage]
        for number, cut in enumerate(ends, 1):
            spec = cut.point.cut.boundary[0] if cut.point.cut is not None else None
            stages.append(
                Row(
                    (
                        name if number == 1 else "",
                        str(number),
                        "x".join(map(str, spec.shape[1:])) if spec else "",
                        f"{spec.nbytes:,}" if spec else "",
                        f"{cut.cost.head_parameter_bytes:,}" if cut.cost else "",
                        cut.point.name.removesuffix("_output_0"),
                    )
                )
            )
    return [
        PublishedTable(
            "B4",
            "hand-gesture scenario, table 10.X.4-1, networks for hand gestures",
            "millions cut off, for 88.79 rounded; MB are 2^20 bytes of a file that keeps its batch "
            "normalisations, means and variances included",
            ("network", "parameters", "M", "printed", "MB", "printed"),
            tuple(sizes),
        ),
        PublishedTable(
            "B4",
            "clause 10.X.6, the 8 split points of each",
            "nothing is printed for these; head bytes are its weights at 32 bit",
            ("network", "stage", "shape", "bytes", "head bytes", "after"),
            tuple(stages),
        ),
    ]


def _like(value: float, printed: str) -> str:
    """`value` with as many decimals as `printed` has."""
    decimals = len(printed.partition(".")[2])
    return f"{value:.{decimals}f}"


def _against(computed: str, printed: str) -> str:
    return f"{'=' if computed == printed else '≠'} {printed}"


def met(found: Sequence[PublishedTable]) -> tuple[int, int]:
    """Published figures that are met, and all of them."""
    rows = [row for table in found for row in table.rows]
    return sum(row.met for row in rows), sum(row.figures for row in rows)
