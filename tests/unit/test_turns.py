"""Whose tail runs next: turns between sessions, batches, and what is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from edge_node.turns import Job, Lane, Turns, tails_at_once
from splitbed.errors import EdgeUnreachable, EngineError
from splitbed.tensor import Array
from tests.unit.edges import eventually

Feeds = Sequence[Mapping[str, Array]]
BAD = -1.0


class _Tail:
    """Doubles a number; remembers who ran with whom, and stops at a gate where there is one."""

    def __init__(self, most: int = 1, gate: threading.Semaphore | None = None) -> None:
        self.most, self._gate = most, gate
        self.runs: list[list[float]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def run(self, feeds: Feeds, wanted: Sequence[str] | None = None) -> list[dict[str, Array]]:
        with self._lock:
            self.runs.append([float(feed["x"][0]) for feed in feeds])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        if self._gate is not None:
            assert self._gate.acquire(timeout=10)
        with self._lock:
            self.at_once -= 1
        if any(feed["x"][0] == BAD for feed in feeds):
            raise EngineError("a frame that no tail can run")
        return [{"y": 2 * feed["x"]} for feed in feeds]


def of(number: float) -> dict[str, Array]:
    return {"x": np.array([number], np.float32)}


def offered(lane: Lane, *numbers: float) -> list[Job]:
    return [lane.offer(of(number)) for number in numbers]


def results(jobs: Sequence[Job]) -> list[float]:
    return [float(job.wait()["y"][0]) for job in jobs]


def tail_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "tails"}


def test_a_frame_that_need_not_wait_runs_on_its_own_thread() -> None:
    turns, before = Turns(1), tail_threads()
    lane = turns.lane(_Tail(), 1)
    assert results([lane.run(of(3)), lane.run(of(4))]) == [6, 8]
    assert tail_threads() == before
    turns.stop()


def test_a_quick_tail_runs_on_the_thread_that_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_node.turns.QUICK_NS", 200_000_000)  # no machine is busy for so long
    turns, tail, seen = Turns(1), _Tail(), list[str]()
    run = tail.run

    def watched(feeds: Feeds, wanted: Sequence[str] | None = None) -> list[dict[str, Array]]:
        seen.append(threading.current_thread().name)
        if feeds[0]["x"][0] == 3:
            time.sleep(0.25)
        return run(feeds, wanted)

    tail.run = watched  # type: ignore[method-assign]
    lane, here = turns.lane(tail, 1), threading.current_thread().name
    for number in range(6):
        assert results([lane.offer(of(number))]) == [2 * number]
        assert lane.quick == (number != 3)
    # Nothing is known of the first; the one after a slow one is handed to a worker.
    assert seen == ["tails", here, here, here, "tails", here]
    turns.stop()


def test_sessions_take_turns_however_much_they_have_in_flight() -> None:
    gate = threading.Semaphore(0)
    turns, tail = Turns(1), _Tail(gate=gate)
    greedy, modest, last = (turns.lane(tail, window) for window in (8, 1, 2))
    jobs = offered(greedy, 10, 11, 12, 13, 14)
    jobs += offered(modest, 20) + offered(last, 30, 31)
    assert eventually(lambda: len(tail.runs) == 1)
    assert turns.waiting() == 7
    gate.release(len(jobs))
    assert results(jobs) == [20, 22, 24, 26, 28, 40, 60, 62]
    # First come, first served within a session; one each in turn between them.
    assert [numbers[0] for numbers in tail.runs] == [10, 11, 20, 30, 12, 31, 13, 14]
    turns.stop()


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_tails_run_at_once_than_may(at_once: int) -> None:
    gate = threading.Semaphore(0)
    turns, tail = Turns(at_once), _Tail(gate=gate)
    lanes = [turns.lane(tail, 4) for _ in range(4)]
    found: list[float] = []

    def alone(lane: Lane) -> None:
        found.append(results([lane.run(of(1))])[0])

    threads = [threading.Thread(target=alone, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    jobs = [job for lane in lanes for job in offered(lane, 1, 2, 3)]
    assert eventually(lambda: tail.at_once == at_once)
    gate.release(16)
    for thread in threads:
        thread.join(10)
    assert results(jobs) == [2, 4, 6] * 4
    assert found == [2] * 4
    assert tail.most_at_once == at_once
    assert turns.waiting() == 0
    turns.stop()


def test_equal_tails_share_a_run_and_others_do_not() -> None:
    gate = threading.Semaphore(0)
    turns = Turns(1, batch=3, wait_ms=0)
    shared, other = _Tail(most=8, gate=gate), _Tail(most=8, gate=gate)
    lanes = [turns.lane(tail, 8) for tail in (shared, other, shared)]
    first = offered(lanes[0], 1)
    assert eventually(lambda: shared.runs == [[1]])
    jobs = offered(lanes[0], 2, 3, 4) + offered(lanes[1], 50) + offered(lanes[2], 6)
    gate.release(10)
    assert results(first + jobs) == [2, 4, 6, 8, 100, 12]
    # Of two sessions with equal tails each is in the batch before one is in it twice.
    assert [sorted(run) for run in shared.runs] == [[1], [2, 3, 6], [4]]
    assert other.runs == [[50]]
    assert [job.batch for job in jobs] == [3, 3, 1, 1, 3]
    turns.stop()


def test_a_batch_waits_for_those_who_may_come_and_for_nobody_else() -> None:
    turns, tail = Turns(1, batch=2, wait_ms=60_000), _Tail(most=2)
    alone = turns.lane(tail, 1)
    # Its window is used up by this frame: nobody can join it.
    assert results([alone.run(of(1))]) == [2]
    other = turns.lane(tail, 1)
    job = alone.offer(of(2))
    assert not job.ready.acquire(timeout=0.05)
    assert results([other.run(of(3)), job]) == [6, 4]
    assert tail.runs[0] == [1]
    assert sorted(tail.runs[1]) == [2, 3]
    # Whom it waits for may leave instead.
    job = alone.offer(of(4))
    other.close()
    assert results([job]) == [8]
    turns.stop()


def test_a_batch_waits_no_longer_than_it_may() -> None:
    turns, tail = Turns(1, batch=2, wait_ms=1), _Tail(most=2)
    turns.lane(tail, 1)  # silent all the time
    assert results([turns.lane(tail, 1).run(of(1))]) == [2]
    turns.stop()


def test_a_frame_that_fails_spoils_no_other() -> None:
    gate = threading.Semaphore(0)
    turns, tail = Turns(1, batch=4, wait_ms=0), _Tail(most=4, gate=gate)
    lanes = [turns.lane(tail, 2) for _ in range(3)]
    first = lanes[0].offer(of(9))
    assert eventually(lambda: tail.at_once == 1)
    jobs = [lane.offer(of(number)) for lane, number in zip(lanes, (1, BAD, 3), strict=True)]
    gate.release(10)
    assert results([first, jobs[0], jobs[2]]) == [18, 2, 6]
    with pytest.raises(EngineError, match="no tail can run"):
        jobs[1].wait()
    assert [job.batch for job in jobs] == [1, 1, 1]
    assert results(offered(lanes[1], 5)) == [10]
    turns.stop()


def test_a_session_that_ends_takes_its_frames_along() -> None:
    gate = threading.Semaphore(0)
    turns, tail = Turns(1), _Tail(gate=gate)
    lane, other = turns.lane(tail, 4), turns.lane(tail, 4)
    running, *waiting = offered(lane, 1, 2, 3)
    (kept,) = offered(other, 4)
    assert eventually(lambda: tail.at_once == 1)
    lane.close()
    lane.close()
    for job in (*waiting, lane.offer(of(5)), lane.run(of(6))):
        with pytest.raises(EdgeUnreachable, match="closed before this frame had its turn"):
            job.wait()
    gate.release(2)
    assert results([running, kept]) == [2, 8]  # what runs is finished
    assert turns.waiting() == 0
    turns.stop()


def test_nothing_is_left_when_it_is_stopped() -> None:
    before = tail_threads()
    turns = Turns(2)
    lane = turns.lane(_Tail(), 8)
    assert results(offered(lane, *range(8))) == [2 * n for n in range(8)]
    assert len(tail_threads() - before) <= 2
    turns.stop()
    assert eventually(lambda: tail_threads() <= before)


def test_a_mistake_of_ours_reaches_the_thread_of_its_frame() -> None:
    class Broken(_Tail):
        def run(self, feeds: Feeds, wanted: Sequence[str] | None = None) -> list[dict[str, Array]]:
            raise KeyError("x")

    turns = Turns(1)
    lane = turns.lane(Broken(), 1)
    for job in (lane.run(of(1)), lane.offer(of(1))):
        with pytest.raises(KeyError):
            job.wait()
    assert results([turns.lane(_Tail(), 1).run(of(1))]) == [2]
    turns.stop()


def test_how_many_run_at_once_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    cpu = "CPUExecutionProvider"
    assert [tails_at_once(cpu, threads) for threads in (0, 1, 2, 3, 8, 16)] == [1, 8, 4, 2, 1, 1]
    assert tails_at_once("CUDAExecutionProvider", 1) == 1
