"""`docker compose up`: two nodes and the link between them, from a checkout to a finished run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from experiments.gestures import HELD_OUT_SEED, write_folder
from splitbed.record import EdgeFrameRecord, FrameRecord, RunManifest
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from splitbed.task import models_folder
from tests.docker.conftest import Project

WARMUP = 5


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/manifest.json"))


def said(done: subprocess.CompletedProcess[str]) -> str:
    """By all containers, and by compose itself."""
    return done.stdout + done.stderr


def readable(folder: Path) -> None:
    """For the user of the containers, too: pytest's folders are its own user's."""
    for path in (*folder.rglob("*"), folder, folder.parent, folder.parent.parent):
        path.chmod(0o755 if path.is_dir() else 0o644)


def complete(folder: Path) -> RunManifest:
    """A run as it must be: whole, verified, certified, and seen by both nodes."""
    manifest = read_manifest(folder)
    assert manifest.outcome == "complete"
    assert manifest.verification is not None
    certificate = manifest.certificate
    assert certificate is not None
    assert certificate.after is not None
    assert certificate.kind in ("relay", "kernel")
    rows = list(read_rows(RunFolder(folder).frames("device"), FrameRecord))
    audit = list(read_rows(RunFolder(folder).frames("edge"), EdgeFrameRecord))
    assert {row.status for row in rows} == {"ok"}
    assert len(rows) == len(audit) == WARMUP + 6
    return manifest


def test_one_device(project: Project, tmp_path: Path) -> None:
    done = project.run()
    assert done.returncode == 0, said(done)
    (folder,) = runs(project.results(tmp_path / "runs"))
    manifest = complete(folder)
    assert manifest.certificate is not None
    # Said by the link, by the device, and in the table.
    kind = manifest.certificate.kind
    assert f"backend {kind}: " in said(done)
    assert {"relay": "made by the relay", "kernel": "made by the kernel"}[kind] in said(done)
    assert "rate=40mbit,delay=4ms" in said(done)
    assert "frames           6 of 6 measured" in said(done)
    assert "Traceback" not in said(done)
    assert "level=warning" not in said(done)
    for service in ("device", "link", "edge"):
        assert [found["State"]["ExitCode"] for found in project.containers(service)] == [0]
    # What is left can be reported in the same place.
    done = project.compose("run", "--rm", "--no-deps", "device", "report", "/runs")
    assert "report: /runs/report.html" in done.stdout, done.stderr


def test_three_devices_share_the_link(project: Project, tmp_path: Path) -> None:
    done = project.run("--scale", "device=3")
    assert done.returncode == 0, said(done)
    found = [complete(folder) for folder in runs(project.results(tmp_path / "runs"))]
    assert len({manifest.run_id for manifest in found}) == 3
    certificates = [manifest.certificate for manifest in found]
    assert certificates[0] is not None
    assert certificates[0].users > 1
    # Measured once for all of them: a third of the link each would be no certificate.
    assert certificates == [certificates[0]] * 3
    assert done.stdout.count("6 of 6 measured") == 3
    # None was stopped because another one had ended.
    assert [found["State"]["ExitCode"] for found in project.containers("device")] == [0] * 3


def test_a_run_that_fails_says_so_by_its_exit_code(project: Project) -> None:
    done = project.run(CUT="nope")
    assert done.returncode == 2
    assert "splitbed: model 'gesture' has no cut 'nope'" in said(done)
    assert "Traceback" not in said(done)


def test_a_link_that_cannot_be_made_stops_the_rest(project: Project) -> None:
    done = project.run(LINK="nope")
    assert done.returncode != 0
    assert "netem: unknown link profile 'nope'" in said(done)
    assert [found["State"]["Status"] for found in project.containers("device")] == ["created"]


def test_a_trace_is_replayed_while_frames_flow(project: Project, tmp_path: Path) -> None:
    done = project.run(TRACE="generate:seed=1")
    assert done.returncode == 0, said(done)
    (folder,) = runs(project.results(tmp_path / "runs"))
    replay = complete(folder).replay
    assert replay is not None
    assert replay.elapsed_ns > 0


def test_models_and_pictures_of_this_machine(project: Project, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    write_folder(pictures, HELD_OUT_SEED, 24)
    readable(tmp_path)
    done = project.run(MODELS=models_folder(), MODEL="gesture/gesture.onnx", IMAGES=pictures)
    assert done.returncode == 0, said(done)
    (folder,) = runs(project.results(tmp_path / "runs"))
    manifest = complete(folder)
    assert manifest.config["images"] == "/pictures"
    assert manifest.config["model"] == "/models/gesture/gesture.onnx"


@pytest.mark.parametrize("service", ["edge", "device", "link"])
def test_privileges(project: Project, service: str) -> None:
    """Nobody is root or may do anything beyond a user, but the link in the edge's network."""
    wanted = ["NET_ADMIN", "NET_RAW", "SYS_NICE"] if service == "link" else []
    built = project.compose("build", "--quiet")
    assert built.returncode == 0, built.stderr
    project.compose("create")
    (found,) = project.containers(service)
    host = found["HostConfig"]
    assert sorted(name.removeprefix("CAP_") for name in host["CapAdd"] or []) == wanted
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"]
    assert not host["Privileged"]
    assert host["NetworkMode"].startswith("container:") == (service == "link")
    if service == "link":  # has no network of its own: nothing runs in it without an edge
        return
    # What a process in there finds itself to be.
    code = "print(__import__('os').getuid(), open('/proc/self/status').read())"
    done = project.compose(
        "run", "--rm", "--no-deps", "--entrypoint", "python", service, "-c", code
    )
    words = done.stdout.split()
    assert words[0] == "10001", done.stderr
    for kind in ("CapPrm:", "CapEff:", "CapBnd:"):
        assert int(words[words.index(kind) + 1], 16) == 0
    assert words[words.index("NoNewPrivs:") + 1] == "1"


def test_an_edge_with_a_gpu_is_asked_for(project: Project) -> None:
    done = project.compose(
        *("config", "--format", "json"), files=("compose.yaml", "compose.gpu.yaml")
    )
    assert done.returncode == 0, done.stderr
    edge = json.loads(done.stdout)["services"]["edge"]
    (device,) = edge["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert edge["build"]["args"]["EDGE_EXTRAS"] == "edge-gpu"
    assert edge["command"][-2:] == ["--provider", "cuda"]
    assert "--records" in edge["command"]
