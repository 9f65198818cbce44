"""The learned codec of the embedded model through every command that takes a codec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.codec_planning import plan_codec
from experiments.evaluation import LabelledPicture, evaluate
from experiments.gestures import CALIBRATION_SEED, HELD_OUT_SEED, write_folder
from experiments.pictures import read_pictures
from experiments.preparation import prepare_cut, prepare_model, reference
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

CODED = "learned:bottleneck+quantize:4+zstd:3"
AT = ("--cut", "layer2", "--codec")


def run(out: Path, pictures: Path, *arguments: object) -> dict[str, Any]:
    done = certified(
        *("run", GESTURE, "--images", pictures, "--out", out, "--json", "--certify-s", "0.6"),
        *("--backend", "relay", "--warmup", "2", "--frames", "30", *arguments),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_three_processes_over_a_shaped_link(pictures: Path, tmp_path: Path) -> None:
    """Known range: all pictures are measured. The graph quantises to the same bytes and answers."""
    rows = []
    for text in (CODED, "learned:bottleneck+quantize:4,where=graph+zstd:3"):
        found = run(tmp_path, pictures, *AT, text, "--link", "rate=20mbit,delay=2ms,queue=50ms")
        assert found["complete"]
        assert found["frames_ok"] == 30
        assert found["raw_bytes"] == 32768  # of the boundary
        assert 240 < found["payload_bytes"] < 280
        assert found["agreement"]["successes"] >= 28
        folder = RunFolder(Path(found["folder"]))
        frames = read_rows(folder.frames("device"), FrameRecord)
        rows.append([(row.source, row.payload_bytes, row.result) for row in frames])
        manifest = read_manifest(folder.folder)
        assert manifest.cut is not None
        assert [t["name"] for t in manifest.cut["boundary"]] == ["code"]
        assert manifest.head is not None
        assert manifest.head["pair"]["name"] == "bottleneck"
        assert manifest.verification is not None
        assert manifest.verification["max_rel"] <= manifest.verification["tolerance"]
    assert len(rows[0]) == 32
    assert rows[0] == rows[1]


def test_a_calibrated_code(pictures: Path, tmp_path: Path) -> None:
    """The run makes a calibration of the code, or takes one that was made of it and no other."""
    text = "learned:bottleneck+uniform:1+ans"
    found = run(tmp_path / "a", pictures, *AT, text)
    assert 40 < found["payload_bytes"] < 250
    write_folder(tmp_path / "calibration", CALIBRATION_SEED, 16)
    made = ("calibrate", GESTURE, "--cut", "layer2", "--images", tmp_path / "calibration", "--out")
    for file, coding in (("code.json", text), ("plain.json", "uniform:1+ans")):
        planned = ("--planned", tmp_path / f"planned-{file}", "--codec", coding)
        done = splitbed(*made, tmp_path / file, *planned)
        assert done.returncode == 0, done.stderr
    assert splitbed(*made, tmp_path / "x", "--codec", "learned:none").returncode == 2
    assert not (tmp_path / "x").exists()
    found = run(tmp_path / "b", pictures, *AT, text, "--calibration", tmp_path / "code.json")
    assert found["frames_ok"] == 30
    done = splitbed(
        *("run", GESTURE, "--images", pictures, "--out", tmp_path / "c", *AT, text),
        *("--calibration", tmp_path / "plain.json", "--certify-s", "0.6"),
    )
    assert done.returncode == 2
    assert "learned codec" in one_sentence(done.stderr)


def test_a_device_started_by_hand(pictures: Path, tmp_path: Path) -> None:
    """Over an edge that has a folder of models, as Docker's has."""
    edge = start("edge_node", *ALONE, "--models", GESTURE.parents[1])
    try:
        address = ready(edge)["address"]
        common: tuple[object, ...] = (
            *("--edge", address, "--model", "gesture", "--images", pictures, "--frames", 10),
            *("--out", tmp_path, "--cache", tmp_path / "cache"),
        )
        code, out, err = finish(start("device_node", *common, *AT, CODED))
        assert code == 0, err
        assert "10 of 10 frames" in out
        for text, words in (
            ("learned:nothing", "this edge has no learned codec 'nothing' for 'gesture'"),
            ("learned:../bottleneck", "cannot be the name of a learned codec"),
            ("learned:bottleneck+uniform:1", "is fitted to pictures where the model is"),
        ):
            code, _, err = finish(start("device_node", *common, *AT, text))
            assert code in (2, 3)
            assert words in one_sentence(err.replace("device: ", "splitbed: "))
        # Planned where the model is: the file names the pair, and a run takes it, too.
        text, file = "learned:bottleneck+uniform:0.5+ans", tmp_path / "codec.json"
        write_folder(tmp_path / "calibration", CALIBRATION_SEED, 16)
        done = splitbed(
            *("calibrate", GESTURE, "--cut", "layer2", "--images", tmp_path / "calibration"),
            *("--codec", text, "--planned", file),
        )
        assert done.returncode == 0, done.stderr
        code, out, err = finish(start("device_node", *common, *AT, f"@{file}", "--run-id", "one"))
        assert code == 0, err
        assert "10 of 10 frames" in out
        manifest = read_manifest(tmp_path / "one")
        assert manifest.codec == text
        assert manifest.head is not None
        assert manifest.head["pair"]["name"] == "bottleneck"
        found = run(tmp_path / "runs", pictures, *AT, f"@{file}")
        assert (found["codec"], found["frames_ok"]) == (text, 30)
    finally:
        assert stop(edge) == 0


