"""`splitbed run` on a device with fewer cores, or a share of one, and after a rest."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from splitbed.errors import UsageError
from splitbed.limits import HeldLimits, Limits
from splitbed.record import ResourceSample
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from splitbed.session import Node
from tests.integration.nodes import GESTURE, certified

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")


@linux
def test_a_weaker_device_after_a_rest(pictures: Path, tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    limits: list[object] = ["--cpus", core, "--idle-s", 1]
    try:
        with HeldLimits(Limits(cpu_quota=0.8)):
            limits += ["--cpu-quota", 0.8]
    except UsageError:
        pass  # this machine does not let us; the cores remain
    done = certified(
        *("run", GESTURE, "--cut", "layer3", "--images", pictures, "--frames", 20, "--json"),
        # A second of frames, whatever a frame takes: the edge has samples within it.
        *("--load", "rate:20", "--sample-s", "0.05"),
        *("--certify-s", "0.6", "--warmup", 2, "--backend", "relay", "--out", tmp_path, *limits),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    files = RunFolder(Path(found["folder"]))
    held = read_manifest(files.folder).host["limits"]
    assert held["cpus"] == [core]
    assert held["slowdown"]["ratio"] > 0.1
    assert found["slowdown"] == held["slowdown"]
    assert found["setting"]["cpus"] == str(core)
    if "--cpu-quota" in limits:
        assert held["cpu_quota"] == 0.8
    nodes: tuple[Node, Node] = ("device", "edge")
    for node in nodes:
        samples = list(read_rows(files.resources(node), ResourceSample))
        rested = sum(s.interval_ns for s in samples if s.phase == "idle")
        assert rested > 0.8e9
        use = found["use"][node]
        assert use["cpu_ms_per_frame"] > 0
        assert set(use["memory_bytes"]) == {"before_engine", "after_engine", "after_first_frame"}
        assert use["energy"][0]["how"] in ("measured", "unavailable")
        if use["energy"][0]["how"] == "unavailable":
            assert use["energy"][0]["reason"]
            assert use["energy"][0]["j_per_frame"] is None
    assert found["use"]["device"]["frames"] == 20
    assert found["use"]["edge"]["counted"].startswith("warm-up left out")
    assert 0 < found["use"]["edge"]["frames"] <= 20
