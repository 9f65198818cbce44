"""`splitbed run` between two hosts that the kernel keeps apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.gestures import HELD_OUT_SEED, write_folder
from splitbed.run_folder import read_manifest
from tests.integration.nodes import GESTURE, certified, one_sentence, splitbed, start, wait_for_rows

RUN = ("run", GESTURE, "--cut", "layer3", "--backend", "kernel", "--warmup", 2)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rendered pictures with their labels."""
    folder = tmp_path_factory.mktemp("pictures") / "held-out"
    write_folder(folder, HELD_OUT_SEED, 12)
    return folder


def namespaces() -> set[int]:
    """Every network namespace in which a process is."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(os.stat(entry / "ns" / "net").st_ino)
            except OSError:
                continue
    return found


def test_a_run_between_two_hosts(pictures: Path, tmp_path: Path) -> None:
    before = namespaces()
    done = certified(
        *(*RUN, "--link", "rate=20mbit,delay=15ms", "--images", pictures, "--frames", 12),
        *("--certify-s", 6, "--out", tmp_path, "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["complete"]
    assert found["link_kind"] == "kernel"
    assert found["violations"] == []
    assert found["agreement"]["successes"] == 12
    assert found["total_ms"]["p50"]["value"] > 30
    assert found["certified"]["rtt_ms"] == pytest.approx(30, abs=2)
    manifest = read_manifest(Path(found["folder"]))
    assert manifest.link_settings["tcp_slow_start_after_idle"] == "0"
    assert "switched off" in manifest.link_settings["device, offloads of splitbed"]
    assert namespaces() == before


def test_killed_in_the_middle_it_leaves_nothing(pictures: Path, tmp_path: Path) -> None:
    before = namespaces()
    process = start(
        "splitbed.cli",
        *(*RUN, "--link", "rate=5mbit,delay=15ms", "--images", pictures, "--frames", 500),
        *("--certify-s", 1, "--accept-uncertified", "--out", tmp_path),
    )
    wait_for_rows(tmp_path, 4, within_s=120)
    assert len(namespaces()) == len(before) + 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 15
    while namespaces() != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert namespaces() == before
    done = splitbed("link", "clear")
    assert (done.returncode, done.stderr) == (0, "there was nothing to clear\n")


def test_backend_auto_takes_the_kernel_and_says_so(pictures: Path, tmp_path: Path) -> None:
    done = splitbed(
        *("run", GESTURE, "--cut", "@result", "--images", pictures, "--frames", 3, "--warmup", 0),
        *("--link", "rate=20mbit", "--certify-s", 1, "--accept-uncertified", "--out", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "backend kernel: netem is there" in done.stderr


def test_a_kernel_link_without_figures_is_two_hosts(pictures: Path, tmp_path: Path) -> None:
    done = splitbed(
        *(*RUN, "--images", pictures, "--frames", 3, "--certify-s", 1, "--out", tmp_path, "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["link_kind"] == "kernel"


def test_without_root_it_says_what_to_do(pictures: Path) -> None:
    bare = ("--bounding-set=-all", "--inh-caps=-all")

    words = (*RUN, "--link", "lte", "--images", pictures)
    done = subprocess.run(
        ["setpriv", *bare, sys.executable, "-m", "splitbed.cli", *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert "takes root" in one_sentence(done.stderr)