def test_a_bench_beside_others(pictures: Path) -> None:
    """Bytes, losses and errors of what the decoder makes; at another cut it is left out."""
    done = splitbed(
        *("codec", "bench", GESTURE, "--images", pictures, "--count", 30, "--threads", 1, "--json"),
        *("--cut", "layer2", "--cut", "layer3", "--codec", "quantize:4+zstd:3", "--codec", CODED),
        *("--codec", "learned:bottleneck+uniform:1+ans"),
        *("--codec", "quantize:4,where=graph+zstd:3"),
        *("--codec", "learned:bottleneck+uniform:0.5+layers"),
        *("--codec", "learned:bottleneck+uniform:0.5+layers@50%"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {row["row"]["codec"]: row["row"] for row in found["cuts"][0]["rows"]}
    assert len(rows) == 6
    plain, coded = rows["quantize:4+zstd:3"], rows[CODED]
    graph = rows["quantize:4,where=graph+zstd:3"]
    assert graph["payload_bytes"] == plain["payload_bytes"]  # a bench has no graph to leave it to
    assert graph["error"] == plain["error"]
    assert coded["raw_bytes"] == plain["raw_bytes"] == 32768
    assert coded["payload_bytes"]["value"] < plain["payload_bytes"]["value"] / 5
    assert coded["bits_per_element"] < 0.3
    assert plain["error"]["nmse"] < coded["error"]["nmse"] < 1
    assert coded["order0_bits"] is None
    assert coded["score"]["agreement"]["pct"] > 90
    whole, half = (rows[f"learned:bottleneck+uniform:0.5+layers{cut}"] for cut in ("", "@50%"))
    sizes = half["payload_bytes"]["value"], whole["payload_bytes"]["value"] / 2
    assert sizes[0] == pytest.approx(sizes[1], abs=1)  # its code is cut off, and decodes
    assert whole["error"]["nmse"] < half["error"]["nmse"] < 1
    # The networks take their time.
    assert coded["encode"]["p50_ms"]["value"] > 0.05
    assert {one["cut"] for one in found["left_out"]} == {"layer3"}


def test_a_bench_without_the_pair(pictures: Path) -> None:
    done = splitbed("codec", "bench", GESTURE, "--images", pictures, "--codec", "learned:nothing")
    assert done.returncode == 2
    assert "there is no learned codec" in one_sentence(done.stderr)


def test_an_evaluation(tmp_path: Path) -> None:
    write_folder(tmp_path / "p", HELD_OUT_SEED, 60)
    pictures = read_pictures(tmp_path / "p", None)
    model = prepare_model(GESTURE)
    answers = reference(model, pictures.paths, 1, keep_outputs=False).answers
    labelled = [
        LabelledPicture(path, pictures.labels[path.name], answers[path.name])
        for path in pictures.paths
    ]
    cut = prepare_cut(model, "layer2")
    planned = plan_codec(model, cut, CODED, lambda: pictures).planned
    assert planned.digests == ()
    found = evaluate(model, cut, planned, labelled)
    assert 240 < found.payload_bytes < 280
    assert found.agreement.pct > 90


def test_the_list_documents_it() -> None:
    done = splitbed("codec", "list")
    assert "learned:NAME  (before all stages, lossy)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cut", "layer3", "--codec", CODED), "stands at the cut 'layer2', not at 'layer3'"),
        (("--cut", "@picture", "--codec", CODED), "there is no head that learned:bottleneck"),
        (("--cut", "@result", "--codec", CODED), "there is no tail that learned:bottleneck"),
        ((*AT, "learned:../bottleneck"), "cannot be the name of a learned codec"),
        ((*AT, "learned:nothing"), "put its folder, with bottleneck.toml and both networks"),
        ((*AT, "zstd+learned:bottleneck"), "can only come first"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str, pictures: Path, tmp_path: Path) -> None:
    done = splitbed("run", GESTURE, "--images", pictures, "--out", tmp_path, *arguments)
    assert done.returncode == 2
    assert words in one_sentence(done.stderr)
