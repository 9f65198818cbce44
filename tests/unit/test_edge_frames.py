"""Figures of an edge are of measured frames: what of its samples is warm-up, by the other rows."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.edge_frames import edge_frames
from experiments.node_use import node_use, use_facts
from splitbed.record import (
    EdgeFrameRecord,
    FrameRecord,
    NodeResources,
    Phase,
    ReadingSource,
    ResourceSample,
)
from splitbed.run_folder import RowWriter, RunFolder

MS = 1_000_000
RAPL = ReadingSource("rapl_j", "J", "measured", "RAPL", scope="machine", window_s=1.0)
LEFT_OUT = "warm-up left out by the device's rows"


def sample(ends_ms: int, lasts_ms: int, phase: Phase, watts: float = 5.0) -> ResourceSample:
    return ResourceSample(
        run_id="r",
        node="edge",
        t_ns=ends_ms * MS,
        interval_ns=lasts_ms * MS,
        process_cpu_ns=int(watts * lasts_ms * MS / 100),
        process_cpu_pct=watts,
        system_cpu_pct=50,
        rss_bytes=1000,
        threads=1,
        source="made up",
        phase=phase,
        voluntary_switches=int(watts),
        readings={"rapl_j": 0.0},
    )


def counted_up(samples: list[ResourceSample]) -> list[ResourceSample]:
    """With the joules of the watts that each of them has as its share of a core."""
    joules = accumulate(s.process_cpu_pct * s.interval_ns / 1e9 for s in samples)
    return [
        msgspec.structs.replace(s, readings={"rapl_j": j})
        for s, j in zip(samples, joules, strict=True)
    ]


def of_device(number: int, warmup: bool, at_ns: int, edge_ns: int) -> FrameRecord:
    return FrameRecord("r", 1, number, warmup, "ok", edge_received_ns=at_ns, edge_ns=edge_ns)


def of_edge(number: int, at_ns: int, edge_ns: int) -> EdgeFrameRecord:
    return EdgeFrameRecord("r", 1, number, "ok", at_ns, edge_ns)


Folder = tuple[list[ResourceSample], list[EdgeFrameRecord], list[FrameRecord]]


def run(start_ns: int = 0) -> Folder:
    """10 s of rest at 5 W, 4 s of 20 warm-up frames at 50 W, 20 s of 200 measured ones at 11 W."""
    samples = [sample(500 * n, 500, "idle") for n in range(1, 21)]
    samples.append(sample(10_200, 200, "idle", 50.0))  # with the first frame
    ends = range(10_700, 34_201, 500)
    samples += [sample(end, 500, "frames", 50.0 if end - 500 < 14_000 else 11.0) for end in ends]
    frames = [
        (n, n < 20, start_ns + (10_000 + (200 if n < 20 else 100) * n) * MS) for n in range(20)
    ]
    frames += [(n, False, start_ns + (14_000 + 100 * (n - 20)) * MS) for n in range(20, 220)]
    return (
        counted_up(samples),
        [of_edge(n, at, 90 * MS) for n, _, at in frames],
        [of_device(n, warm, at, 90 * MS) for n, warm, at in frames],
    )


def kept(folder: Path, run: Folder, start_ns: int | None) -> RunFolder:
    files = RunFolder(folder)
    samples, edge_rows, device_rows = run
    with RowWriter(files.resources("edge")) as writer:
        for one in samples:
            writer.write(one)
    with RowWriter(files.frames("edge")) as writer:
        for row in edge_rows:
            writer.write(row)
    with RowWriter(files.frames("device")) as writer:
        for frame in device_rows:
            writer.write(frame)
    files.write_sources("edge", NodeResources((RAPL,), {}, start_ns))
    return files


@pytest.mark.parametrize("start_ns", [1, 77_000_000_000_000, -5_000_000_000])
def test_warm_up_is_in_no_figure_whatever_the_clock(tmp_path: Path, start_ns: int) -> None:
    use = node_use(kept(tmp_path, run(start_ns), start_ns))["edge"]
    assert use.counted == LEFT_OUT
    # From the first sample that began after 14 s on: at 14.2 s, in which frame 22 began.
    assert use.frames == 198
    measured = use.energy[0]
    assert measured.j_per_frame == pytest.approx((11 - 5) * 20 / 198, rel=0.02)
    assert measured.busy_w == pytest.approx(11)
    assert measured.idle_w == pytest.approx(5)
    assert use.cpu_pct_median == 11
    assert dict(use_facts("edge", use))["edge frames"] == f"198 counted, {LEFT_OUT}"


def test_warm_up_that_cannot_be_told_is_in_figures_and_count(tmp_path: Path) -> None:
    samples, edge_rows, device_rows = run()
    older = node_use(kept(tmp_path / "older", run(), None))["edge"]
    assert older.counted == "warm-up among them: these samples do not say when they began"
    assert older.frames == 219
    alone = node_use(kept(tmp_path / "alone", (samples, edge_rows, []), 0))["edge"]
    assert alone.counted == (
        "warm-up among them: no row of the device says when a measured frame came"
    )
    assert alone.energy[0].busy_w == pytest.approx(older.energy[0].busy_w or 0)
    assert (older.energy[0].busy_w or 0) > 15
    short = [s for s in samples if s.t_ns <= 14_200 * MS]
    brief = node_use(kept(tmp_path / "brief", (short, edge_rows[:22], device_rows[:22]), 0))["edge"]
    assert (brief.counted, brief.frames) == ("warm-up among them: no sample began after it", 21)


Times = st.lists(st.integers(1, 400), min_size=1, max_size=40)


@given(Times, Times, st.integers(0, 20), st.integers(1, 10**12), st.integers(0, 3))
def test_no_sample_that_counts_saw_a_warm_up_frame(
    frames_ms: list[int], samples_ms: list[int], warmup: int, start_ns: int, in_flight: int
) -> None:
    begun = [0, *accumulate(frames_ms)]
    edge_rows, device_rows = [], []
    for number, (at, then) in enumerate(pairwise(begun)):
        at_ns, edge_ns = start_ns + at * MS, (then - at) * MS * (1 + in_flight)
        edge_rows.append(of_edge(number, at_ns, edge_ns))
        device_rows.append(of_device(number, number < warmup, at_ns, edge_ns))
    ends = list(accumulate(samples_ms))
    samples = [
        sample(end, lasts, "idle" if at == 0 else "frames")
        for at, (end, lasts) in enumerate(zip(ends, samples_ms, strict=True))
    ]
    found = edge_frames(samples, start_ns, edge_rows, device_rows)
    assert [msgspec.structs.replace(s, phase="idle") for s in found.samples] == [
        msgspec.structs.replace(s, phase="idle") for s in samples
    ]
    if found.counted != LEFT_OUT:
        assert found.samples == samples
        assert found.frames == len(edge_rows) - 1
        return
    measured = [s for s in found.samples if s.phase == "frames"]
    begins_ns = start_ns + measured[0].t_ns - measured[0].interval_ns
    assert found.samples[-len(measured) :] == measured
    for row in device_rows:
        if row.warmup and row.edge_received_ns:
            assert row.edge_received_ns + row.edge_ns <= begins_ns
    assert found.frames <= sum(not row.warmup for row in device_rows)
