"""SSD300 at its named nodes (S4-240785 clause 10.3.9.2; requirement B3)."""

from __future__ import annotations

from typing import Final

from experiments.published.table import Network, PublishedTable, Row, against

_NODE: Final = "/feature_extractor/feature_extractor/feature_extractor."
_SSD: Final = (
    ("anchor", "@input", "1.08"),
    ("1", "before:2/Relu", "5.76"),
    ("3", "before:4/feature_extractor.4.0/conv1/Conv", "1.44"),
    ("10", "before:4/feature_extractor.4.0/relu_2/Relu", "5.76"),
    ("17", "before:4/feature_extractor.4.1/relu_2/Relu", "5.76"),
    ("24", "before:4/feature_extractor.4.2/relu_2/Relu", "5.76"),
    ("25", "before:5/feature_extractor.5.0/conv1/Conv", "5.76"),
    ("39", "before:5/feature_extractor.5.1/relu_2/Relu", "2.96"),
    ("46", "before:5/feature_extractor.5.2/relu_2/Relu", "2.96"),
    ("54", "before:6/feature_extractor.6.0/conv1/Conv", "2.96"),
    ("62", "before:6/feature_extractor.6.1/conv1/Conv", "5.91"),
    ("68", "before:6/feature_extractor.6.1/relu_2/Relu", "5.91"),
    ("69", "before:6/feature_extractor.6.2/conv1/Conv", "5.91"),
    ("75", "before:6/feature_extractor.6.2/relu_2/Relu", "5.91"),
    ("76", "before:6/feature_extractor.6.3/conv1/Conv", "5.91"),
    ("82", "before:6/feature_extractor.6.3/relu_2/Relu", "5.91"),
)


def detector() -> list[PublishedTable]:
    """Intermediate data before each named node."""
    network = Network("ssd300_resnet50")
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
                    against(size, printed),
                    node if colon else "everything",
                ),
                1,
                int(size == printed),
            )
        )
    return [
        PublishedTable(
            "B3",
            "S4-240785 clause 10.3.9.2, SSD300 (ResNet-50): 15 named nodes and the GPU anchor",
            "MB are 10^6 bytes (5,760,000 is 5.49 of 2^20). Each cut is before its node (behind a "
            "block's first convolution a second tensor crosses); names less "
            f"{_NODE.rstrip('.')}",
            ("split_node", "n", "bytes", "MB", "printed", "before"),
            tuple(rows),
        )
    ]
