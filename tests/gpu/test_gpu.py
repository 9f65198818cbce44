"""The GPU check as a test; skips, with the reason, where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from splitbed.engine import working_provider
from splitbed.errors import ProviderMissing

CHECK = Path(__file__).with_name("check.py")


@pytest.mark.gpu
def test_the_tail_on_cuda_equals_the_cpu() -> None:
    try:
        working_provider("cuda")
    except ProviderMissing as error:
        pytest.skip(f"no usable CUDA here: {error}")
    done = subprocess.run([sys.executable, CHECK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_checks_itself_on_the_cpu() -> None:
    """So that the script is known to work before somebody takes it to a GPU."""
    done = subprocess.run(
        [sys.executable, CHECK, "--provider", "cpu", "--runs", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("gesture") == 3


def test_an_absent_gpu_is_an_error_not_a_fall_back() -> None:
    try:
        working_provider("cuda")
    except ProviderMissing:
        done = subprocess.run(
            [sys.executable, CHECK, "--runs", "1"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 3
        assert "CUDAExecutionProvider was asked for" in done.stderr
    else:
        pytest.skip("CUDA is there")
