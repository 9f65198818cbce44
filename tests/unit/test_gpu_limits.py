"""What `tests/gpu/check.py` does with a GPU alone, on one that is not there."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.gpu import limits
from tests.gpu.cases import Tail, tails
from tests.gpu.measured import Check
from tests.unit.edges import model_folder
from tests.unit.pretend_gpu import CPU, CUDA, TENSORRT, PretendGpu, pretend_gpu

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
    limits.memory(check, model, tail)
    assert [passed for _, passed, _ in check.found] == [True, True]
    gpu.session_bytes = MIB // 2  # an edge that does not refuse is found
    again = Check("cuda", 1)
    limits.memory(again, model, tail)
    assert [passed for _, passed, _ in again.found] == [False, True]


def test_a_full_gpu(
    gpu: PretendGpu, model: Path, tail: Tail, capsys: pytest.CaptureFixture[str]
) -> None:
    assert limits.fill("cuda", model, tail.cut) == 0
    assert "OutOfMemory" in capsys.readouterr().out
    gpu.session_bytes = 0
    gpu.free_bytes = 5 * MIB
    monkeypatch_take = gpu.take

    def other(size_bytes: int, message: str) -> None:
        if size_bytes > MIB // 2:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        monkeypatch_take(size_bytes, message)

    gpu.take = other  # type: ignore[method-assign]
    assert limits.fill("cuda", model, tail.cut) == 1
    assert "not recognised" in capsys.readouterr().out


def test_tensorrt(gpu: PretendGpu, tail: Tail, capsys: pytest.CaptureFixture[str]) -> None:
    check = Check("cuda", 1)
    limits.tensorrt(check, tail)
    assert check.found == [("TensorRT", True, "0.0e+00")]
    assert "built in" in capsys.readouterr().out
    gpu.providers = [CUDA, CPU]
    limits.tensorrt(check, tail)
    assert check.found[1][1] is None


def test_energy(
    gpu: PretendGpu,
    tail: Tail,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read: list[int] = []

    def energy(_: object) -> int:
        read.append(1)
        return 1000 * len(read)

    nvml = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlDeviceGetName=lambda _: "Pretend",
        nvmlSystemGetDriverVersion=lambda: "1.0",
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(limits, "WATCHED_S", 0.01)
    check = Check("cuda", 1)
    limits.energy(check, tail)
    assert check.found == [("energy", True, "")]
    assert "mJ a run over idle" in capsys.readouterr().out
