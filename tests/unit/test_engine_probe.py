"""ONNX Runtime is tried by a child where builds have been seen to crash, and the crash is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from experiments.gestures import HELD_OUT_SEED, write_folder
from splitbed import engine_probe
from splitbed.engine import Engine
from splitbed.engine_probe import WHEN, ensure_usable
from splitbed.errors import EngineError, UsageError
from splitbed.processor import Processor
from tests.integration.nodes import ALONE, ready, start, stop

BOARD = Processor("Raspberry Pi 4 Model B Rev 1.1 (Cortex-A72)", "fp asimd evtstrm crc32 cpuid")
COUNTED = "import os\nopen(os.environ['TRIES'], 'a').write('x')\n"
DIES = COUNTED + "import signal\nos.kill(os.getpid(), signal.{})\n"
DIES_LATER = (
    COUNTED + "import signal\n"
    "class SessionOptions: pass\n"
    "def InferenceSession(*_, **__): os.kill(os.getpid(), signal.SIGBUS)\n"
)
WORKS = (
    COUNTED + "class SessionOptions: pass\n"
    "class InferenceSession:\n"
    "    def __init__(self, *_, **__): pass\n"
    "    def run(self, *_): return []\n"
)
UNABLE = COUNTED + "raise ImportError('libstdc++.so.6: version GLIBCXX_3.4.29 not found')\n"


class Installed:
    """An onnxruntime of ours in the place of the real one, for us and for children."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "site" / "onnxruntime" / "__init__.py"
        self.cache = folder / "cache"
        self._tries = folder / "tries"
        self.file.parent.mkdir(parents=True)
        (folder / "empty").mkdir()
        monkeypatch.setenv("PYTHONPATH", f"{folder / 'site'}{os.pathsep}{os.environ['PYTHONPATH']}")
        monkeypatch.setenv("TRIES", str(self._tries))
        # The real one, where another test has imported it already, would be found instead.
        monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
        monkeypatch.syspath_prepend(str(folder / "site"))
        monkeypatch.setattr(engine_probe, "processor", lambda: BOARD)
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        monkeypatch.delenv(WHEN, raising=False)

    def be(self, code: str) -> None:
        self.file.write_text(code)

    def tries(self) -> int:
        return len(self._tries.read_text()) if self._tries.exists() else 0


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    return Installed(tmp_path, monkeypatch)


