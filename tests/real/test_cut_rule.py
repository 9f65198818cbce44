"""The rule's cuts of real models: where the figures of the coded cuts are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cut_rule import cuts_by_rule
from experiments.models import open_model
from splitbed.graph import list_cuts

WANTED = {
    "mobilenet_v2_1.0_224": [
        (25, "fewest bytes", (1, 24, 56, 56)),
        (25, "after a ReLU", (1, 144, 28, 28)),
        (50, "fewest bytes", (1, 64, 14, 14)),
        (50, "after a ReLU", (1, 384, 14, 14)),
        (75, "fewest bytes", (1, 160, 7, 7)),
        (75, "after a ReLU", (1, 576, 7, 7)),
    ],
    # Every cut of one tensor is after a ReLU, and none lies within 5 points of the half.
    "resnet20_cifar10": [
        (25, "fewest bytes", (1, 16, 32, 32)),
        (25, "after a ReLU", (1, 16, 32, 32)),
        (50, "fewest bytes", (1, 32, 16, 16)),
        (50, "after a ReLU", (1, 32, 16, 16)),
        (75, "fewest bytes", (1, 64, 8, 8)),
        (75, "after a ReLU", (1, 64, 8, 8)),
    ],
}


@pytest.mark.parametrize("name", WANTED)
def test_cuts_of_the_rule(data: Path, name: str) -> None:
    listing = list_cuts(open_model(str(data / "models" / f"{name}.onnx")))
    shapes = {c.point.name: c.point.cut.boundary[0].shape for c in listing.cuts if c.point.cut}
    found = cuts_by_rule(listing)
    assert [(cut.share_pct, cut.kind, shapes[cut.name]) for cut in found] == WANTED[name]
    far = {cut.share_pct for cut in found if not cut.is_near}
    assert far == ({50} if name == "resnet20_cifar10" else set())
