"""`splitbed codec bench` on the embedded model: figures that belong together, and nothing seen."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import experiments.codec_bench
from experiments.bench_report import ANCHOR_CODECS
from experiments.bench_rows import Samples
from experiments.codec_bench import Bench, Measured
from experiments.codec_planning import plan_codec
from experiments.commands import codec_bench
from experiments.evaluation import LabelledPicture, evaluate
from experiments.pictures import PictureSet, read_pictures
from experiments.preparation import calibration_of, prepare_cut, prepare_model, reference
from splitbed.codec import Calibration
from splitbed.tensor import Array
from tests.integration.nodes import GESTURE, one_sentence, splitbed

FEW = ("--count", 20, "--threads", 1)
CUT = "layer3.0"


def measured(*arguments: object) -> dict[str, Any]:
    done = splitbed("codec", "bench", GESTURE, *FEW, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_two_codecs_at_the_cuts_of_the_rule(pictures: Path, tmp_path: Path) -> None:
    plot = tmp_path / "bench.svg"
    codecs = ("--codec", "raw", "--codec", "quantize:4+zstd:3", "--codec", "tiles:jpeg:80")
    found = measured("--images", pictures, *codecs, "--plot", plot)
    assert (found["pictures"], found["labelled"], found["folds"]) == (20, 20, 3)
    assert found["calibration_pictures"] == [13, 14]
    assert found["complete"] is True
    assert [row["codec"] for row in found["anchors"]] == list(ANCHOR_CODECS)
    assert len(found["cuts"]) == 3
    for cut in found["cuts"]:
        assert {reason["share_pct"] for reason in cut["taken_for"]} <= {25, 50, 75}
        rows = {one["row"]["codec"]: one["row"] for one in cut["rows"]}
        raw, coded = rows["raw"], rows["quantize:4+zstd:3"]
        assert raw["payload_bytes"]["value"] == raw["raw_bytes"] == 4 * raw["elements"]
        assert (raw["error"]["mse"], raw["break_even"]["pays"]) == (0, "never")
        assert raw["score"]["agreement"]["successes"] == 20
        assert raw["score"]["loss"]["became_wrong"] == 0
        assert coded["factor"] > 8
        assert 0 < coded["error"]["nmse"] < 0.2
        saved, own_ms = coded["raw_bytes"] - coded["payload_bytes"]["value"], coded["coding_ms"]
        assert coded["break_even"]["rate_bps"] == pytest.approx(8e3 * saved / own_ms)
        assert rows["tiles:jpeg:80"]["session_bytes"] is None
        assert rows["tiles:jpeg:80"]["order0_bits"] is None
        assert 0.3 < coded["order0_channel_bits"] <= coded["order0_bits"] < 4
        # zstd sees more than one symbol at a time, but its tables cost it something.
        assert coded["bits_per_element"] > 0.5 * coded["order0_channel_bits"]
        assert coded["session_bytes"] > 50
    content = plot.read_text()
    for word in ("the picture as JPEG", "quantize+zstd", "tiles:jpeg", CUT):
        assert word in content


def test_the_table_fits_80_columns_and_names_the_picture(pictures: Path) -> None:
    found = splitbed(
        *("codec", "bench", GESTURE, *FEW, "--images", pictures, "--cut", CUT),
        *("--codec", "cast", "--codec", "quantize:bits=4,clip=p99.9+zstd:19"),
    )
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert CUT in lines
    text = " ".join(found.stdout.split())
    assert "loses no more" in text
    assert "quantize:bits=4,clip=p99.9+zstd:19 " in text
    heading = next(line for line in lines if line.startswith("codec") and "JPEG" in line)
    assert heading.split()[1:4] == ["bytes", "bit/el", "times"]


def test_a_payload_cut_off_is_smaller_and_farther(pictures: Path, tmp_path: Path) -> None:
    text, plot = "uniform:0.3+layers", tmp_path / "bench.svg"
    shares = (75, 50, 25, 0)
    codecs = [text, *(f"{text}@{share}%" for share in shares)]
    found = measured(
        *("--images", pictures, "--cut", CUT, "--plot", plot),
        *(word for one in codecs for word in ("--codec", one)),
    )
    rows = {one["row"]["codec"]: one["row"] for one in found["cuts"][0]["rows"]}
    assert set(rows) == set(codecs)
    whole = rows[text]["payload_bytes"]["value"]
    for share in shares:
        cut_off = rows[f"{text}@{share}%"]
        assert cut_off["payload_bytes"]["value"] == pytest.approx(whole * share / 100, abs=1)
        assert cut_off["session_bytes"] == rows[text]["session_bytes"]
    errors = [rows[codec]["error"]["mse"] for codec in codecs]
    assert errors == sorted(errors)
    assert errors[0] < errors[1] / 2
    assert "@" not in str(found["cuts"][0]["smallest"])
    assert "@" not in plot.read_text()  # one line


def test_csv_has_a_line_for_every_row(pictures: Path) -> None:
    done = splitbed(
        *("codec", "bench", GESTURE, *FEW, "--images", pictures, "--cut", CUT),
        *("--codec", "cast", "--csv"),
    )
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["codec"] for row in rows] == ["cast", *ANCHOR_CODECS]
    assert float(rows[0]["bits_per_element"]) == 16
    assert float(rows[0]["at_equal_loss_factor"]) > 0


def test_without_labels_answers_are_compared_alone(pictures: Path, tmp_path: Path) -> None:
    for path in list(read_pictures(pictures, None).paths)[:12]:
        shutil.copy(path, tmp_path)
    arguments = (
        "--images",
        tmp_path,
        "--cut",
        CUT,
        "--codec",
        "cast",
        "--plot",
        tmp_path / "a.svg",
    )
    found = measured(*arguments)
    (one,) = found["cuts"][0]["rows"]
    assert found["labelled"] == 0
    assert one["row"]["score"]["loss"] is None
    assert one["row"]["score"]["accuracy"] is None
    assert one["at_equal_loss"] is None
    assert one["at_equal_agreement"]["factor"] > 0
    assert "answers changed" in (tmp_path / "a.svg").read_text()
    text = splitbed("codec", "bench", GESTURE, *arguments).stdout
    assert "agrees in 98 %" in text
    assert "loses at most" not in text


@pytest.fixture
def bench(pictures: Path) -> Bench:
    return Bench(prepare_model(GESTURE), read_pictures(pictures, None), 3, 7, 1)


def test_no_calibration_sees_what_it_is_evaluated_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[Path]] = []

    def spied(
        model: Any, cut: Any, paths: Sequence[Path], boundaries: Any, tail: Any
    ) -> Calibration:
        arrays = list(boundaries)
        assert len(arrays) == len(paths)
        seen.append(set(paths))
        return calibration_of(model, cut, paths, arrays)

    monkeypatch.setattr(experiments.codec_bench, "calibration_of", spied)
    (one,) = bench.measure(CUT, ["quantize:4"])
    assert isinstance(one, Measured)
    assert one.row.pictures == 60
    assert len(seen) == 3
    for fold, calibration in zip(bench.folds, seen, strict=True):
        assert not calibration & set(fold)
        assert calibration | set(fold) == set(bench.pictures)


def test_the_figures_are_those_of_an_evaluation(bench: Bench, pictures: Path) -> None:
    """A codec without calibration must give what `evaluate` gives, picture by picture."""
    model = prepare_model(GESTURE)
    uncut = reference(model, bench.pictures, 1, keep_outputs=False)
    labels = read_pictures(pictures, None).labels
    labelled = [
        LabelledPicture(path, labels[path.name], uncut.answers[path.name])
        for path in bench.pictures
    ]
    text = "quantize:bits=2,low=0,high=6+zstd:3"
    cut = prepare_cut(model, CUT)
    planned = plan_codec(model, cut, text, lambda: PictureSet((), {})).planned
    wanted = evaluate(model, cut, planned, labelled)
    (one,) = bench.measure(CUT, [text])
    assert isinstance(one, Measured)
    score = one.row.score
    assert (score.agreement, score.accuracy) == (wanted.agreement, wanted.accuracy)
    assert score.loss == wanted.loss
    assert one.row.payload_bytes.value == wanted.payload_bytes
    assert score.agreement.successes < score.agreement.count  # 2 bits do change answers here


def test_ctrl_c_keeps_what_is_measured(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coded = Samples.add
    calls = 0

    def interrupted(samples: Samples, *arguments: Any) -> dict[str, Array]:
        nonlocal calls
        calls += samples.codec == "cast"
        if calls == 25:  # within the second cut
            raise KeyboardInterrupt
        return coded(samples, *arguments)

    monkeypatch.setattr(Samples, "add", interrupted)
    arguments = ["--images", str(pictures), "--codec", "raw", "--codec", "cast", "--json"]
    assert codec_bench.main([str(GESTURE), *map(str, FEW), *arguments]) == 130
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] is False
    assert [len(cut["rows"]) for cut in found["cuts"]] == [2, 1]
    assert "interrupted: 17 of 20 rows were measured" in found["notes"]


def test_a_codec_that_cannot_code_a_cut_is_left_out_with_its_reason(pictures: Path) -> None:
    found = measured("--images", pictures, "--cut", CUT, "--codec", "jpeg:80", "--codec", "cast")
    assert [one["row"]["codec"] for one in found["cuts"][0]["rows"]] == ["cast"]
    (left,) = found["left_out"]
    assert (left["cut"], left["codec"]) == (CUT, "jpeg:80")
    assert "codes pictures" in left["why"]


def test_a_cut_of_several_tensors(pictures: Path) -> None:
    model = prepare_model(GESTURE)
    name = next(p.name for p in model.points if p.cut is not None and len(p.cut.boundary) > 1)
    found = measured("--images", pictures, "--cut", name, "--codec", "quantize:8+zstd")
    (cut,) = found["cuts"]
    assert len(cut["boundary"]) > 1
    elements = sum(int(np.prod(spec["shape"])) for spec in cut["boundary"])
    assert cut["rows"][0]["row"]["elements"] == elements
    assert cut["rows"][0]["row"]["error"]["nmse"] < 3e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--codec", "quantise:4"), "did you mean 'quantize'"),
        (("--codec", "tiles:gif"), "tiles are coded as one of"),
        (("--codec", "uniform:1+ans@50%"), "only a payload of layers decodes when it is cut off"),
        (("--codec", "uniform:1+layers@101%"), "keeps 0 to 100 % of a payload, not 101"),
        (("--cut", "nowhere"), "has no cut 'nowhere'"),
        (("--cut", "@picture"), "there are no features to code"),
        (("--plot", "bench.txt"), "ends with one of .svg"),
        (("--json", "--csv"), "not both"),
        (("--folds", 21), "20 pictures are too few for 21 folds"),
        (("--folds", 1), "--folds 1"),
        (("--images", "absent"), "absent is not there"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_mistakes_are_told_before_anything_is_measured(
    arguments: tuple[object, ...], words: str, pictures: Path
) -> None:
    images = () if "--images" in arguments else ("--images", pictures)
    done = splitbed("codec", "bench", GESTURE, *FEW, *images, *arguments)
    assert done.returncode == 2
    assert words in one_sentence(done.stderr)
    assert not done.stdout


def test_a_label_that_the_model_cannot_answer(pictures: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.tsv"
    first = read_pictures(pictures, None).paths[0]
    labels.write_text(f"{first.name}\t99\n")
    done = splitbed("codec", "bench", GESTURE, *FEW, "--images", pictures, "--labels", labels)
    assert done.returncode == 2
    assert "class 99" in one_sentence(done.stderr)


def test_help_teaches() -> None:
    text = splitbed("codec", "bench", "--help").stdout
    assert "usage: splitbed codec bench" in text
    assert "tiles:hevc:30" in text
    assert max(map(len, text.splitlines())) <= 80
