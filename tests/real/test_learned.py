"""Learned codecs for other models than ours: untrained pairs, across three processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from tests.integration.nodes import certified
from tests.unit.pairs import untrained_pair


def run(data: Path, place: Path, model: str, images: str, *arguments: object) -> dict[str, Any]:
    """The model is a link to where it lies, the pair is beside the link."""
    done = certified(
        *("run", place / f"{model}.onnx", "--images", data / "images" / images),
        *("--out", place / "runs", "--json", "--certify-s", "0.6", "--frames", 12),
        *arguments,
        timeout_s=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("model", "images", "cut", "channels", "opset", "tensors"),
    [
        ("mobilenet_v2_1.0_224", "imagenet", "MobilenetV2/expanded_conv_9/add", 8, 17, 1),
        ("resnet20_cifar10", "cifar10_test_1000", "layer2.1.conv1", 4, 11, 2),
    ],
)
def test_any_model(
    data: Path,
    tmp_path: Path,
    model: str,
    images: str,
    cut: str,
    channels: int,
    opset: int,
    tensors: int,
) -> None:
    """A middle cut, and one inside a block, where two tensors cross and an open batch.

    The run itself proves that what runs is head, encoder, decoder and tail; here that the graph
    quantises to the same bytes and answers, and that an untrained pair loses what it must.
    """
    (tmp_path / f"{model}.onnx").symlink_to(data / "models" / f"{model}.onnx")
    for file in (data / "models").glob(f"{model}.toml"):
        (tmp_path / file.name).symlink_to(file)
    untrained_pair(tmp_path / "pair", tmp_path / f"{model}.onnx", cut, channels, opset=opset)
    rows = []
    for text in ("learned:pair+quantize:4+zstd:3", "learned:pair+quantize:4,where=graph+zstd:3"):
        found = run(data, tmp_path, model, images, "--cut", cut, "--codec", text)
        assert found["frames_ok"] == 12
        folder = RunFolder(Path(found["folder"]))
        manifest = read_manifest(folder.folder)
        assert manifest.cut is not None
        boundary = manifest.cut["boundary"]
        assert [len(t["shape"]) for t in boundary] == [4] * tensors
        assert {t["shape"][1] for t in boundary} == {channels}
        frames = read_rows(folder.frames("device"), FrameRecord)
        rows.append([(row.source, row.payload_bytes, row.result) for row in frames])
        assert found["agreement"]["pct"] < 50
        assert found["payload_bytes"] < found["raw_bytes"] / 16
    assert rows[0] == rows[1]
    found = run(
        data, tmp_path, model, images, "--cut", cut, "--codec", "learned:pair+uniform:1+ans"
    )
    assert found["frames_ok"] == 12
