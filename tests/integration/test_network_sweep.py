"""`experiments/network_sweep.sh` from its first run to its plot, interrupted on the way."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.nodes import ROOT

SCRIPT = ROOT / "experiments" / "network_sweep.sh"
SWEEP = """
[run]
model = "gesture"
backend = "relay"
frames = 4
warmup = 1
window = 2
deadline_ms = 60_000
threads = 2
certify_s = 0.5
# Not the link is tested here, and this machine may be busy.
accept_uncertified = true

[network_sweep]
points = ["@result raw", "layer3 quantize:4+zstd:3"]
rates = ["5mbit", "50mbit"]
delays = ["2ms"]
"""
FAILING = """#!/bin/sh
case "$*" in
*"run --cut layer3"*rate=50mbit*) echo "splitbed: the edge went away" >&2; exit 5 ;;
esac
exec {python} "$@"
"""


class Started:
    """The script in a process group of its own, as a terminal starts it."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.process = subprocess.Popen(
            [SCRIPT, folder / "sweep.toml", folder / "out"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHON": python, "COLUMNS": "80"},
            cwd=ROOT,
            start_new_session=True,
        )

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=240)
        assert "Traceback" not in err, err
        return self.process.returncode, out, err


def rows_in(out: Path) -> dict[Path, int]:
    return {p.parent: p.read_bytes().count(b"\n") for p in out.glob("*/device.frames.jsonl")}


@pytest.mark.slow
def test_interrupted_continued_and_with_a_run_that_fails(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    out = tmp_path / "out"

    first = Started(tmp_path)
    deadline = time.monotonic() + 120
    while len(rows_in(out)) < 2 and time.monotonic() < deadline:
        assert first.process.poll() is None, first.finish()
        time.sleep(0.02)
    os.killpg(first.process.pid, signal.SIGINT)  # Ctrl-C, in the second run
    code, shown, said = first.finish()
    assert code == 130, said
    assert not shown
    assert "[1 of 4] @result raw over rate=5mbit,delay=2ms" in said
    assert "[2 of 4, about 1 min left] layer3 quantize:4+zstd:3 over rate=5mbit" in said
    assert "[3 of 4" not in said
    assert "stopped: what is measured stays" in said
    before = rows_in(out)
    assert 5 in before.values()

    failing = tmp_path / "python"
    failing.write_text(FAILING.format(python=sys.executable))
    failing.chmod(0o755)
    code, shown, said = Started(tmp_path, str(failing)).finish()
    assert code == 7, said
    assert "[1 of 4]" not in said  # at least the first is there
    assert "splitbed: the edge went away\n  noted (exit code 5); going on" in said
    assert "not measured: layer3 quantize:4+zstd:3 over rate=50mbit,delay=2ms: no run" in said
    assert "1 of 4 configurations are not measured" in said
    assert shown.startswith("link")
    assert before.items() <= rows_in(out).items()  # what was there stayed as it was

    there = set(rows_in(out))
    code, shown, said = Started(tmp_path).finish()
    assert code == 0, said
    assert "[1 of 1] layer3 quantize:4+zstd:3 over rate=50mbit,delay=2ms" in said
    assert len(set(rows_in(out)) - there) == 1
    words = " ".join(shown.split())
    assert "load: 2 frames in flight; deadline 60000 ms, late frames kept; head on 2 thr" in words
    assert max(map(len, shown[: shown.index("all figures")].splitlines())) <= 80
    with (out / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frames"] for row in rows] == ["4"] * 4
    loads = {(row["load"], row["window"], row["deadline_ms"], row["threads"]) for row in rows}
    assert loads == {("closed", "2", "60000.0", "2")}
    assert [row["frames_in_time"] for row in rows] == ["4"] * 4
    assert all(float(row["p50_ms"]) > 4 for row in rows)
    assert "@result raw" in (out / "sweep.svg").read_text()


def test_a_mistake_ends_it_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP.replace("rates", "raets"))
    code, shown, said = Started(tmp_path).finish()
    assert (code, shown) == (2, "")
    assert said.startswith("network_sweep: unknown key 'raets'")
    assert not (tmp_path / "out").exists()
