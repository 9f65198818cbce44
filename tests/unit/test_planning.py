"""From what was asked to the plan of a run: calibration apart from measurement, labels that fit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from experiments import gestures
from experiments.commands.calibrate import main as calibrate_main
from experiments.measurement import RunPlan
from experiments.pictures import digests, read_pictures
from experiments.planning import plan_run
from experiments.preparation import PreparedModel, prepare_model
from experiments.run_options import RunOptions
from splitbed import codec
from splitbed.errors import CodecError, UsageError
from splitbed.record import config_id

MODEL = Path(__file__).resolve().parents[2] / "models" / "gesture" / "gesture.onnx"


@pytest.fixture(scope="module")
def model() -> PreparedModel:
    return prepare_model(MODEL)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    gestures.write_folder(folder, gestures.HELD_OUT_SEED, 12)
    return folder


def plan(model: PreparedModel, images: Path, scratch: Path, **asked: Any) -> RunPlan:
    scratch.mkdir(exist_ok=True)
    given: dict[str, Any] = {"cut": "layer4", "codec": "quantize:4", **asked}
    options = RunOptions(model=MODEL, images=images, **given)
    return plan_run(
        model, options, read_pictures(images, options.labels), scratch, Console(quiet=True)
    )


def names(found: RunPlan) -> set[str]:
    return {path.name for path in found.pictures}


def test_pictures_kept_for_calibration_are_not_measured(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    found = plan(model, pictures, tmp_path / "scratch", calibration_count=3)
    seen = set(found.planned.digests)
    assert len(seen) == 3
    assert len(names(found)) == 9
    assert seen.isdisjoint(digests(found.pictures).values())
    assert seen < set(digests(read_pictures(pictures, None).paths).values())
    assert "3 of the pictures served for calibration" in found.notes


def test_pictures_that_are_also_calibrated_from_are_left_out_by_content(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    shutil.copy(pictures / "000003.png", others / "renamed.png")
    found = plan(model, pictures, tmp_path / "scratch", calibration_images=others)
    assert len(names(found)) == 11
    assert "000003.png" not in names(found)


def test_a_calibration_file_leaves_its_pictures_out_too(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibration.json"
    arguments = [str(MODEL), "--cut", "layer4", "--images", str(pictures), "--count", "4"]
    assert calibrate_main([*arguments, "--out", str(out)]) == 0
    made = codec.read_calibration(out)
    # Evenly spaced: the pictures' classes follow their order.
    assert made.inputs == ("000000.png", "000003.png", "000006.png", "000009.png")
    found = plan(model, pictures, tmp_path / "scratch", calibration=out)
    assert names(found).isdisjoint(made.inputs)
    assert len(names(found)) == 8


def test_a_calibration_asks_the_tail_unless_told_not_to(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibration.json"
    arguments = [str(MODEL), "--images", str(pictures), "--count", "2", "--out", str(out)]
    for cut, more in (("layer4", []), ("@output", []), ("layer4", ["--no-tail"])):
        assert calibrate_main([*arguments, "--cut", cut, *more]) == 0
        made = codec.read_calibration(out)
        # At @output what crosses is the answer.
        assert set(made.sensitivities) == (set() if more else set(made.tensors))
        asked = {"cut": cut, "calibration": out, "codec": "shaped:0.5+ans"}
        if more:
            with pytest.raises(CodecError, match="has measured the tail"):
                plan(model, pictures, tmp_path / "scratch", **asked)
        else:
            plan(model, pictures, tmp_path / "scratch", **asked)


def test_no_picture_left_to_measure(model: PreparedModel, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every picture served for calibration"):
        plan(model, pictures, tmp_path / "scratch", calibration_images=pictures)


def test_a_lossy_codec_where_only_integers_cross(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(CodecError, match="or jpeg and png for @picture"):
        plan(model, pictures, tmp_path / "scratch", cut="@picture")


@pytest.mark.parametrize("label", [-1, 10, 977])
def test_labels_of_another_model(
    model: PreparedModel, pictures: Path, tmp_path: Path, label: int
) -> None:
    labels = tmp_path / "labels.tsv"
    labels.write_text(f"000001.png\t3\n000002.png\t{label}\n")
    with pytest.raises(UsageError, match=f"000002.png is class {label}, .* knows classes 0 to 9"):
        plan(model, pictures, tmp_path / "scratch", codec="raw", labels=labels)


def test_the_id_of_a_configuration_is_what_it_is_not_how_it_was_asked_for(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    def identity(**asked: Any) -> str:
        return config_id(plan(model, pictures, tmp_path / "scratch", **asked).identity)

    first = identity()
    assert identity() == first
    assert identity(json=True) == first
    assert identity(accept_uncertified=True, out=tmp_path, timeout_s=7.0) == first
    moved = tmp_path / "moved"
    shutil.copytree(pictures, moved)
    options = RunOptions(model=MODEL, images=moved, cut="layer4", codec="quantize:4")
    again = plan_run(
        model, options, read_pictures(moved, None), tmp_path / "scratch", Console(quiet=True)
    )
    assert config_id(again.identity) == first
    different = [
        identity(cut="layer3"), identity(codec="quantize:5"), identity(link="rate=1mbit"),
        identity(window=2), identity(threads=2), identity(calibration_count=2),
        identity(frames=5), identity(warmup=0), identity(provider="cpu"),
        identity(load="rate:5"), identity(load="poisson:5"), identity(deadline_ms=5.0),
        identity(deadline_ms=5.0, late="drop"), identity(min_s=2.0), identity(until="p50:5%"),
        identity(cpus="0"), identity(cpu_quota=0.5), identity(tails=1), identity(batch=8),
        identity(batch=8, batch_wait_ms=9.0),
    ]  # fmt: skip
    assert len({first, *different}) == 21
    assert identity(tails=0) == identity(batch=1) == first
    assert "load" not in plan(model, pictures, tmp_path / "scratch", window=2).identity
    assert identity(load="single") == identity(load="closed", window=1) == first
    assert identity(deadline_ms=5.0) == identity(deadline_ms=5.0, late="keep")


def test_the_device_hears_of_the_load(model: PreparedModel, pictures: Path, tmp_path: Path) -> None:
    found = plan(model, pictures, tmp_path / "scratch")
    assert found.load_flags == {"seed": 0}
    found = plan(
        model,
        pictures,
        tmp_path / "scratch",
        load="poisson:30",
        window=4,
        deadline_ms=50.0,
        late="drop",
        until="p99:5%",
        max_frames=500,
        seed=7,
    )
    assert found.load_flags == {
        "load": "poisson:30",
        "deadline-ms": 50.0,
        "late": "drop",
        "until": "p99:5%",
        "max-frames": 500,
        "seed": 7,
    }
    assert (found.load.kind, found.load.window, found.load.seed) == ("poisson", 4, 7)


@pytest.mark.parametrize("cpus", ["x", "4000"])
def test_cores_that_are_not_there_are_refused_before_anything_starts(
    model: PreparedModel, pictures: Path, tmp_path: Path, cpus: str
) -> None:
    with pytest.raises(UsageError, match="--cpus"):
        plan(model, pictures, tmp_path / "scratch", cpus=cpus)


def test_a_quota_beyond_the_cores_held_is_refused_before_anything_starts(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    core = str(min(os.sched_getaffinity(0)))
    with pytest.raises(UsageError, match=r"--cpu-quota 1\.5 limits nothing"):
        plan(model, pictures, tmp_path / "scratch", cpus=core, cpu_quota=1.5)


def test_the_command_in_the_manifest_gives_the_same_run(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    images = tmp_path / "two words"
    shutil.copytree(pictures, images)
    found = plan(model, images, tmp_path / "scratch", warmup=2, edge_threads=1, batch=4, json=True)
    assert found.settings["command"] == (
        f"splitbed run {MODEL} --cut layer4 --images '{images}' --codec quantize:4 --warmup 2 "
        "--edge-threads 1 --batch 4 --json"
    )
    assert msgspec.json.encode(found.settings)


def test_a_cut_that_breaks_a_fusion_is_told(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    broken = plan(model, pictures, tmp_path / "one", cut="layer1.0.add", codec="cast")
    assert broken.notes == (
        "the cut separates Add+Relu, which a runtime fuses; at 'layer1.0' the same bytes cross",
    )
    assert not plan(model, pictures, tmp_path / "two", cut="layer1.0", codec="cast").notes


def test_a_cut_may_be_named_by_the_node_behind_it(
    model: PreparedModel, pictures: Path, tmp_path: Path
) -> None:
    node = next(n for n in model.canonical.order if n.name and n.input[0] == "maxpool")
    found = plan(model, pictures, tmp_path / "scratch", cut=f"before:{node.name}", codec="cast")
    assert found.cut == "maxpool"
