"""Required uplink rates of AlexNet and VGG-16 (TR 22.874 clause 5.1; requirement C1)."""

from __future__ import annotations

from typing import Final

from experiments.published.table import (
    FRAMES_PER_S,
    MIB,
    Network,
    PublishedTable,
    Row,
    against,
    like,
)

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


def uplink() -> list[PublishedTable]:
    """Intermediate data and rates at the candidate splits, and the networks' work."""
    alexnet, vgg = Network("alexnet"), Network("vgg16")
    fc6 = alexnet.nbytes("/relu6/Relu")
    remarks = {
        ("alexnet", "pool5"): f"256x6x6 numbers of 32 bit are {alexnet.nbytes('/pool5/MaxPool'):,} "
        f"bytes; 0.02 MB would fit the next layer, fc6, with {fc6:,} bytes",
        ("vgg16", "input"): "145 is the rate of the exact bytes",
        ("vgg16", "pool4"): f"512x14x14 numbers of 32 bit are {vgg.nbytes(_VGG[4][1]):,} bytes, "
        "half of pool3's",
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
            size = like(nbytes / MIB, megabytes)
            exact = nbytes * 8 * FRAMES_PER_S / 1e6
            rounded = float(size) * 8 * FRAMES_PER_S
            met = (size == megabytes) + (like(rounded, rate) == rate)
            rows.append(
                Row(
                    (
                        label,
                        f"{nbytes:,}",
                        size,
                        against(size, megabytes),
                        like(rounded, rate),
                        against(like(rounded, rate), rate),
                        f"{exact:.2f}",
                    ),
                    2,
                    met,
                    remarks.get((name, label), "not explained") if met < 2 else "",
                )
            )
        found.append(
            PublishedTable(
                "C1",
                f"TR 22.874 table {number}, {name} at {FRAMES_PER_S} frames/s",
                "MB are 2^20 bytes, rounded to the printed digits; a rate is the rounded MB x 8 x "
                "30; the last column is not rounded before",
                ("split point", "bytes", "MB", "printed", "Mbit/s", "printed", "exact"),
                tuple(rows),
            )
        )
    return [*found, _macs()]


_MACS_REMARKS: Final = {
    "GoogleNet": "counted on the paper's layers with their padding, without auxiliary heads"
}


def _macs() -> PublishedTable:
    rows = []
    for label, name, printed in (
        ("AlexNet", "alexnet", "724 M"),
        ("VGG-16", "vgg16", "15.5 G"),
        ("GoogleNet", "googlenet_2014", "1.43 G"),
    ):
        macs = Network(name).listing.macs
        number, unit = printed.split()
        text = f"{like(macs / {'M': 1e6, 'G': 1e9}[unit], number)} {unit}"
        is_met = text == printed
        remark = "" if is_met else _MACS_REMARKS.get(label, "not explained")
        rows.append(Row((label, f"{macs:,}", text, against(text, printed)), 1, is_met, remark))
    return PublishedTable(
        "C1",
        "TR 22.874 clause 5.1.1, multiply-accumulates of one picture",
        "convolutions and matrix products, rounded to the printed digits",
        ("network", "MACs", "computed", "printed"),
        tuple(rows),
    )
