"""Starting splitbed's commands as a user would, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
GESTURE = ROOT / "models" / "gesture" / "gesture.onnx"
ALONE = ("--listen", "127.0.0.1:0", "--status", "", "--records", "")
"""An edge on a free port that leaves nothing behind."""


def splitbed(*arguments: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "splitbed.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def certified(*arguments: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command that measures over a link; what a busy machine spoilt is run again.

    Such a run ends with exit code 4 and asks for that itself. Three in a row are a fault.
    """
    for _ in range(2):
        done = splitbed(*arguments, timeout_s=timeout_s)
        if done.returncode != 4 or "quieter machine" not in done.stderr:
            return done
        sys.stderr.write(done.stderr)  # pytest shows it where the test fails after all
    return splitbed(*arguments, timeout_s=timeout_s)


def start(module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start one process."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Its ready line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else "no ready line"
    found: dict[str, Any] = json.loads(line)
    return found


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end: exit code, standard output, standard error."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def stop(process: subprocess.Popen[str]) -> int:
    """SIGTERM, then its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    return process.returncode


def wait_for_rows(out: Path, count: int, within_s: float = 60) -> Path:
    """Until some run below `out` has that many device rows; its folder."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        for path in out.glob("*/device.frames.jsonl"):
            if path.read_bytes().count(b"\n") >= count:
                return path.parent
        time.sleep(0.05)
    raise AssertionError(f"no run below {out} had {count} rows within {within_s} s")


def child_of(process: subprocess.Popen[str], module: str) -> psutil.Process:
    """The child of `process` that runs a module, `netem` or `edge_node` or `device_node`."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if module in child.cmdline():
            return child
    raise AssertionError(f"no child runs {module}")


def one_sentence(text: str) -> str:
    """Asserts that a command said one thing, without a traceback; what it said."""
    assert "Traceback" not in text, text
    lines = [
        line
        for line in text.strip().splitlines()
        if line.startswith(("splitbed: ", "edge: ", "device: ", "netem: "))
    ]
    assert len(lines) == 1, text
    return lines[0]
