"""Sizes of models that a device downloads (TR 22.874 clause 6; requirement D1)."""

from __future__ import annotations

import math
from typing import Final

from experiments.published.table import PublishedTable, Row
from splitbed import zoo
from splitbed.graph import parameter_count

_D1: Final = (
    ("AlexNet", "alexnet", "60", "240", "1920", "60", "480"),
    ("VGG16", "vgg16", "138", "552", "4416", "138", "1104"),
    ("ResNet-152", "resnet152", "60", "240", "1920", "60", "480"),
    ("ResNet-50", "resnet50", "25", "100", "800", "25", "200"),
    ("GoogleNet", "googlenet_2014", "6.8", "27.2", "217.6", "6.8", "54.4"),
    ("Inception-V3", "inception_v3", "23", "92", "736", "23", "184"),
    ("1.0 MobileNet-224", "mobilenet_v1", "4.2", "16.8", "134.4", "4.2", "33.6"),
)


def distribution() -> list[PublishedTable]:
    """Parameters, file sizes, and the rate that fetches each in a second."""
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
        if met < len(printed) and name != "googlenet_2014":
            remark = "not explained"
        elif met < len(printed):
            other = parameter_count(zoo.build("googlenet", weights="hollow", batch_norm="kept"))
            remark = (
                f"the paper's layers have {count:,} parameters, torchvision's form {other:,}; "
                "6.8 million is neither"
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
