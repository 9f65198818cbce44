"""Boxes, key points and tensors as answers: in sessions of three processes, and in the bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.pictures import read_pictures
from experiments.preparation import prepare_model, reference
from splitbed.record import FrameRecord
from splitbed.run_folder import RunFolder, read_rows
from tests.answering import detector, pose, upscaler
from tests.integration.nodes import certified, one_sentence, splitbed


@pytest.fixture(scope="module")
def labels(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes for the rendered pictures, drawn by a seed."""
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(5)
    for path in read_pictures(pictures, None).paths:
        rows = [
            f"{rng.integers(0, 3)} {x:.3f} {y:.3f} 0.6 0.6"
            for x, y in rng.uniform(0.3, 0.7, (2, 2))
        ]
        (folder / f"{path.stem}.txt").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize(
    ("made", "kind", "cut", "codec", "reply"),
    [
        (detector, "boxes", "r1", "raw", "result"),
        (detector, "boxes", "@result", "raw", "auto"),
        (detector, "boxes", "b_scores", "cast", "full"),
        (detector, "boxes", "@picture", "png", "result"),
        (pose, "key_points", "r1", "raw", "result"),
        (pose, "key_points", "@result", "raw", "result"),
        (pose, "key_points", "r0", "raw", "auto"),
        (upscaler, "outputs", "r0", "raw", "auto"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_sessions_answer_with_what_the_uncut_model_says(
    pictures: Path,
    tmp_path: Path,
    made: Callable[[Path], Path],
    kind: str,
    cut: str,
    codec: str,
    reply: str,
) -> None:
    path = made(tmp_path)
    done = certified(
        *("run", path, "--cut", cut, "--codec", codec, "--reply", reply, "--images", pictures),
        *("--frames", 6, "--out", tmp_path / "runs", "--certify-s", 0.6, "--json"),
        *("--link", "rate=100mbit,delay=2ms"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["frames_ok"] == 6
    model = prepare_model(path)
    rows = list(read_rows(RunFolder(Path(found["folder"])).frames("device"), FrameRecord))
    paths = {one.name: one for one in read_pictures(pictures, None).paths}
    wanted = reference(model, [paths[row.source] for row in rows], 1, keep_outputs=False).answers
    for row in rows:
        assert row.result is not None
        got, right = row.result[kind], wanted[row.source][kind]
        assert got
        assert len(got) == len(right)
        if codec != "cast" and kind != "outputs":
            np.testing.assert_allclose(got, right, atol=1e-4)
    if kind != "outputs":
        assert found["agreement"]["successes"] == found["agreement"]["count"]
    if reply == "full" or (reply == "auto" and cut != "@picture"):
        assert found["max_difference"] < 0.05
    if reply == "result" and cut != "@result":
        assert found["max_difference"] is None


def bench(path: Path, *arguments: object) -> dict[str, Any]:
    done = splitbed("codec", "bench", path, "--count", 12, "--threads", 1, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_bench_measures_precision_at_cuts_of_several_tensors(
    pictures: Path, labels: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "bench.svg"
    codecs = ("--codec", "raw", "--codec", "quantize:8+zstd:3", "--codec", "quantize:2+zstd:3")
    arguments = ("--images", pictures, "--labels", labels, *codecs)
    found = bench(detector(tmp_path), *arguments, "--plot", plot)
    assert (found["labelled"], found["terms"]["kind"]) == (12, "boxes")
    assert found["cuts"]
    for cut in found["cuts"]:
        assert len(cut["boundary"]) > 1
        assert {reason["kind"] for reason in cut["taken_for"]} == {"several tensors"}
        scores = {one["row"]["codec"]: one["row"]["score"] for one in cut["rows"]}
        raw, coarse = scores["raw"], scores["quantize:2+zstd:3"]
        assert (raw["loss"]["points"], raw["agreement"]["pct"]) == (0, 100)
        assert raw["ap50"]["pct"] >= raw["accuracy"]["pct"] > 0
        assert coarse["agreement"]["pct"] < scores["quantize:8+zstd:3"]["agreement"]["pct"]
        assert cut["smallest_same"] is not None
    assert "points of AP 50:95 lost" in plot.read_text()
    lossless = [row for row in found["anchors"] if row["codec"] in ("png", "raw")]
    assert all(row["score"]["loss"]["points"] == 0 for row in lossless)


@pytest.mark.parametrize(
    ("made", "heading", "verdict"),
    [
        (detector, ["AP", "AP", "50", "loss", "as", "uncut"], "of the boxes as uncut"),
        (pose, ["within", "%", "median", "largest", "all"], "all of them within 0.01:"),
        (upscaler, ["PSNR", "dB", "nMSE", "40", "dB"], "98 % of the pictures at 40 dB"),
    ],
    ids=["boxes", "key points", "outputs"],
)
def test_the_page_speaks_of_the_task_in_80_columns(
    pictures: Path,
    tmp_path: Path,
    made: Callable[[Path], Path],
    heading: list[str],
    verdict: str,
) -> None:
    path = made(tmp_path)
    arguments = ("--images", pictures, "--count", 12, "--cut", "r1", "--codec", "quantize:6+zstd:3")
    done = splitbed("codec", "bench", path, *arguments, "--plot", tmp_path / "a.svg")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    line = next(line for line in lines if line.startswith("codec") and "JPEG" in line)
    assert line.split()[4 : 4 + len(heading)] == heading
    assert verdict in " ".join(done.stdout.split())
    done = splitbed("codec", "bench", path, *arguments, "--csv")
    assert done.stdout.splitlines()[0].count("score_agreement_pct") == 1


@pytest.mark.parametrize(
    ("made", "labels_given", "words"),
    [
        (pose, ".", "uncut model alone: leave it out"),
        (detector, "absent", "absent are not there: give a folder of YOLO"),
        (detector, ".", "know none of the 60 pictures"),
    ],
)
def test_labels_that_do_not_fit(
    pictures: Path, tmp_path: Path, made: Callable[[Path], Path], labels_given: str, words: str
) -> None:
    path = made(tmp_path)
    labels = tmp_path / labels_given
    done = splitbed("codec", "bench", path, "--images", pictures, "--labels", labels)
    assert done.returncode == 2
    assert words in one_sentence(done.stderr)
