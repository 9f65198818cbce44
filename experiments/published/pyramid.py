"""RetinaNet cut at its feature pyramid (S4-240785 clause 10.3.9.1; requirement B2)."""

from __future__ import annotations

from typing import Final

from experiments.published.table import Network, PublishedTable, Row, against

_PYRAMID: Final = (
    ("FPN 0", "/backbone/fpn/layer_blocks.0", "256x100x160"),
    ("FPN 1", "/backbone/fpn/layer_blocks.1", "256x50x80"),
    ("FPN 2", "/backbone/fpn/layer_blocks.2", "256x25x40"),
    ("FPN 6", "/backbone/fpn/extra_blocks/p6", "256x13x20"),
)


def pyramid() -> list[PublishedTable]:
    """The four tensors of one cut, and their sum."""
    network = Network("retinanet_resnet50_fpn")
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
            Row((label, found, against(found, shape), f"{spec.nbytes:,}"), 1, int(found == shape))
        )
    total = sum(spec.nbytes for spec in specs.values())
    size = f"{total / 1e6:.0f} MB"
    rows.append(
        Row(
            (f"{len(specs)} tensors", size, against(size, "22 MB"), f"{total:,}"),
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
