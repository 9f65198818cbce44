"""When the device's samples are of warm-up, and when of measured frames."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from device_node.options import DeviceOptions
from device_node.watch import Watch
from splitbed.record import NodeResources, ResourceSample
from splitbed.resources import ResourceSampler, meters
from splitbed.run_folder import RunFolder, read_rows


def watch(tmp_path: Path, warmup: int) -> Watch:
    options = DeviceOptions(
        edge="127.0.0.1:9", model="m", cut="c", out=tmp_path, warmup=warmup, sample_s=60
    )
    return Watch(options, "run-1", RunFolder(tmp_path), {})


@pytest.mark.parametrize(
    ("warmup", "phases"),
    [
        (0, ["frames", "frames", "frames", "frames"]),
        (1, ["warmup", "frames", "frames", "frames"]),
        (2, ["warmup", "warmup", "frames", "frames"]),
    ],
)
def test_the_first_measured_frame_is_worked_on_in_its_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warmup: int, phases: list[str]
) -> None:
    marked: list[int] = []
    told: list[int] = []
    monkeypatch.setattr(ResourceSampler, "mark", lambda *_: marked.append(told[-1]))
    with watch(tmp_path, warmup) as watched:
        watched.rest(threading.Event())
        found = []
        for kept in range(4):  # a pipeline tells of 0, too
            told.append(kept)
            watched.kept(kept)
            found.append(watched._sampler._next)
    assert found == phases
    assert marked == [1, 2, 3]


def test_a_run_whose_meters_fail_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/sys/devices/platform/soc")

    monkeypatch.setattr(meters, "_shared", {})
    monkeypatch.setattr(meters, "Meters", refused)
    with watch(tmp_path, 1) as watched:
        watched.rest(threading.Event())
        watched.kept(1)
    (note,) = watched.notes
    assert note.startswith("resource samples end early, frames do not: ")
    assert "/sys/devices/platform/soc" in note
    files = RunFolder(tmp_path)
    assert list(read_rows(files.resources("device"), ResourceSample)) == []
    assert files.read_sources("device") == NodeResources()
