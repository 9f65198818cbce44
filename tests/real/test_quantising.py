"""Quantising in the graph on a real model and photos: symbols and values of numpy, to the bit."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.pictures import read_pictures
from experiments.preparation import PreparedCut, calibrate, prepare_cut, prepare_model
from experiments.quantising import CodedCut
from splitbed import codec
from splitbed.codec.quantize import Quantize
from splitbed.engine import Engine
from splitbed.graph import extract, quantising
from splitbed.graph.difference import distance
from splitbed.graph.verify import TOLERANCE
from splitbed.quantiser import Quantiser
from splitbed.runnable import carry
from tests.models import open_part
from tests.unit.test_quantising import by_numpy

MODELS = {
    "mobilenet_v1_0.5_160": "imagenet",
    "mobilenet_v2_1.0_224": "imagenet",
    "nanodet_m_416": "coco_val2017_128/images",
    "posenet_mobilenet_v1_0.75_353x481": "sa4_posenet_24",
    "resnet20_cifar10": "cifar10_test_1000",
    "super_resolution_x3": "coco_val2017_128/images",
}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "MobilenetV2/expanded_conv_9/add",
        "MobilenetV2/expanded_conv_1/project/add_fold",
        "MobilenetV2/expanded_conv_1/depthwise/relu6/conv",
    ],
)
def test_mobilenet_v2(data: Path, name: str, per_channel: bool) -> None:
    """Also between a convolution and its activation, which a runtime fuses."""
    model = prepare_model(data / "models" / "mobilenet_v2_1.0_224.onnx")
    cut = prepare_cut(model, name)
    photos = read_pictures(data / "images" / "imagenet", None).spread(3)
    (spec,) = cut.cut.boundary
    assert cut.parts.first is not None
    assert cut.parts.second is not None
    outputs = [output.name for output in model.canonical.outputs]
    head, tail = open_part(cut.parts.first.content), open_part(cut.parts.second.content)
    boundaries: list[Any] = [
        carry(head, model.feeds(photo), [spec.name])[spec.name] for photo in photos
    ]
    for bits in range(2, 9):
        seen = boundaries[0][0].reshape(spec.shape[1], -1) if per_channel else boundaries[0]
        chosen = [
            Quantize(bits, float(np.min(part)) * 0.9, float(np.max(part)) + 0.1, "bytes")
            for part in (seen if per_channel else [seen])
        ]
        described = Quantiser(
            spec.name,
            tuple(low for stage in chosen if isinstance(low := stage.low, float)),
            tuple(stage.step for stage in chosen),
            (1 << bits) - 1,
        )
        parts = quantising(cut.parts, [described])
        assert parts.first is not None
        assert parts.second is not None
        first, second = open_part(parts.first.content), open_part(parts.second.content)
        for photo, boundary in zip(photos, boundaries, strict=True):
            wanted, values = by_numpy(boundary, chosen)
            made = carry(first, model.feeds(photo), [spec.symbols.name])
            assert made[spec.symbols.name].tobytes() == wanted.tobytes()
            answer = carry(second, made, outputs)
            for output, array in carry(tail, {spec.name: values}, outputs).items():
                assert answer[output].tobytes() == array.tobytes()


@pytest.mark.parametrize("rule", ["per=channel", "per=channel,symmetric=yes", "symmetric=yes"])
@pytest.mark.parametrize(
    "name",
    ["MobilenetV2/expanded_conv_9/add", "MobilenetV2/expanded_conv_10/expand/relu6"],
)
def test_ranges_by_channel_and_symmetric(data: Path, name: str, rule: str) -> None:
    """Calibrated on one photo and coded on another: the same payloads and answers both ways."""
    model = prepare_model(data / "models" / "mobilenet_v2_1.0_224.onnx")
    cut = prepare_cut(model, name)
    photo, other = read_pictures(data / "images" / "imagenet", None).spread(2)
    calibration = calibrate(model, cut, [other], 1)
    opener = partial(Engine, provider="cpu", threads=1)
    outputs, feeds = [spec.name for spec in model.canonical.outputs], model.feeds(photo)
    for bits in (3, 8):
        text = f"quantize:{bits},{rule},where=graph+zstd:3"
        planned = codec.plan(text, cut.cut.boundary, calibration)
        graph = CodedCut(cut, planned, opener)
        plain = CodedCut(cut, codec.by_numpy(planned), opener)
        payloads = [*map(bytes, plain.encoded(plain.crossing(feeds)))]
        assert [*map(bytes, graph.encoded(graph.crossing(feeds)))] == payloads
        made = graph.answer(graph.decoded(payloads), outputs)
        wanted = plain.answer(plain.decoded(payloads), outputs)
        for output in outputs:
            assert made[output].tobytes() == wanted[output].tobytes()


@pytest.mark.slow
def test_every_cut_of_real_models(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Payloads and what they decode to; the tail's answers within what every cut may differ by.

    In CI every third cut: all 499 take two minutes.
    """
    checked, equal = 0, 0
    step = 3 if os.environ.get("CI") else 1
    opener = partial(Engine, provider="cpu", threads=1)
    for name, images in MODELS.items():
        model = prepare_model(data / "models" / f"{name}.onnx")
        photo, other = read_pictures(data / "images" / images, None).spread(2)
        outputs, feeds = [spec.name for spec in model.canonical.outputs], model.feeds(photo)
        for point in model.points[::step]:
            parts = extract(model.canonical, point)
            if parts.first is None or parts.second is None:
                continue
            cut = PreparedCut(parts.cut, parts)
            planned = codec.plan(
                "quantize:8,where=graph", cut.cut.boundary, calibrate(model, cut, [other], 1)
            )
            graph = CodedCut(cut, planned, opener)
            plain = CodedCut(cut, codec.by_numpy(planned), opener)
            payloads = plain.encoded(plain.crossing(feeds))
            assert [*map(bytes, graph.encoded(graph.crossing(feeds)))] == [*map(bytes, payloads)]
            made = graph.answer(graph.decoded(payloads), outputs)
            wanted = plain.answer(plain.decoded(payloads), outputs)
            assert max(distance(made[output], wanted[output]) for output in outputs) <= TOLERANCE
            checked += 1
            equal += all(made[output].tobytes() == wanted[output].tobytes() for output in outputs)
    with capsys.disabled():
        print(
            f"\n{checked} cuts of {len(MODELS)} models quantised in the graph: the same payloads; "
            f"answers equal to the bit at {equal}"
        )
    assert equal > 0.98 * checked
