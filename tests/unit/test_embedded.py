"""A run that was given neither a model file nor pictures, and how an edge finds that model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_node.store import ModelStore
from experiments.embedded import model_file, rendered_pictures
from experiments.pictures import hold_out, read_pictures
from splitbed.errors import ModelUnknown, UsageError
from splitbed.task import models_folder

GESTURE = models_folder() / "gesture" / "gesture.onnx"


def test_the_embedded_model_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_file(Path("gesture")) == GESTURE
    for other in ("gesture.onnx", "models/gesture", "resnet"):
        assert model_file(Path(other)) == Path(other)
    shutil.copy(GESTURE, tmp_path / "gesture")  # a person's own file comes first
    assert model_file(Path("gesture")) == Path("gesture")


@pytest.mark.parametrize(("frames", "calibration"), [(3, 4), (20, 4), (None, 16)])
def test_enough_pictures_are_rendered(tmp_path: Path, frames: int | None, calibration: int) -> None:
    pictures = read_pictures(rendered_pictures(GESTURE, tmp_path, frames, calibration), None)
    kept_aside = hold_out(pictures, calibration, 0)
    assert len(kept_aside) == calibration
    assert len(pictures.without(kept_aside).paths) >= (frames or 100)
    assert set(pictures.labels) == {path.name for path in pictures.paths}


def test_another_model_needs_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"resnet\.onnx needs pictures .* --images"):
        rendered_pictures(Path("resnet.onnx"), tmp_path, 5, 5)


def test_an_edge_knows_a_model_by_the_last_part_of_its_name(tmp_path: Path) -> None:
    store = ModelStore(models_folder())
    assert store.names() == ["gesture/gesture"]
    by_path, alone = store.get("gesture/gesture", ()), store.get("gesture", ())
    assert by_path.canonical.id == alone.canonical.id
    for name in ("esture", "*", "gesture*", "", "..", "/gesture"):
        with pytest.raises(ModelUnknown, match="has no model"):
            store.get(name, ())


def test_several_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b/c"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(GESTURE, tmp_path / folder / "gesture.onnx")
    store = ModelStore(tmp_path)
    with pytest.raises(ModelUnknown, match=r"several models 'gesture': a/gesture, b/c/gesture"):
        store.get("gesture", ())
    assert store.get("a/gesture", ()).canonical.source.path.parent.name == "a"
    shutil.copy(GESTURE, tmp_path / "gesture.onnx")  # what is called just so comes first
    assert store.get("gesture", ()).canonical.source.path == (tmp_path / "gesture.onnx").resolve()
