"""Limits of a process: cores, and a share of a core by a control group of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from device_node.__main__ import Device
from splitbed.errors import UsageError
from splitbed.limits import HeldLimits, Limits, parse_cpus, quota, sweep
from splitbed.record import ResourceSample
from splitbed.run_folder import RunFolder, read_manifest, read_rows
from splitbed.transport import InProcessTransport
from tests.unit.edges import device_options, drawn_pictures, edge_over, model_folder

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="control groups are Linux's"
)


# ------------------------------------------------------------------------------------------ cores


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("0,1", {0, 1}), ("2-4, 7", {2, 3, 4, 7}), ("3-3", {3})]
)
def test_cores_as_they_are_written(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["", "a", "1-", "4-2", "-1", "1,,2", "0-99999", "4096", "1 2"])
def test_what_names_no_cores_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--cpus"):
        parse_cpus(text)


@linux
def test_every_thread_is_held_and_let_go() -> None:
    """Those that were there before, too: a runtime starts its threads early."""
    before = os.sched_getaffinity(0)
    core = min(before)
    seen: list[set[int]] = []
    go, looked, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        go.wait(30)
        seen.append(os.sched_getaffinity(0))
        looked.set()
        done.wait(30)
        seen.append(os.sched_getaffinity(0))

    worker = threading.Thread(target=work)
    worker.start()
    with HeldLimits(Limits(cpus=str(core))) as held:
        assert os.sched_getaffinity(0) == {core}
        held.lift()
        assert os.sched_getaffinity(0) == before
        held.hold()
        go.set()
        looked.wait(30)
        assert held.facts() == {"cpus": [core]}
    done.set()
    worker.join()
    assert seen == [{core}, before]
    assert os.sched_getaffinity(0) == before


@linux
def test_a_core_that_is_not_there_is_refused() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(UsageError, match="may not use 4000"):
        HeldLimits(Limits(cpus=f"{min(before)},4000"))
    assert os.sched_getaffinity(0) == before


# --------------------------------------------------------------------------- made-up control groups


def machine(root: Path, mountinfo: str, cgroup: str) -> Path:
    for name, text in (("mountinfo", mountinfo), ("cgroup", cgroup)):
        path = root / "proc/self" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "25 1 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"


def group(root: Path, place: str, **files: str) -> Path:
    folder = root / "sys/fs/cgroup" / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def kernel_like(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new folder in a control group has its files at once."""
    made = Path.mkdir

    def mkdir(self: Path, *more: object, **named: object) -> None:
        made(self, *more, **named)  # type: ignore[arg-type]
        if self.name.startswith("splitbed-"):
            for name in ("cgroup.procs", "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
                (self / name).touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_version_2_takes_a_group_beside_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_like(monkeypatch)
    machine(tmp_path, V2, "0::/user.slice/mine.scope\n")
    group(tmp_path, "", cgroup__controllers="cpu memory")
    group(tmp_path, "user.slice", cgroup__subtree_control="cpu pids")
    home = group(
        tmp_path,
        "user.slice/mine.scope",
        cgroup__subtree_control="",
        cgroup__procs="",
        cpu__max="max 100000",
        memory__max="max",
    )
    held = quota.enter(0.5, tmp_path)
    assert held.folder == home.parent / f"splitbed-{os.getpid()}"
    assert (held.folder / "cpu.max").read_text() == "5000 10000"
    assert (held.folder / "cgroup.procs").read_text() == str(os.getpid())
    quota.lift(held)
    assert (held.folder / "cpu.max").read_text().startswith("max 10000")
    quota.leave(held)
    assert (home / "cgroup.procs").read_text() == str(os.getpid())


def test_a_group_that_is_limited_is_not_escaped(tmp_path: Path) -> None:
    machine(tmp_path, V2, "0::/a/mine\n")
    group(tmp_path, "", cgroup__controllers="cpu")
    group(tmp_path, "a", cgroup__subtree_control="cpu")
    group(tmp_path, "a/mine", cpu__max="20000 100000")
    with pytest.raises(UsageError, match="limited already"):
        quota.enter(0.5, tmp_path)


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "reason"),
    [
        ("", "", "no control group for CPU time"),
        (V2, "0::/elsewhere\n", "does not show this process's group"),
        (V2, "0::/\n", "hands out no CPU time"),
    ],
)
def test_where_it_may_not_be_set_another_way_is_named(
    tmp_path: Path, mountinfo: str, cgroup: str, reason: str
) -> None:
    machine(tmp_path, mountinfo, cgroup)
    group(tmp_path, "", cgroup__controllers="cpu", cgroup__subtree_control="memory")
    with pytest.raises(UsageError) as refused:
        quota.enter(0.25, tmp_path)
    text = str(refused.value)
    assert reason in text
    assert "systemd-run --user --scope -p CPUQuota=25%" in text
    assert "docker run --cpu-period 10000 --cpu-quota 2500" in text
    assert "\n" not in text


def test_a_group_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    """Without the kernel a new folder has no files: writing the quota fails."""
    machine(tmp_path, V1, "4:cpu,cpuacct:/\n")
    home = group(tmp_path, "cpu")
    with pytest.raises(UsageError, match="No such file"):
        quota.enter(0.5, tmp_path)
    assert list(home.iterdir()) == []


