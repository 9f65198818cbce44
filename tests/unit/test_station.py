"""Stages of the device: which thread carries a frame, and in which order frames come out."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from device_node.begun import Begun
from device_node.station import Station
from splitbed.record import FrameRecord


def frames(count: int) -> list[Begun]:
    row = FrameRecord(run_id="r", session_id=1, frame_id=0, warmup=False, status="ok", source="x")
    return [Begun(row, Path(str(number))) for number in range(count)]


class Seen:
    """What a stage did, on which threads; slow or without a way on for some frames."""

    def __init__(
        self, slow: set[int] | None = None, last: set[int] | None = None, slow_s: float = 0.01
    ) -> None:
        self.slow, self.last, self._slow_s = slow or set(), last or set(), slow_s
        self.numbers: list[int] = []
        self.threads: list[str] = []
        self._inside = threading.Lock()

    def carry(self, frame: Begun) -> bool:
        assert self._inside.acquire(blocking=False), "two frames in one stage"
        number = int(frame.path.name)
        self.numbers.append(number)
        self.threads.append(threading.current_thread().name)
        if number in self.slow:
            time.sleep(self._slow_s)
        self._inside.release()
        return number not in self.last


def run(stages: list[Seen], count: int) -> None:
    """Frames through all stages, brought by this thread."""
    following: Station | None = None
    stations: list[Station] = []
    for seen in reversed(stages):
        following = Station(seen.carry, following)
        stations.insert(0, following)
    threads = [
        threading.Thread(target=station.work, name=f"stage {number}")
        for number, station in enumerate(stations)
    ]
    for thread in threads:
        thread.start()
    for frame in frames(count):
        stations[0].bring(frame)
    stations[0].end()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_slow_stage_has_its_thread_and_the_frame_after_a_quick_one_comes_through_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("device_node.station.QUICK_NS", 200_000_000)  # no machine is so busy
    here, seen = threading.current_thread().name, Seen(slow={1, 2}, slow_s=0.25)
    station = Station(seen.carry, None)
    thread = threading.Thread(target=station.work, name="stage")
    thread.start()
    for number, frame in enumerate(frames(6)):
        station.bring(frame)
        deadline = time.monotonic() + 10
        while len(seen.numbers) <= number or station._brought != station._done:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    station.end()
    thread.join(10)
    # Nothing is known of the first; after a slow one, the next is the thread's again.
    assert seen.threads == ["stage", here, "stage", "stage", here, here]


@pytest.mark.parametrize("quick_ns", [0, 5_000_000, 10**12])
def test_frames_keep_their_order_and_are_alone_in_a_stage(
    monkeypatch: pytest.MonkeyPatch, quick_ns: int
) -> None:
    monkeypatch.setattr("device_node.station.QUICK_NS", quick_ns)
    rng = random.Random(quick_ns)
    stages = [Seen(slow=set(rng.sample(range(60), 8))) for _ in range(3)]
    run(stages, 60)
    assert [seen.numbers for seen in stages] == [list(range(60))] * 3


def test_a_frame_whose_way_ends_goes_no_further() -> None:
    stages = [Seen(last={3}), Seen(last={0, 5}), Seen()]
    run(stages, 8)
    assert [seen.numbers for seen in stages] == [
        list(range(8)),
        [0, 1, 2, 4, 5, 6, 7],
        [1, 2, 4, 6, 7],
    ]
