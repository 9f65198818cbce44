"""`splitbed run` on real models and photos, across three processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_rows
from tests.integration.nodes import certified


def run(data: Path, out: Path, model: str, images: str, *arguments: object) -> dict[str, Any]:
    done = certified(
        *("run", data / "models" / f"{model}.onnx", "--images", data / "images" / images),
        *("--out", out, "--json", "--certify-s", "0.6", *arguments),
        timeout_s=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_mobilenet_v2_raw_changes_no_answer(data: Path, tmp_path: Path) -> None:
    """All 124 photos, cut in the middle: the uncut model's top-1 each, 109 of 124 right."""
    found = run(
        *(data, tmp_path, "mobilenet_v2_1.0_224", "imagenet"),
        *("--cut", "MobilenetV2/expanded_conv_9/add", "--codec", "raw"),
        *("--link", "rate=200mbit,delay=2ms"),
    )
    assert found["frames_ok"] == 124
    assert found["agreement"]["successes"] == found["agreement"]["count"] == 124
    assert found["accuracy"]["successes"] == 109
    assert found["loss"]["became_wrong"] == found["loss"]["became_right"] == 0


def test_mobilenet_v2_coded(data: Path, tmp_path: Path) -> None:
    """Four bits and zstd at the same cut: a ninth of the bytes, little lost."""
    found = run(
        *(data, tmp_path, "mobilenet_v2_1.0_224", "imagenet"),
        *("--cut", "MobilenetV2/expanded_conv_9/add", "--codec", "quantize:4+zstd:3"),
    )
    assert found["frames_ok"] == 124 - 16
    assert found["payload_bytes"] < found["raw_bytes"] / 8
    assert found["agreement"]["pct"] > 94
    assert found["loss"]["points"] < 3


def test_mobilenet_v2_quantised_in_the_graph(data: Path, tmp_path: Path) -> None:
    """The same bytes and answers, frame by frame, at a cut in the middle and an early one."""
    for cut in ("MobilenetV2/expanded_conv_9/add", "MobilenetV2/expanded_conv_1/project/add_fold"):
        frames = []
        for where in ("", ",where=graph"):
            found = run(
                *(data, tmp_path, "mobilenet_v2_1.0_224", "imagenet", "--frames", 40),
                *("--cut", cut, "--codec", f"quantize:4{where}+zstd:3"),
            )
            rows = read_rows(RunFolder(Path(found["folder"])).frames("device"), FrameRecord)
            frames.append([(row.source, row.payload_bytes, row.result) for row in rows])
        assert len(frames[0]) == 45
        assert frames[0] == frames[1]


def test_resnet20_on_cifar(data: Path, tmp_path: Path) -> None:
    """A cut inside a residual block: two tensors cross."""
    found = run(
        *(data, tmp_path, "resnet20_cifar10", "cifar10_test_1000"),
        *("--cut", "layer2.1.conv1", "--frames", 300, "--codec", "raw"),
    )
    assert found["frames_ok"] == 300
    assert found["agreement"]["successes"] == 300
    assert found["accuracy"]["pct"] > 70


def test_posenet_on_the_pose_photos(data: Path, tmp_path: Path) -> None:
    """Three output tensors come back whole and equal the uncut model's."""
    found = run(
        *(data, tmp_path, "posenet_mobilenet_v1_0.75_353x481", "sa4_posenet_24"),
        *("--cut", "MobilenetV1/Conv2d_4_depthwise/relu6", "--link", "rate=500mbit,delay=1ms"),
    )
    assert found["frames_ok"] == 24
    assert found["max_difference"] < 1e-3  # spec B1, for key points within 0.001
    assert found["reply_bytes"] > 300_000
    assert found["agreement"]["successes"] == found["agreement"]["count"] == 24
