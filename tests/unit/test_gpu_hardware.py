"""What `tests/gpu/check.py` does with a GPU alone, on one that is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import hardware
from tests.gpu.cases import Tail, tails
from tests.gpu.measured import Check
from tests.unit.edges import model_folder
from tests.unit.pretend_gpu import CPU, CUDA, TENSORRT, PretendGpu, pretend_gpu
from tests.unit.pretend_nvml import PretendNvml

MIB = 1 << 20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "models") / "tiny.onnx"


@pytest.fixture
def tail(model: Path) -> Tail:
    return next(tails(model))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tail: Tail) -> PretendGpu:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    return pretend_gpu(
        monkeypatch, providers=(TENSORRT, CUDA, CPU), total_bytes=5 * MIB, session_bytes=2 * MIB
    )


def test_memory(gpu: PretendGpu, model: Path, tail: Tail, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[-3:] == ["--fill", str(model), tail.cut]
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    check = Check("cuda", 1)
    hardware.memory(check, model, tail)
    assert [passed for _, passed, _ in check.found] == [True, True]
    gpu.session_bytes = MIB // 2  # an edge that does not refuse is found
    again = Check("cuda", 1)
    hardware.memory(again, model, tail)
    assert [passed for _, passed, _ in again.found] == [False, True]


def test_a_full_gpu(
    gpu: PretendGpu, model: Path, tail: Tail, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hardware.fill("cuda", model, tail.cut) == 0
    assert "OutOfMemory" in capsys.readouterr().out
    gpu.session_bytes = 0
    gpu.free_bytes = 5 * MIB
    monkeypatch_take = gpu.take

    def other(size_bytes: int, message: str) -> None:
        if size_bytes > MIB // 2:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        monkeypatch_take(size_bytes, message)

    gpu.take = other  # type: ignore[method-assign]
    assert hardware.fill("cuda", model, tail.cut) == 1
    assert "not recognised" in capsys.readouterr().out


def test_tensorrt(gpu: PretendGpu, tail: Tail, capsys: pytest.CaptureFixture[str]) -> None:
    check = Check("cuda", 1)
    hardware.tensorrt(check, tail)
    assert check.found == [("TensorRT", True, "0.0e+00")]
    assert "built in" in capsys.readouterr().out
    gpu.providers = [CUDA, CPU]
    hardware.tensorrt(check, tail)
    assert check.found[1][1] is None


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> PretendNvml:
    pretended = PretendNvml()
    pretended.step_millijoules = 1000
    monkeypatch.setitem(sys.modules, "pynvml", pretended)
    monkeypatch.setattr(hardware, "WATCHED_S", 0.01)
    return pretended


@pytest.mark.usefixtures("gpu")
def test_energy(nvml: PretendNvml, tail: Tail, capsys: pytest.CaptureFixture[str]) -> None:
    check = Check("cuda", 1)
    hardware.energy(check, tail)
    assert check.found == [("energy", True, "")]
    out = capsys.readouterr().out
    assert "NVML, A card" in out
    # Two readings of idleness, two of work.
    assert "utilisation 40 %, memory 3,000 MB, power 123 W, energy 3 J\n" in out
    assert "mJ a run over idle" in out
    assert max(map(len, out.splitlines())) <= 100
    assert nvml.up == 0


@pytest.mark.usefixtures("gpu", "nvml")
def test_a_meter_that_lacks_something_is_told(tail: Tail, monkeypatch: pytest.MonkeyPatch) -> None:
    check = Check("cuda", 1)
    for lacks in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption", "nvmlInit"):
        monkeypatch.setitem(sys.modules, "pynvml", PretendNvml(lacks=(lacks,)))
        hardware.energy(check, tail)
    (_, power, why_power), (_, energy, why_energy), (_, driver, why_driver) = check.found
    assert (power, energy, driver) == (False, None, None)
    assert why_power == "gpu0_w: Not Supported"
    assert why_energy == "Not Supported"
    assert "no NVIDIA driver answers" in why_driver
