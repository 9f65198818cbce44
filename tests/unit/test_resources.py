"""The resource sampler: what it measures, and that it ends."""

from __future__ import annotations

import os
import threading
import time
from collections import namedtuple
from typing import Any

import msgspec
import psutil
import pytest

from splitbed.errors import RecordError, StorageFull
from splitbed.record import NodeResources, ResourceSample
from splitbed.resources import SOURCE, ResourceSampler, meters
from splitbed.resources.meters import Meters, Snapshot
from splitbed.resources.system import SystemMeter, busy_pct, times


def busy(seconds: float) -> None:
    """Use one core."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def sampled(interval_s: float, work_s: float) -> list[ResourceSample]:
    found: list[ResourceSample] = []
    sampler = ResourceSampler("device", "run-1", found.append, interval_s)
    sampler.start()
    busy(work_s)
    sampler.stop()
    return found


def test_samples_cover_the_time_without_gaps() -> None:
    """However late other work on the machine makes each of them."""
    began = time.perf_counter_ns()
    found: list[ResourceSample] = []
    sampler = ResourceSampler("device", "run-1", found.append, 0.05)
    sampler.start()
    while len(found) < 4 and time.perf_counter_ns() < began + 30e9:
        busy(0.02)
    sampler.stop()
    assert len(found) >= 5  # with the last one, at the stop
    assert all(sample.interval_ns >= 0.05e9 for sample in found[:-1])
    assert found[-1].t_ns <= time.perf_counter_ns() - began
    passed = 0
    for sample in found:
        passed += sample.interval_ns
        assert sample.t_ns == passed
        assert (sample.run_id, sample.node, sample.source) == ("run-1", "device", SOURCE)


def test_cpu_time_is_that_of_this_process() -> None:
    before = time.process_time_ns()
    found = sampled(0.05, 0.4)
    spent = time.process_time_ns() - before
    seen = sum(sample.process_cpu_ns for sample in found)
    assert 0.35e9 <= seen <= spent
    for sample in found:
        assert sample.process_cpu_pct == pytest.approx(
            100 * sample.process_cpu_ns / sample.interval_ns
        )
    shares = [s.system_cpu_pct for s in found if s.system_cpu_pct is not None]
    assert all(0 <= share <= 100 for share in shares)
    assert max(shares) > 50 / (os.cpu_count() or 1)


Times = namedtuple("Times", "user nice system idle iowait guest guest_nice")  # as psutil's


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (Times(1, 0, 1, 6, 2, 0, 0), 20),
        (Times(4, 0, 0, 4, 0, 2, 0), 50),  # half of `user` was a guest's: counted once
        (Times(0, 0, 0, 10 + 1e-7, -1e-8, 0, 0), 0),  # rounding
        (Times(1, 0, 0, 10, -2, 0, 0), 100 / 9),
        (Times(0, 0, 0, 10, -2, 0, 0), 0),
        (Times(0, 0, 0, 0, 0, 0, 0), None),  # nothing was counted
    ],
)
def test_the_systems_share_is_one_whatever_the_kernel_counts(
    passed: Times, expected: float | None
) -> None:
    before = Times(50, 1, 7, 300, 9, 3, 0)
    after = Times(*(a + b for a, b in zip(before, passed, strict=True)))
    found = busy_pct(times(before), times(after))
    if expected is None or found is None:
        assert found is expected
        return
    assert found == pytest.approx(expected, abs=1e-5)
    assert 0 <= found <= 100


def test_memory_and_threads_are_those_of_this_process() -> None:
    block = bytearray(b"x") * 60_000_000
    (sample, *_) = sampled(0.02, 0.1)
    assert len(block) < sample.rss_bytes < psutil.virtual_memory().total
    assert 2 <= sample.threads <= 1000


def test_stopping_takes_a_last_sample_at_once() -> None:
    found: list[ResourceSample] = []
    sampler = ResourceSampler("edge", "run-1", found.append, 60)
    sampler.start()
    busy(0.05)
    start = time.monotonic()
    sampler.stop()
    assert time.monotonic() - start < 3
    assert len(found) == 1
    assert found[0].node == "edge"
    sampler.stop()
    assert len(found) == 1


def test_stopping_before_the_start_is_fine() -> None:
    ResourceSampler("edge", "run-1", lambda sample: None, 1).stop()


@pytest.mark.parametrize("error", [StorageFull("no space"), RecordError("broken")])
def test_a_sink_that_fails_ends_the_sampling_only(error: RecordError) -> None:
    calls: list[int] = []

    def sink(sample: ResourceSample) -> None:
        calls.append(sample.t_ns)
        raise error

    threads = threading.active_count()
    sampler = ResourceSampler("device", "run-1", sink, 0.01)
    sampler.start()
    busy(0.1)
    sampler.stop()
    assert sampler.error is error
    assert len(calls) == 1
    assert threading.active_count() == threads


@pytest.mark.parametrize("fails_at", ["borrow", "first reading", "second reading", "start"])
def test_meters_that_fail_end_the_sampling_only(
    monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    def refused(*_: object) -> Any:
        raise PermissionError(13, "Permission denied", "/sys/class")

    class Poor(Meters):
        """Its meters are read once."""

        count = 0

        def read(self, most_age_ns: int = 0) -> Snapshot:
            self.count += 1
            if self.count == {"first reading": 1, "second reading": 2}.get(fails_at):
                refused()
            return super().read(most_age_ns)

    monkeypatch.setattr(meters, "_shared", {})
    monkeypatch.setattr(meters, "Meters", refused if fails_at == "borrow" else Poor)
    if fails_at == "start":
        monkeypatch.setattr(threading.Thread, "start", refused)
    lost: list[RecordError] = []
    found: list[ResourceSample] = []
    sampler = ResourceSampler("device", "run-1", found.append, 0.01, lost=lost.append)
    sampler.start()
    sampler.mark("a")
    sampler.enter("idle")
    if fails_at == "second reading":
        sampler._thread.join(5)
    sampler.stop()
    assert lost == [sampler.error]
    assert "PermissionError" in str(sampler.error)
    assert "/sys/class" in str(sampler.error)
    assert found == []
    assert meters._shared == {}


def test_memory_that_is_not_told_costs_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr("splitbed.resources.sampler.rss_bytes", refused)
    ResourceSampler("edge", "run-1", lambda sample: None, 1).mark("after_first_frame")


def test_a_machine_that_does_not_tell_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Android: null in the row, a reason in the sources, and no zero."""
    monkeypatch.setattr(SystemMeter, "read", lambda self: None)
    monkeypatch.setattr(meters, "_shared", {})
    found: list[ResourceSample] = []
    told: list[NodeResources] = []
    sampler = ResourceSampler("device", "run-1", found.append, 60, about=told.append)
    sampler.start()
    sampler.stop()
    assert (found[-1].system_cpu_pct, found[-1].system_cpu_ns) == (None, None)
    how = {source.name: source.how for source in told[-1].sources}
    assert how["system_cpu_pct"] == how["system_cpu_ns"] == "unavailable"
    assert msgspec.json.decode(msgspec.json.encode(found[-1]), type=ResourceSample) == found[-1]