def test_what_works_is_tried_once_for_each_machine_and_build(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.be(WORKS)
    for _ in range(3):
        ensure_usable(installed.cache)
    assert installed.tries() == 1
    monkeypatch.setattr(engine_probe, "processor", lambda: Processor("another", ""))
    ensure_usable(installed.cache)  # a memory card that moved to another board
    assert installed.tries() == 2
    os.utime(installed.file, (1, 1))  # another build of the same version
    ensure_usable(installed.cache)
    assert installed.tries() == 3


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV"])
def test_a_crash_at_import_is_one_sentence(installed: Installed, name: str) -> None:
    installed.be(DIES.format(name))
    for tries in (1, 2):  # a failure is not remembered: somebody may have mended it
        with pytest.raises(EngineError) as caught:
            ensure_usable(installed.cache)
        assert installed.tries() == tries
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert f"ends with {name} (" in sentence
    assert f"is imported, on {BOARD.name}, with the features fp asimd evtstrm" in sentence
    assert "install another version" in sentence
    installed.be(WORKS)
    ensure_usable(installed.cache)


def test_a_crash_in_a_run_is_told_apart(installed: Installed) -> None:
    installed.be(DIES_LATER)
    with pytest.raises(EngineError, match=r"ends with SIGBUS \(bus error\) when it runs a model"):
        ensure_usable(installed.cache)


def test_what_raises_is_left_to_the_engine(installed: Installed) -> None:
    installed.be(UNABLE)
    for tries in (1, 2):  # and not remembered as well
        ensure_usable(installed.cache)
        assert installed.tries() == tries


def test_a_cache_that_cannot_be_written_refuses_nothing(installed: Installed) -> None:
    installed.be(WORKS)
    installed.cache.write_text("a file where a folder should be")
    ensure_usable(installed.cache)
    assert installed.tries() == 1


@pytest.mark.parametrize(
    ("machine", "system", "when", "tries"),
    [
        ("x86_64", "linux", "auto", 0),
        ("x86_64", "linux", "always", 1),
        ("arm64", "darwin", "auto", 0),
        ("armv7l", "linux", "auto", 1),
        ("aarch64", "android", "auto", 1),
        ("aarch64", "linux", "never", 0),
    ],
)
def test_where_it_is_tried(
    installed: Installed,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    system: str,
    when: str,
    tries: int,
) -> None:
    installed.be(WORKS)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setenv(WHEN, when)
    ensure_usable(installed.cache)
    assert installed.tries() == tries
    monkeypatch.setenv(WHEN, "sometimes")
    with pytest.raises(UsageError, match="auto, always or never"):
        ensure_usable(installed.cache)


def test_the_trial_model_has_what_it_says() -> None:
    model = onnx.load_model_from_string(engine_probe._TRIAL_MODEL)
    onnx.checker.check_model(model, full_check=True)
    kernels = {node.op_type for node in model.graph.node}
    assert {"Conv", "Sigmoid", "MatMul", "Softmax", "MatMulInteger"} <= kernels
    engine = Engine(engine_probe._TRIAL_MODEL, provider="cpu")
    (found,) = engine.run({"x": np.zeros((1, 16, 16, 16), np.float32)})
    assert np.all(found == 16 * 255 * 2)  # softmax of equals, quantised, times ones


def test_the_real_one_comes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WHEN, "always")
    ensure_usable(tmp_path)
    (kept,) = (tmp_path / "engine-probe").iterdir()
    assert kept.read_text().startswith("works on ")


@pytest.mark.parametrize(
    ("code", "words"),
    [(DIES.format("SIGILL"), "ends with SIGILL (illegal"), (UNABLE, "GLIBCXX_3.4.29 not found")],
)
def test_a_node_ends_with_a_sentence_and_no_crash(
    installed: Installed, code: str, words: str
) -> None:
    installed.be(code)
    command = (sys.executable, "-m", "edge_node", "--listen", "127.0.0.1:0", "--status", "")
    done = subprocess.run(
        [*command, "--provider", "cpu", "--records", ""],
        capture_output=True,
        text=True,
        env={**os.environ, WHEN: "always"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, json.dumps([done.returncode, done.stderr])
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_device_whose_head_would_crash_says_so_and_one_without_a_head_runs(
    installed: Installed, tmp_path: Path
) -> None:
    write_folder(tmp_path / "pictures", HELD_OUT_SEED, 2)
    edge = start("edge_node", *ALONE, "--provider", "cpu")
    try:
        address = ready(edge)["address"]
        installed.be(DIES.format("SIGILL"))
        done = {}
        for cut in ("layer3", "@picture"):
            done[cut] = subprocess.run(
                [
                    *(sys.executable, "-m", "device_node", "--edge", address, "--cut", cut),
                    *("--model", "gesture", "--images", tmp_path / "pictures", "--warmup", "0"),
                    *("--out", tmp_path / "runs", "--cache", installed.cache),
                ],
                capture_output=True,
                text=True,
                env={**os.environ, WHEN: "always"},
                timeout=60,
                check=False,
            )
    finally:
        stop(edge)
    assert done["layer3"].returncode == 3, done["layer3"].stderr
    assert done["layer3"].stderr.startswith("device: onnxruntime ")
    assert "ends with SIGILL" in done["layer3"].stderr
    assert done["@picture"].returncode == 0, done["@picture"].stderr
    assert installed.tries() == 1
