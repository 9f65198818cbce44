"""The picture generator, and the model trained on its pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import gestures

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "gestures_v1.npz"
MODEL = ROOT / "models" / "gesture" / "gesture.onnx"
STAGES = {
    "stem": (1, 16, 64, 64),
    "maxpool": (1, 16, 32, 32),
    "layer1": (1, 16, 32, 32),
    "layer2": (1, 32, 16, 16),
    "layer3": (1, 64, 8, 8),
    "layer4": (1, 128, 4, 4),
    "avgpool": (1, 128, 1, 1),
    "logits": (1, 10),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_draw_depends_only_on_seed_and_index() -> None:
    first, label = gestures.draw(5, 17)
    gestures.draw(6, 3)
    again, same_label = gestures.draw(5, 17)
    assert first.shape == (128, 128, 3)
    assert first.dtype == np.uint8
    assert first.flags.c_contiguous
    assert label == same_label == 7
    np.testing.assert_array_equal(first, again)


def test_every_prefix_is_balanced() -> None:
    assert len(gestures.CLASSES) == len(set(gestures.CLASSES)) == 10
    labels = [gestures.draw(1, index)[1] for index in range(23)]
    counts = Counter(labels)
    assert set(counts) == set(range(10))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_seeds_and_indices_give_different_pictures() -> None:
    seeds = [gestures.TRAIN_SEED, gestures.HELD_OUT_SEED, gestures.CALIBRATION_SEED]
    assert len(set(seeds)) == 3
    pictures = {gestures.draw(s, i)[0].tobytes() for s in seeds for i in (0, 10, 20)}
    assert len(pictures) == 9


def test_pictures_match_the_golden_file() -> None:
    # Every third row and column of six pictures: enough to notice a change, and a small file.
    with np.load(GOLDEN) as golden:
        indices, expected = golden["indices"], golden["pictures"]
    for index, picture in zip(indices, expected, strict=True):
        drawn = gestures.draw(gestures.HELD_OUT_SEED, int(index))[0][::3, ::3]
        # Platforms may round differently; anything beyond that is a change of the generator
        # and needs a new GENERATOR_VERSION, a new model and a new golden file.
        assert np.abs(drawn.astype(np.int16) - picture).max() <= 2


def test_write_folder_writes_labels_and_lossless_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    gestures.write_folder(folder, seed=3, count=4, first=9)
    lines = (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "file\tclass_index\tname"
    rows = [line.split("\t") for line in lines[1:]]
    assert [row[1:] for row in rows] == [["9", "three"], ["0", "call"], ["1", "dislike"],
                                         ["2", "fist"]]  # fmt: skip
    for offset, row in enumerate(rows):
        with Image.open(folder / row[0]) as image:
            np.testing.assert_array_equal(np.asarray(image), gestures.draw(3, 9 + offset)[0])


def test_write_folder_leaves_a_complete_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gestures.write_folder(tmp_path, seed=3, count=3)

    def refuse(seed: int, index: int) -> None:
        raise AssertionError("drew a picture again")

    monkeypatch.setattr(gestures, "draw", refuse)
    gestures.write_folder(tmp_path, seed=3, count=3)
    with pytest.raises(AssertionError):
        gestures.write_folder(tmp_path, seed=4, count=3)


def test_write_folder_redoes_an_interrupted_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    gestures.write_folder(whole, seed=3, count=4)
    gestures.write_folder(broken, seed=8, count=6)
    real = gestures.draw

    def interrupted(seed: int, index: int) -> object:
        if index == 2:
            raise KeyboardInterrupt
        return real(seed, index)

    with monkeypatch.context() as patch:
        patch.setattr(gestures, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gestures.write_folder(broken, seed=3, count=4)
    (broken / "000001.png").write_bytes(b"cut off")
    gestures.write_folder(broken, seed=3, count=4)
    assert contents(broken) == contents(whole)


@pytest.mark.parametrize("damage", ["picture", "labels", "marker"])
def test_write_folder_repairs_a_damaged_folder(tmp_path: Path, damage: str) -> None:
    gestures.write_folder(tmp_path, seed=3, count=3)
    before = contents(tmp_path)
    if damage == "picture":
        (tmp_path / "000002.png").unlink()
    elif damage == "labels":
        (tmp_path / "labels.tsv").unlink()
    else:
        (tmp_path / "complete.json").write_text("{", encoding="utf-8")
    gestures.write_folder(tmp_path, seed=3, count=3)
    assert contents(tmp_path) == before


def test_model_file_is_small() -> None:
    assert MODEL.stat().st_size <= 2_000_000


def test_model_names_its_stages_and_its_origin() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(MODEL))
    onnx.checker.check_model(model)
    shapes = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in [*model.graph.value_info, *model.graph.output, *model.graph.input]
    }
    assert shapes["input"] == (1, 3, 128, 128)
    assert {name: shapes.get(name) for name in STAGES} == STAGES
    assert [output.name for output in model.graph.output] == ["logits"]
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes["classes"].split(",") == list(gestures.CLASSES)
    assert notes["generator_version"] == str(gestures.GENERATOR_VERSION)
    assert notes["licence"] == "BSD-3-Clause"
    assert "synthetic" in notes["training_data"]


def test_model_reads_most_held_out_pictures() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    right = 0
    for index in range(400):
        picture, label = gestures.draw(gestures.HELD_OUT_SEED, index)
        tensor = (picture.astype(np.float32) - 127.5) / 127.5
        tensor = np.ascontiguousarray(tensor.transpose(2, 0, 1)[None])
        (logits,) = session.run(["logits"], {"input": tensor})
        right += int(np.argmax(logits) == label)
    assert 0.88 <= right / 400 <= 0.995
