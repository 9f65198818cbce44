"""Cuts of real models on real photos: head then tail gives what the uncut model gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.pictures import read_pictures
from experiments.preparation import PreparedModel, prepare_cut, prepare_model
from splitbed.engine import Engine
from splitbed.errors import VerificationError
from splitbed.graph import Verifier, extract, list_cuts, verify
from splitbed.tensor import Cut

MODELS = {
    "mobilenet_v1_0.25_128": "imagenet",
    "mobilenet_v1_0.5_160": "imagenet",
    "mobilenet_v2_1.0_224": "imagenet",
    "nanodet_m_416": "coco_val2017_128/images",
    "posenet_mobilenet_v1_0.75_353x481": "sa4_posenet_24",
    "resnet20_cifar10": "cifar10_test_1000",
    "resnet56_cifar10": "cifar10_test_1000",
    "resnet8_cifar10": "cifar10_test_1000",
    "super_resolution_x3": "coco_val2017_128/images",
    "vww_mobilenet_v1_0.25_96": "coco_val2017_128/images",
}
TOLERANCE = 1e-4


@pytest.mark.slow
def test_every_cut_of_every_model_is_equal_to_the_uncut_model(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a photo each; also that no node runs in both parts and that sizes are as listed."""
    checked, largest = 0, 0.0
    lines = []
    for name, images in MODELS.items():
        model = prepare_model(data / "models" / f"{name}.onnx")
        photos = read_pictures(data / "images" / images, None).spread(1)
        verifier = Verifier(model.canonical, map(model.feeds, photos), one_thread)
        listing = list_cuts(model.canonical)
        assert len(listing.legal) == len(model.points)
        worst = 0.0
        for listed in listing.legal:
            parts = extract(model.canonical, listed.point)
            found = verifier.check(parts)
            assert found.same_top1 == 1
            worst = max(worst, found.max_rel)
            assert listed.cost is not None
            assert (listed.cost.head_file_bytes, listed.cost.tail_file_bytes) == tuple(
                part.file.nbytes if part else 0 for part in (parts.first, parts.second)
            )
        assert worst <= TOLERANCE
        checked, largest = checked + len(listing.legal), max(largest, worst)
        lines.append(f"{name}: {len(listing.legal)} cuts, at most {worst:.1e} from uncut")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
        print(f"{checked} cuts of {len(MODELS)} models checked, at most {largest:.1e} from uncut")
    assert {path.stem for path in (data / "models").glob("*.onnx")} == MODELS.keys()


def one_thread(content: bytes | Path) -> Engine:
    return Engine(content, provider="cpu", threads=1)


def test_a_wrong_tail_is_found(data: Path) -> None:
    """Two tensors of equal shape swapped at the boundary must not pass."""
    model: PreparedModel = prepare_model(data / "models" / "resnet20_cifar10.onnx")
    swapped = next(
        point
        for point in model.points
        if point.cut is not None
        and len(point.cut.boundary) == 2
        and point.cut.boundary[0].shape == point.cut.boundary[1].shape
    )
    prepared = prepare_cut(model, swapped.name)
    photos = read_pictures(data / "images" / "cifar10_test_1000", None).spread(1)
    a, b = prepared.parts.cut.boundary
    assert isinstance(prepared.parts.cut, Cut)

    class Swapped:
        """The tail, fed with its two inputs the wrong way round."""

        def __init__(self, content: bytes | Path) -> None:
            self._engine = Engine(content)
            self.inputs, self.outputs = self._engine.inputs, self._engine.outputs

        def run(self, feeds, wanted=None):  # type: ignore[no-untyped-def]
            if a.name in feeds and b.name in feeds:
                feeds = {**feeds, a.name: feeds[b.name], b.name: feeds[a.name]}
            return self._engine.run(feeds, wanted)

    feeds = [model.feeds(path) for path in photos]
    with pytest.raises(VerificationError, match="differs from the uncut model"):
        verify(model.canonical, prepared.parts, feeds, Swapped)
