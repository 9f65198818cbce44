"""Energy of a frame over idle: arithmetic on made-up samples, and when there is no figure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from experiments.energy import Energy, energies
from experiments.node_use import energy_text, node_use, use_facts
from splitbed.record import (
    EdgeFrameRecord,
    FrameRecord,
    NodeResources,
    Phase,
    ReadingSource,
    ResourceSample,
)
from splitbed.run_folder import RowWriter, RunFolder
from splitbed.session import Node

RAPL = ReadingSource(
    "rapl_j", "J", "measured", "RAPL of the whole machine", scope="machine", window_s=1.0
)
BATTERY = ReadingSource("battery_w", "W", "measured", "a battery", scope="machine", window_s=60.0)
PSYS = msgspec.structs.replace(RAPL, name="rapl_psys_j")
NONE = ReadingSource(
    "rapl_j", "J", "unavailable", "RAPL (powercap)", "may be read by root only", "machine"
)


def made(
    phases: Sequence[tuple[Phase, int, float]],
    *,
    name: str = "rapl_j",
    every_s: float = 0.5,
    noise_w: float = 0.0,
    process_share: float = 0.5,
) -> list[ResourceSample]:
    """Samples of phases (name, number of samples, watts); a first reading before the first."""
    chance, joules = random.Random(1), 100.0
    found: list[ResourceSample] = []
    for phase, count, watts in (("idle", 1, 0.0), *phases):
        for _ in range(count):
            power = watts + chance.uniform(-noise_w, noise_w)
            joules += power * every_s
            system_ns = int(every_s * 1e9)
            found.append(
                ResourceSample(
                    run_id="r",
                    node="device",
                    t_ns=int((len(found) + 1) * every_s * 1e9),
                    interval_ns=int(every_s * 1e9),
                    process_cpu_ns=int(system_ns * process_share),
                    process_cpu_pct=100 * process_share,
                    system_cpu_pct=50,
                    rss_bytes=1000,
                    threads=1,
                    source="made up",
                    phase=phase,
                    system_cpu_ns=system_ns,
                    readings={name: joules if name.endswith("_j") else power},
                )
            )
    return found


def first(samples: Sequence[ResourceSample], *sources: ReadingSource, frames: int = 100) -> Energy:
    return energies("device", samples, NodeResources(sources), frames)[0]


def test_energy_over_idle_is_what_the_frames_added() -> None:
    samples = made([("idle", 10, 5.0), ("warmup", 4, 50.0), ("frames", 40, 11.0)])
    whole, own = energies("device", samples, NodeResources((RAPL,)), 100)
    # A phase ends with a sample: its stretches cover it whole.
    assert whole.j_per_frame == pytest.approx((11 - 5) * 40 * 0.5 / 100)
    assert whole.idle_w == pytest.approx(5)
    assert whole.busy_w == pytest.approx(11)
    assert (whole.how, whole.scope, whole.meter) == ("measured", "machine", "rapl_j")
    assert own.j_per_frame == pytest.approx(whole.j_per_frame / 2)  # type: ignore[operator]
    assert (own.how, own.scope) == ("modelled", "process")
    assert "50 %" in own.source


def test_the_interval_holds_the_truth_and_shrinks_with_time() -> None:
    widths = []
    for count in (12, 200):
        found = first(
            made([("idle", count, 5.0), ("frames", count, 11.0)], noise_w=3), RAPL, frames=count
        )
        assert found.low is not None
        assert found.high is not None
        assert found.low < 6 * 0.5 < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_resolution_widens_the_interval() -> None:
    samples = made([("idle", 20, 5.0), ("frames", 20, 11.0)])
    coarse = msgspec.structs.replace(RAPL, resolution=10.0)
    found = first(samples, coarse)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 10 / 100


def test_power_is_integrated() -> None:
    samples = made(
        [("idle", 40, 2.0), ("frames", 60, 3.0)], name="battery_w", every_s=3, noise_w=0.1
    )
    found = first(samples, BATTERY)
    assert found.j_per_frame == pytest.approx(1.0 * 60 * 3 / 100, rel=0.1)


def test_what_spans_two_phases_for_want_of_readings_is_in_neither() -> None:
    samples = made([("idle", 10, 5.0), ("warmup", 4, 50.0), ("frames", 40, 11.0)])
    gone = {9, 10, 11, 12, 13, 14, 15, 30, 31}  # those around the warm-up, and two among the frames
    samples = [
        msgspec.structs.replace(s, readings={}) if at in gone else s for at, s in enumerate(samples)
    ]
    found = first(samples, RAPL)
    assert found.idle_w == pytest.approx(5)
    assert found.busy_w == pytest.approx(11)
    # 11 to 50: the counter went on where two of its readings are missing.
    assert found.j_per_frame == pytest.approx(6 * 38 * 0.5 / 100)


def test_an_edge_leaves_out_the_stretch_in_which_the_first_frame_came() -> None:
    samples = made([("idle", 10, 5.0), ("idle", 1, 500.0), ("frames", 40, 11.0)])
    found = energies("edge", samples, NodeResources((RAPL,)), 100)[0]
    assert found.idle_w == pytest.approx(5)


@pytest.mark.parametrize(
    ("samples", "sources", "reason"),
    [
        (made([("frames", 40, 11.0)])[1:], (RAPL,), "--idle-s"),
        (made([("idle", 10, 5.0)]), (RAPL,), "no frame"),
        (
            made([("idle", 1, 5.0), ("frames", 40, 11.0)]),
            (RAPL,),
            "needs 1 s and got 0.5 s of rest",
        ),
        (made([("idle", 9, 5.0), ("frames", 1, 11.0)]), (RAPL,), "0.5 s of frames"),
        (
            made([("idle", 40, 2.0), ("frames", 60, 3.0)], name="battery_w", every_s=3),
            (BATTERY,),
            "hardly moved",
        ),
        (made([]), (NONE,), "root only"),
        (made([]), (), "older splitbed"),
        (
            made([("idle", 9, 5.0), ("frames", 9, 11.0)]),
            (msgspec.structs.replace(RAPL, reason="ended early: it broke"),),
            "ended early",
        ),
    ],
)
def test_where_there_is_no_figure_there_is_a_reason_and_no_zero(
    samples: list[ResourceSample], sources: tuple[ReadingSource, ...], reason: str
) -> None:
    found = first(samples, *sources)
    assert found.how == "unavailable"
    assert found.j_per_frame is found.low is found.high is None
    assert reason in found.reason
    assert reason in energy_text(found)
    assert " J " not in energy_text(found)


def test_what_counts_comes_before_what_is_read_now_and_then() -> None:
    samples = [
        msgspec.structs.replace(
            s,
            readings={
                "rapl_j": s.readings["rapl_j"],
                "rapl_psys_j": 2 * s.readings["rapl_j"],
                "gpu0_j": 3 * s.readings["rapl_j"],
                "gpu0_w": 1.0,
            },
        )
        for s in made([("idle", 10, 5.0), ("frames", 40, 11.0)])
    ]
    gpu = msgspec.structs.replace(RAPL, name="gpu0_j", scope="gpu0")
    power = msgspec.structs.replace(gpu, name="gpu0_w", unit="W")
    found = energies("edge", samples, NodeResources((power, gpu, PSYS, RAPL)), 100)
    assert [(e.meter, e.scope) for e in found] == [
        ("rapl_j", "machine"),
        ("rapl_j", "process"),
        ("rapl_psys_j", "machine"),
        ("gpu0_j", "gpu0"),
    ]


# ---------------------------------------------------------------------------------- a run's folder


def written(folder: Path, node: Node, samples: Sequence[ResourceSample]) -> RunFolder:
    files = RunFolder(folder)
    with RowWriter(files.resources(node)) as writer:
        for sample in samples:
            writer.write(sample)
    return files


def test_what_is_said_of_a_node(tmp_path: Path) -> None:
    samples = made([("idle", 10, 5.0), ("warmup", 2, 9.0), ("frames", 40, 11.0)])
    samples = [
        msgspec.structs.replace(
            s,
            rss_peak_bytes=4000 + at,
            voluntary_switches=10,
            involuntary_switches=1,
            readings=s.readings
            | {
                "freq_policy0_hz": 1e9 + at,
                "temp_cpu-0_celsius": 50.0 + (at == 30),
                "throttle_core_count": float(at >= 30),
            },
        )
        for at, s in enumerate(samples)
    ]
    files = written(tmp_path, "device", samples)
    files.write_sources(
        "device", NodeResources((RAPL,), {"before_engine": 1, "after_engine": 2_000_000})
    )
    with RowWriter(files.frames("device")) as writer:
        for number in range(25):
            status = "dropped" if number == 24 else "ok"
            writer.write(FrameRecord("r", 1, number, number < 4, status))
    use = node_use(files)["device"]
    assert use.frames == 20
    assert use.cpu_ms_per_frame == pytest.approx(40 * 250 / 20)
    assert (use.waits_per_frame, use.preempted_per_frame) == (20, 2)
    assert use.rss_peak_bytes == 4052
    assert use.frequency_hz == (1e9 + 13, 1e9 + 52)
    assert (use.temperature_celsius_max, use.throttled) == (51, 1)
    assert use.energy[0].frames == 20
    assert use.sources == (RAPL,)
    lines = dict(use_facts("device", use)[:4])
    assert lines["device MB"] == "0 before the engine, 2 after it"
    assert lines["device cores"].endswith("up to 51 °C, slowed down in 1 of 53 samples")
    assert all(len(f"{name:<16} {text}") <= 80 for name, text in use_facts("device", use))


def test_a_mark_that_did_not_rise_is_of_another_time(tmp_path: Path) -> None:
    samples = [msgspec.structs.replace(s, rss_peak_bytes=9999) for s in made([("frames", 3, 1.0)])]
    assert node_use(written(tmp_path, "edge", samples))["edge"].rss_peak_bytes == 1000


def test_samples_of_an_older_splitbed_are_read(tmp_path: Path) -> None:
    old = (
        '{"run_id":"r","node":"edge","t_ns":1,"interval_ns":1,"process_cpu_ns":1,'
        '"process_cpu_pct":90.0,"system_cpu_pct":5.0,"rss_bytes":7,"threads":1,"source":"psutil"}\n'
    )
    (tmp_path / "edge.resources.jsonl").write_text(old)
    with RowWriter(RunFolder(tmp_path).frames("edge")) as writer:
        for number in range(3):
            writer.write(EdgeFrameRecord("r", 1, number, "ok", 0, 0))
    use = node_use(RunFolder(tmp_path))["edge"]
    assert (use.cpu_pct_median, use.rss_peak_bytes, use.frames) == (90, 7, 2)
    assert use.waits_per_frame is None
    assert use.throttled is None
    assert use.frequency_hz is None
    assert use.energy[0].how == "unavailable"


def test_a_node_that_does_not_tell_its_load_is_summarised(tmp_path: Path) -> None:
    """As on Android; some samples may tell and others not."""
    samples = made([("idle", 10, 5.0), ("frames", 40, 11.0)])
    silent = [msgspec.structs.replace(s, system_cpu_pct=None, system_cpu_ns=None) for s in samples]
    for name, some, middle in (("none", silent, None), ("some", silent[:20] + samples[20:], 50)):
        files = written(tmp_path / name, "device", some)
        files.write_sources("device", NodeResources((RAPL,)))
        with RowWriter(files.frames("device")) as writer:
            writer.write(FrameRecord("r", 1, 0, False, "ok"))
        use = node_use(files)["device"]
        assert use.system_cpu_pct_median == middle
        assert use_facts("device", use)
        assert (use.energy[1].how == "unavailable") == (middle is None)
