"""PoseNet and its 32 splits (S4-240785 clause 10.2; requirement B1)."""

from __future__ import annotations

from experiments.published.table import Network, PublishedTable, Row, against


def pose() -> list[PublishedTable]:
    """The anchor's figures, and head and boundary of every split."""
    network = Network("posenet_mobilenet_v1_100")
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
        Row(("layers", str(layers), against(str(layers), "31")), 1, int(layers == 31)),
        Row(("splits", str(len(rows)), against(str(len(rows)), "32")), 1, int(len(rows) == 32)),
        Row(
            ("size, MB", f"{nbytes / 1e6:.1f}", against(f"{nbytes / 1e6:.1f}", "13.3")),
            1,
            int(f"{nbytes / 1e6:.1f}" == "13.3"),
        ),
        Row(
            ("parameters", f"{count:,}", against(f"{count:,}", "1,180,147")),
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
