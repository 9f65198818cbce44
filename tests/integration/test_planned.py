"""Codecs made where the model is and used elsewhere, and `auto`, as a user would type them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import experiments.codec_bench
from experiments.codec_bench import Bench, Measured
from experiments.codec_search import CodecSearch
from experiments.pictures import PictureSet, read_pictures
from experiments.preparation import prepare_model
from splitbed.codec import read_planned
from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from tests.integration.nodes import (
    ALONE,
    GESTURE,
    certified,
    finish,
    one_sentence,
    ready,
    splitbed,
    start,
    stop,
)

CUT = "layer3"
RUN = ("--certify-s", "0.6", "--warmup", "1", "--backend", "relay", "--json")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def run_json(*arguments: object) -> dict[str, Any]:
    done = certified("run", GESTURE, *RUN, *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def payloads(folder: Path) -> list[tuple[str, int, object]]:
    rows = read_rows(RunFolder(folder).frames("device"), FrameRecord)
    return [(row.source, row.payload_bytes, row.result) for row in rows if not row.warmup]


@pytest.mark.parametrize("text", ["uniform:0.6+ans", "shaped:0.6+ans"])
def test_a_planned_codec_goes_to_a_device_and_to_a_run(
    pictures: Path, tmp_path: Path, text: str
) -> None:
    planned = tmp_path / "codec.json"
    made = splitbed(
        *("calibrate", GESTURE, "--cut", CUT, "--images", pictures, "--count", 9),
        *("--codec", text, "--planned", planned),
    )
    assert made.returncode == 0, made.stderr
    assert f"a device takes it with --codec @{planned}" in made.stdout
    assert planned.stat().st_size < 20_000
    assert not (tmp_path / "calibration.json").exists()

    run = run_json("--cut", CUT, "--images", pictures, "--codec", f"@{planned}", "--out", tmp_path)
    folder = Path(run["folder"])
    assert run["codec"] == text
    assert run["frames_ok"] == 51  # those that it was fitted to are left out
    # The device got exactly this, and kept it beside its rows.
    assert read_planned(folder / "codec.json") == read_planned(planned)

    edge = start("edge_node", "--models", GESTURE, *ALONE)
    try:
        device = start(
            "device_node",
            *("--edge", ready(edge)["address"], "--model", "gesture", "--cut", CUT),
            *("--pictures", folder / "pictures.txt", "--codec", f"@{planned}"),
            *("--out", tmp_path / "by-hand", "--run-id", "one", "--warmup", 1),
            *("--cache", tmp_path / "heads"),
        )
        code, _, err = finish(device)
    finally:
        stop(edge)
    assert code == 0, err
    assert payloads(tmp_path / "by-hand" / "one") == payloads(folder)
    manifest = read_manifest(tmp_path / "by-hand" / "one")
    assert manifest.codec == text
    # What only the encoder needs stayed on the device.
    assert "shaping" not in json.dumps(manifest.codecs)


def test_an_old_calibration_still_serves_a_run(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    made = splitbed(
        "calibrate", GESTURE, "--cut", CUT, "--images", pictures, "--count", 9, "--out", out
    )
    assert made.returncode == 0, made.stderr
    common = ("--cut", CUT, "--images", pictures, "--codec", "quantize:4+zstd:3")
    run = run_json(*common, "--calibration", out, "--out", tmp_path, "--frames", 3)
    assert run["codec"] == "quantize:4+zstd:3"
    wrong = splitbed("run", GESTURE, "--cut", "layer4", *common[2:], "--calibration", out)
    assert wrong.returncode == 2
    assert "made for another model or cut (layer3)" in one_sentence(wrong.stderr)


def test_auto_is_found_once_and_recorded(pictures: Path, tmp_path: Path) -> None:
    common = ("--cut", CUT, "--images", pictures, "--calibration-count", 12, "--frames", 4)
    first = run_json(*common, "--codec", "auto:1pp", "--out", tmp_path)
    manifest = read_manifest(Path(first["folder"]))
    assert manifest.config["codec"] == "auto:1pp"
    assert manifest.codec == first["codec"] != "auto:1pp"
    assert manifest.notes[0].startswith(f"auto:1pp,98% -> {first['codec']}, ")
    assert len(list((tmp_path / "xdg" / "splitbed" / "auto").iterdir())) == 1
    again = run_json(*common, "--codec", "auto:1pp", "--out", tmp_path)
    assert payloads(Path(again["folder"])) == payloads(Path(first["folder"]))
    # What was found is a codec like any other: named, it is the same configuration.
    named = run_json(*common, "--codec", first["codec"], "--out", tmp_path)
    assert read_manifest(Path(named["folder"])).config_id == manifest.config_id


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", GESTURE, "--cut", CUT, "--codec", "auto:1"), "'1' is no target, as in auto:1pp"),
        (("run", GESTURE, "--cut", CUT, "--codec", "@absent.json"), "cannot read the codec absent"),
        (("run", GESTURE, "--cut", CUT, "--codec", "auto:1pp", "--calibration", "c.json"),
         "looks for its codec on pictures"),
        (("run", GESTURE, "--cut", CUT, "--codec", "auto:1pp", "--calibration-count", 7),
         "on 8 pictures at least, and there are 7"),
        (("codec", "bench", GESTURE, "--codec", "auto:2"), "'2' is no target"),
        (("calibrate", GESTURE, "--cut", CUT, "--images", ".", "--planned", "x"), "say which"),
        (("calibrate", GESTURE, "--cut", CUT, "--images", ".", "--codec", "@x"), "planned already"),
    ],
)  # fmt: skip
def test_mistakes(arguments: tuple[object, ...], words: str) -> None:
    done = splitbed(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in one_sentence(done.stderr)
    assert not done.stdout


def test_in_a_bench_auto_is_chosen_on_the_other_folds(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[set[Path]] = []

    class Spied(CodecSearch):
        def __init__(self, model: Any, cut: Any, runner: Any, seen: Any, *rest: Any) -> None:
            searched.append(set(seen.paths))
            super().__init__(model, cut, runner, seen, *rest)

    monkeypatch.setattr(experiments.codec_bench, "CodecSearch", Spied)
    given = read_pictures(pictures, None)
    few = PictureSet(given.spread(18), given.labels)
    bench = Bench(prepare_model(GESTURE), few, 3, 7, 1)
    auto, plain = bench.measure(CUT, ["auto:1pp", "uniform:1.4+ans"])
    bench.close()
    assert isinstance(auto, Measured)
    assert isinstance(plain, Measured)
    assert auto.row.codec == "auto:1pp"
    assert len(auto.row.chosen) == 3
    assert plain.row.chosen == ()
    for fold, seen in zip(bench.folds, searched, strict=True):
        assert seen == set(bench.pictures) - set(fold)
    assert auto.row.score.agreement.successes >= 17


def test_a_bench_names_what_auto_chose(pictures: Path) -> None:
    arguments = ("--count", 15, "--threads", 1, "--images", pictures, "--cut", CUT)
    done = splitbed("codec", "bench", GESTURE, *arguments, "--codec", "auto:1pp", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (row,) = (one["row"] for one in found["cuts"][0]["rows"])
    assert row["codec"] == "auto:1pp"
    assert f"auto:1pp at {CUT} is, fold by fold: {', '.join(row['chosen'])}" in found["notes"]