def test_what_a_kill_left_behind_is_swept(tmp_path: Path) -> None:
    machine(tmp_path, V1, "4:cpu,cpuacct:/\n")
    home = group(tmp_path, "cpu")
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name in (f"splitbed-{gone.pid}", f"splitbed-{os.getpid()}", "splitbed-x", "other"):
        (home / name).mkdir()
    (home / f"splitbed-{gone.pid}0000000").mkdir()
    (home / f"splitbed-{gone.pid}0000000" / "busy").mkdir()  # as one that somebody is in
    assert sweep(tmp_path) == 1
    assert {path.name for path in home.iterdir()} == {
        f"splitbed-{os.getpid()}",
        f"splitbed-{gone.pid}0000000",
        "splitbed-x",
        "other",
    }


@pytest.mark.parametrize(
    ("cores", "wanted"),
    [(0.5, (5000, 10000)), (0.01, (1000, 100_000)), (2.5, (25000, 10000)), (0.1, (1000, 10000))],
)
def test_quota_and_period_are_at_least_a_millisecond(cores: float, wanted: tuple[int, int]) -> None:
    assert quota.parse_quota(cores) == wanted


# ----------------------------------------------------------------------- this machine's own groups


def allowed() -> str:
    """Why no quota may be set here; "" if one may."""
    try:
        with HeldLimits(Limits(cpu_quota=0.9)):
            return ""
    except UsageError as error:
        return str(error)


WORK = """
import json, os, sys, time
from splitbed.limits import HeldLimits, Limits
def busy(seconds):
    wall, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - wall < seconds:
        pass
    return (time.process_time() - cpu) / (time.monotonic() - wall)
with HeldLimits(Limits(cpu_quota=0.2)) as held:
    share = busy(1.0)
    groups = open("/proc/self/cgroup").read()
    print(json.dumps([share, groups, held.facts()]), flush=True)
    if len(sys.argv) > 1:
        time.sleep(60)
print(open("/proc/self/cgroup").read())
"""


@linux
def test_a_quota_holds_here() -> None:
    reason = allowed()
    if reason:
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "-c", WORK], capture_output=True, text=True, timeout=60, check=True
    )
    first, _, after = done.stdout.partition("\n")
    share, groups, facts = json.loads(first)
    assert share < 0.25
    assert "/splitbed-" in groups
    assert "/splitbed-" not in after
    assert facts["cpu_quota"] == 0.2
    assert facts["held_by"].startswith("cgroup v")


@linux
def test_a_killed_process_leaves_a_group_that_is_swept() -> None:
    reason = allowed()
    if reason:
        pytest.skip(reason)
    process = subprocess.Popen([sys.executable, "-c", WORK, "stay"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    _, groups, _ = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert f"splitbed-{process.pid}" in groups
    deadline = time.monotonic() + 20
    while sweep() == 0 and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel takes a moment to see that nobody is in it
    places = {place[2] for place in quota._places(Path("/"), [])}
    assert not [p for place in places for p in place.glob(f"splitbed-{process.pid}")]


# --------------------------------------------------------------------------------- a device that is


@linux
def test_a_limited_device_says_what_that_does_to_its_head(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    options = device_options(
        # Long enough for a sample that began among the frames, on a busy machine, too.
        tmp_path,
        warmup=1,
        frames=4,
        min_s=1.0,
        cpus=str(core),
        idle_s=0.2,
        sample_s=0.05,
    )
    pictures = drawn_pictures(tmp_path, 2)
    with (
        edge_over(model_folder(tmp_path / "models")) as edge,
        HeldLimits(Limits(options.cpus)) as held,
    ):
        Device(options, held).run(InProcessTransport(edge.service), pictures, threading.Event())
    files = RunFolder(options.out / "mine")
    found = read_manifest(files.folder).host["limits"]
    assert found["cpus"] == [core]
    slowdown = found["slowdown"]
    assert slowdown["low"] <= slowdown["ratio"] <= slowdown["high"]
    assert slowdown["rounds"] >= 3
    assert slowdown["unlimited_ns"] > 0
    samples = list(read_rows(files.resources("device"), ResourceSample))
    phases = [sample.phase for sample in samples]
    assert phases == sorted(phases, key=("idle", "warmup", "frames").index)
    assert phases.count("idle") >= 1
    assert phases[-1] == "frames"
    about = files.read_sources("device")
    assert set(about.memory_bytes) == {"before_engine", "after_engine", "after_first_frame"}
    assert any(source.name == "rapl_j" for source in about.sources)


def test_a_quota_that_limits_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--cpu-quota 1000 limits nothing: .* give less, or"):
        quota.check_quota(1000)
    quota.check_quota(0.5)
    with pytest.raises(UsageError, match="limits nothing: this process may use 2 cores"):
        quota.check_quota(2.0, {0, 1})
    with pytest.raises(UsageError, match="limits nothing: this process may use 1 core;"):
        quota.check_quota(1.5, {0})
    quota.check_quota(1.5, {0, 1})
    with pytest.raises(UsageError, match="limits nothing"):
        HeldLimits(Limits(cpu_quota=1000))
