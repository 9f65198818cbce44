"""The device as an arm64 program against this machine's edge: the same answers.

SPLITBED_ARM64 is a command that runs its arguments as a program of linux/arm64, in the current
directory, which must be visible there, and on this machine's loopback:

    SPLITBED_ARM64='chroot ROOT ...' SPLITBED_ARM64_PYTHON=/opt/splitbed/bin/python \\
        pytest tests/arm64

SPLITBED_ARM64_PYTHON is a Python there (python3 by itself) with `splitbed[device]` of this
checkout. An emulator (qemu-user) will do; `emulated.sh` says what ONNX Runtime needs in one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from device_node.source import list_pictures
from experiments.gestures import HELD_OUT_SEED, write_folder
from experiments.preparation import prepare_model, reference, write_reference
from splitbed.record import FrameRecord, RunManifest
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from tests.integration.nodes import ALONE, GESTURE, ready, splitbed, start, stop

ROOT = Path(__file__).resolve().parents[2]
COMMAND = os.environ.get("SPLITBED_ARM64", "")
PYTHON = os.environ.get("SPLITBED_ARM64_PYTHON", "python3")
FRAMES = 6
TOLERANCE = 1e-4
WITHIN_S = 240

pytestmark = [
    pytest.mark.arm64,
    pytest.mark.skipif(
        not COMMAND, reason="SPLITBED_ARM64 names no command that runs arm64 programs"
    ),
]

FACTS = """
import hashlib, json, platform, pathlib
import device_node, splitbed
from splitbed.codec.entropy import implementation
sources = hashlib.sha256()
for room in (splitbed, device_node):
    folder = pathlib.Path(room.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        if "_models" not in path.parts:
            sources.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
facts = {"machine": platform.machine(), "sources": sources.hexdigest(), "coder": implementation()}
print(json.dumps(facts))
"""


class Run(NamedTuple):
    """What one device left."""

    rows: list[FrameRecord]
    manifest: RunManifest


class Bench:
    """An edge of this machine, pictures, and the two devices in turn."""

    def __init__(self, folder: Path, models: Sequence[Path]) -> None:
        self.folder = folder
        (folder / "models").mkdir()
        for model in models:
            shutil.copy(model, folder / "models")
        self._edge = start("edge_node", *ALONE, "--models", folder / "models")
        self._address = ready(self._edge)["address"]

    def both(self, name: str, model: str, cut: str, codec: str, pictures: Path) -> tuple[Run, Run]:
        """The same frames through an arm64 device and through one of this machine."""
        uncut = self.folder / f"{model}.npz"
        if not uncut.exists():
            prepared = prepare_model(self.folder / "models" / f"{model}.onnx")
            outputs = reference(prepared, list_pictures(pictures, None), 1, True).outputs
            write_reference(uncut, outputs)
        here = self._run([sys.executable], "here", name, model, cut, codec, pictures)
        there = self._run(arm64(PYTHON), "there", name, model, cut, codec, pictures)
        assert there.manifest.host["machine"] == "aarch64"
        assert here.manifest.model_digest == there.manifest.model_digest
        assert [row.source for row in here.rows] == [row.source for row in there.rows]
        assert all(row.status == "ok" for row in (*here.rows, *there.rows))
        return here, there

    def _run(
        self,
        python: list[str],
        where: str,
        name: str,
        model: str,
        cut: str,
        codec: str,
        pictures: Path,
    ) -> Run:
        command = [
            *(*python, "-m", "device_node", "--edge", self._address, "--model", model),
            *("--cut", cut, "--codec", codec, "--reply", "full", "--images", str(pictures)),
            *("--frames", str(FRAMES), "--warmup", "1", "--timeout-s", "60"),
            *("--reference", f"{model}.npz", "--out", where, "--run-id", name),
            *("--cache", f"cache-{where}", "--connect-s", "20"),
        ]
        done = called(command, self.folder)
        assert done.returncode == 0, done.stderr
        found = RunFolder(self.folder / where / name)
        rows = list(read_rows(found.frames("device"), FrameRecord))
        assert len(rows) == FRAMES + 1
        return Run(rows, read_manifest(found.folder))

    def close(self) -> None:
        stop(self._edge)


def arm64(*arguments: str) -> list[str]:
    return [*shlex.split(COMMAND), *arguments]


def called(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run to the end; what takes too long is told to end with all that it started."""
    child = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a wrapper may have mounts to take away: it must hear of the end
    )
    try:
        out, err = child.communicate(timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGTERM)
        out, err = child.communicate(timeout=20)
        pytest.fail(f"no end of {shlex.join(command)} within {WITHIN_S} s: {err}")
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def photos() -> Path | None:
    """Third-party models and photos, where they are."""
    data = Path(os.environ.get("SPLITBED_DATA", ROOT.parent / "shared" / "data"))
    return data if (data / "models").is_dir() else None


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    data = photos()
    real = [] if data is None else [data / "models" / "mobilenet_v1_0.25_128.onnx"]
    made = Bench(tmp_path_factory.mktemp("arm64"), [GESTURE, *real])
    yield made
    made.close()


