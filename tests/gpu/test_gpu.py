"""The GPU check as a test; skips, with the reason, where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from splitbed.engine import working_provider
from splitbed.errors import ProviderMissing

CHECK = Path(__file__).with_name("check.py")


def check(*arguments: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CHECK, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


@pytest.mark.gpu
def test_everything_on_cuda() -> None:
    """Results, batches, threads, and memory that runs out; the table is printed with -s."""
    try:
        working_provider("cuda")
    except ProviderMissing as error:
        pytest.skip(f"no usable CUDA here: {error}")
    done = check()
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_checks_itself_on_the_cpu() -> None:
    """So that the script is known to work before somebody takes it to a GPU."""
    done = check("--provider", "cpu", "--rounds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    words = {line[9:].partition(" (")[0]: line.split()[0] for line in lines[-8:] if line}
    assert words == {
        "results equal the CPU's": "ok",
        "symbols in equal values in": "ok",
        "a batch gives each frame's own result": "ok",
        "threads keep their own results": "ok",
        "TensorRT": "skipped",
        "energy": "skipped",
        "no room: refused, and the edge goes on": "skipped",
    }


def test_an_absent_gpu_is_an_error_not_a_fall_back() -> None:
    try:
        working_provider("cuda")
    except ProviderMissing:
        done = check("--rounds", "1")
        assert done.returncode == 3
        assert "CUDAExecutionProvider was asked for" in done.stderr
    else:
        pytest.skip("CUDA is there")
