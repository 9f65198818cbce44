"""Users' mistakes: one sentence with the way out, a fitting exit code, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from splitbed.record import FrameRecord
from splitbed.run_folder import read_rows
from tests.integration.nodes import (
    ALONE,
    GESTURE,
    finish,
    one_sentence,
    ready,
    splitbed,
    start,
    stop,
)

RUN = ("run", GESTURE, "--cut", "layer3")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "{tmp}/missing.onnx", "--cut", "x"), 2, "no model file"),
        (("run", "{tmp}/noise.onnx", "--cut", "x"), 2, "not an ONNX model"),
        (("run", "{tmp}/text.onnx", "--cut", "x"), 2, "not an ONNX model"),
        (("run", "{tmp}/strange.onnx", "--cut", "layer3"), 2, "strange.toml"),
        (("run", GESTURE, "--cut", "layer33"), 2, "layer3"),
        ((*RUN, "--codec", "qantize:4"), 2, "quantize"),
        ((*RUN, "--codec", "quantize:9"), 2, "2 to 8 bits"),
        ((*RUN, "--codec", "jpeg:90"), 3, "@picture"),
        ((*RUN, "--link", "5g-urban-makro"), 2, "5g-urban-macro"),
        ((*RUN, "--link", "rate=ten"), 2, "needs a number and a unit"),
        ((*RUN, "--link", "rate=10mbit,loss=1%"), 4, "loss"),
        ((*RUN, "--frames", "many"), 2, "whole number"),
        ((*RUN, "--load", "single", "--window", "8"), 2, "use --load closed"),
        ((*RUN, "--late", "drop"), 2, "--deadline-ms, too"),
        ((*RUN, "--cpu-quota", "1000"), 2, "limits nothing"),
        ((*RUN, "--provider", "cuda"), 3, "CUDAExecutionProvider"),
        ((*RUN, "--edge", "127.0.0.1:9"), 4, "127.0.0.1:9"),
        ((*RUN, "--edge", "127.0.0.1:9", "--backend", "kernel"), 2, "link serve --backend"),
        ((*RUN, "--edge", "127.0.0.1:9", "--backend", "relay"), 2, "link serve --backend"),
        ((*RUN, "--calibration", "{tmp}/text.onnx", "--codec", "quantize:4"), 2, "calibration"),
        ((*RUN, "--images", "{tmp}/empty"), 2, "holds no pictures"),
        ((*RUN, "--images", "{tmp}/nowhere"), 2, "not there"),
        ((*RUN, "--labels", "{tmp}/text.onnx"), 2, "line 2"),
        ((*RUN, "--out", "/dev/null/x"), 6, "/dev/null"),
        ((*RUN, "--config", "{tmp}/wrong.toml"), 2, "frmes"),
        (("run", GESTURE), 2, "--cut"),
        (("rnu",), 2, "rnu"),
        (("model",), 2, "model cuts"),
        (("report", "{tmp}/empty"), 2, "no run folder"),
        (("model", "cuts", "{tmp}/noise.onnx"), 2, "not an ONNX model"),
        (("calibrate", GESTURE, "--cut", "nope"), 2, "no cut 'nope'"),
        (("device", "--edge", "127.0.0.1:9", "--model", "m", "--cut", "c"), 5, "no edge answers"),
        (("link", "certify", "127.0.0.1:9"), 4, "no probe answers"),
    ],
)
def test_one_sentence(
    arguments: tuple[object, ...], code: int, words: str, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "text.onnx").write_text("hello\nworld\n")
    (tmp_path / "strange.onnx").write_bytes(GESTURE.read_bytes())
    (tmp_path / "wrong.toml").write_text("[run]\nfrmes = 3\n")
    (tmp_path / "empty").mkdir()
    words_of = [str(a).replace("{tmp}", str(tmp_path)) for a in arguments]
    takes_pictures = words_of[0] in ("run", "calibrate", "device")
    if takes_pictures and "--images" not in words_of:
        words_of += ["--images", str(pictures)]
    if words_of[0] == "run" and "--out" not in words_of:
        words_of += ["--out", str(tmp_path / "runs"), "--certify-s", "0.3"]
    if words_of[0] == "device":
        words_of += ["--connect-s", "1"]
    done = splitbed(*words_of)
    assert done.returncode == code, done.stderr
    assert words in one_sentence(done.stderr)


def test_another_model_of_the_same_name(pictures: Path, tmp_path: Path) -> None:
    edge = start("edge_node", "--models", GESTURE, *ALONE)
    relay = start(
        "netem",
        *("relay", "--target", ready(edge)["address"], "--listen", "127.0.0.1:0"),
        *("--profile", "rate=100mbit,delay=0ms"),
    )
    mine = tmp_path / "gesture.onnx"
    content = bytearray(GESTURE.read_bytes())
    mine.write_bytes(
        bytes(content) + b"\x18\x00" * 0 + b"\x2a\x00"
    )  # an empty domain: same network
    try:
        done = splitbed(
            *("run", mine, "--cut", "layer3", "--images", pictures, "--frames", 3),
            *("--edge", ready(relay)["address"], "--out", tmp_path / "runs"),
            *("--link", "rate=100mbit,delay=0ms", "--certify-s", "0.3"),
        )
    finally:
        stop(relay)
        stop(edge)
    assert done.returncode == 7
    assert "another model named 'gesture'" in one_sentence(done.stderr)


def test_a_full_disk_keeps_what_was_measured(pictures: Path, tmp_path: Path) -> None:
    """The real ENOSPC of /dev/full, in the place of the rows."""
    edge = start("edge_node", "--models", GESTURE, *ALONE)
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "device.frames.jsonl").symlink_to("/dev/full")
    try:
        device = start(
            "device_node",
            *("--edge", ready(edge)["address"], "--model", "gesture", "--cut", "layer3"),
            *("--images", pictures, "--out", tmp_path, "--run-id", "full"),
            *("--cache", tmp_path / "cache", "--orchestrated"),
        )
        code, _, err = finish(device)
    finally:
        stop(edge)
    assert code == 6
    assert "no space left" in one_sentence(err)


def test_a_small_disk_keeps_whole_rows(pictures: Path, tmp_path: Path) -> None:
    """Files limited to 8 kB in the middle of a run: what fits is whole, and counted."""
    edge = start("edge_node", "--models", GESTURE, *ALONE)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192));"
        "from device_node.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    cache = tmp_path / "cache"
    common = (
        *("--edge", ready(edge)["address"], "--model", "gesture", "--cut", "@input"),
        *("--images", pictures, "--out", tmp_path, "--run-id", "small", "--cache", cache),
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, common), "--orchestrated"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        stop(edge)
    assert done.returncode == 6, done.stderr
    sentence = one_sentence(done.stderr)
    rows = list(read_rows(tmp_path / "small" / "device.frames.jsonl", FrameRecord))
    assert len(rows) > 5
    assert f"{len(rows)} rows are safe" in sentence