def test_a_phase_ends_with_a_sample_and_none_spans_two() -> None:
    found: list[ResourceSample] = []
    told: list[NodeResources] = []
    sampler = ResourceSampler(
        "device", "run-1", found.append, 60, about=told.append, phase="idle", memory_bytes={"a": 1}
    )
    earliest_ns = time.perf_counter_ns()
    sampler.start()
    latest_ns = time.perf_counter_ns()
    for phase in ("warmup", "frames", "frames"):
        before = len(found)
        sampler.enter(phase)
        end = time.monotonic() + 30
        while len(found) == before and phase != sampler._phase and time.monotonic() < end:
            time.sleep(0.01)
        sampler.mark("b")
    sampler.stop()
    assert [sample.phase for sample in found] == ["idle", "warmup", "frames"]
    assert sum(sample.interval_ns for sample in found) == found[-1].t_ns
    assert set(told[-1].memory_bytes) == {"a", "b"}
    start_ns = told[-1].start_ns
    assert start_ns is not None
    assert earliest_ns <= start_ns <= latest_ns
    assert start_ns + found[-1].t_ns <= time.perf_counter_ns()
    assert {source.name for source in told[0].sources} >= {"rss_bytes", "process_cpu_ns"}


def test_the_high_water_mark_and_switches_are_this_process() -> None:
    block = bytearray(b"x") * 60_000_000
    del block
    found = sampled(0.02, 0.2)
    assert all(s.rss_peak_bytes and s.rss_peak_bytes >= s.rss_bytes for s in found)
    assert found[0].rss_peak_bytes is not None
    assert found[0].rss_peak_bytes > 60_000_000
    assert sum(s.voluntary_switches or 0 for s in found) >= 1  # the sampler's own waits
    assert sum(s.system_cpu_ns or 0 for s in found) > 0