@pytest.fixture(scope="module")
def pictures(bench: Bench) -> Path:
    folder = bench.folder / "pictures"
    write_folder(folder, HELD_OUT_SEED, FRAMES)
    return folder


def disagreement(run: Run) -> float:
    """The largest difference of any output from the uncut model's on this machine."""
    return max(float((row.result or {})["agreement"]["max_abs"]) for row in run.rows)


def test_it_is_this_checkout_on_arm64(bench: Bench) -> None:
    """Else all that follows would be about something else."""
    there = called(arm64(PYTHON, "-c", FACTS), bench.folder)
    assert there.returncode == 0, there.stderr
    here = called([sys.executable, "-c", FACTS], ROOT)
    facts, wanted = json.loads(there.stdout), json.loads(here.stdout)
    assert facts["machine"] == "aarch64"
    assert facts["sources"] == wanted["sources"], "install this checkout there again"


def test_raw_outputs_are_the_same(bench: Bench, pictures: Path) -> None:
    here, there = bench.both("raw", "gesture", "layer3", "raw", pictures)
    assert disagreement(here) < TOLERANCE
    assert 0 <= disagreement(there) < TOLERANCE
    assert [row.payload_bytes for row in here.rows] == [row.payload_bytes for row in there.rows]


def test_coded_answers_are_the_same(bench: Bench, pictures: Path) -> None:
    """A lossy codec with the entropy coder: equal symbols make equal payloads.

    A value on the edge between two symbols may fall to either side, as a convolution rounds; one
    frame in which that happened is allowed.
    """
    done = splitbed(
        *("calibrate", GESTURE, "--cut", "layer2", "--images", pictures),
        *("--codec", "uniform:0.6+ans", "--planned", bench.folder / "codec.json"),
        *("--out", bench.folder / "calibration.json"),
    )
    assert done.returncode == 0, done.stderr
    here, there = bench.both("coded", "gesture", "layer2", "@codec.json", pictures)
    other = 0
    for one, two in zip(here.rows, there.rows, strict=True):
        assert one.result is not None
        assert two.result is not None
        assert one.payload_bytes == pytest.approx(two.payload_bytes, rel=0.01)
        assert one.result["label"] == two.result["label"]
        apart = abs(one.result["score"] - two.result["score"])
        other += apart > TOLERANCE or one.payload_bytes != two.payload_bytes
    assert other <= 1
    assert disagreement(here) > 10 * TOLERANCE  # it is lossy, and was in the way


@pytest.mark.real
def test_a_whole_real_model_gives_the_same(bench: Bench) -> None:
    """All of it runs there, on photos."""
    data = photos()
    if data is None:
        pytest.skip("no models and photos: set SPLITBED_DATA to where they are")
    folder = bench.folder / "photos"
    folder.mkdir()
    for photo in sorted((data / "images" / "imagenet").glob("*.JPEG"))[:FRAMES]:
        shutil.copy(photo, folder)
    here, there = bench.both("real", "mobilenet_v1_0.25_128", "@result", "raw", folder)
    assert disagreement(here) < TOLERANCE
    assert 0 < disagreement(there) < TOLERANCE  # another processor rounds otherwise
    labels = [[row.result["label"] for row in run.rows if row.result] for run in (here, there)]
    assert labels[0] == labels[1]
