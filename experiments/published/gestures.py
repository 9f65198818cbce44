"""Networks for hand gestures and their stages (clause 10.X; requirement B4)."""

from __future__ import annotations

from typing import Final

from experiments.published.table import MIB, Network, PublishedTable, Row, against
from splitbed import zoo
from splitbed.graph import built, canonicalise, parameter_count

_B4: Final = (
    ("resnet18", "11", "45"),
    ("resnet152", "60", "230"),
    ("resnext50_32x4d", "25", "96"),
    ("resnext101_32x8d", "89", "340"),
)


def gestures() -> list[PublishedTable]:
    """Parameters and file sizes, and the eight stages of each network."""
    sizes, stages = [], []
    for name, millions, printed in _B4:
        kept = canonicalise(built(name, zoo.build(name, weights="hollow", batch_norm="kept")))
        count = parameter_count(kept.proto)
        about = f"{count // 10**6}"
        size = f"{kept.file().nbytes / MIB:.0f}"
        met = (about == millions) + (size == printed)
        sizes.append(
            Row(
                (
                    name,
                    f"{count:,}",
                    about,
                    against(about, millions),
                    size,
                    against(size, printed),
                ),
                2,
                met,
                "" if met == 2 else f"{count / 1e6:.2f} million, printed rounded and not cut off",
            )
        )
        network = Network(name)
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
            "millions cut off, as three of the four are printed; MB are 2^20 bytes of a file that "
            "keeps its batch normalisations, means and variances included",
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
