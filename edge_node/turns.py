"""Whose tail runs next: the tail is what all sessions of an edge share."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Final, Protocol

from splitbed.errors import EdgeUnreachable, SplitbedError
from splitbed.tensor import Array

Values = Mapping[str, Array]

QUICK_NS: Final = 200_000
"""A tail that takes less is run by whoever offers it: to wake a worker for it takes as long."""

_CPU: Final = "CPUExecutionProvider"


def tails_at_once(provider: str, threads: int) -> int:
    """How many tails may run at a time: on a CPU as many as its cores hold, elsewhere one.

    `threads` is what one tail takes, 0 for all cores. A GPU runs one after the other anyhow.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if provider != _CPU or not threads or not cores:
        return 1
    return max(1, cores // threads)


class Tail(Protocol):
    """What runs the last part of a model; sessions with equal tails share one."""

    @property
    def most(self) -> int:
        """Frames that it takes at once; 1 where it cannot be batched."""

    def run(
        self, feeds: Sequence[Values], wanted: Sequence[str] | None = None
    ) -> list[dict[str, Array]]:
        """The outputs of each frame, all or those wanted, from the values that cross for each."""


class Job:
    """One frame's run of the tail, in one lane. `wait` gives its outputs."""

    __slots__ = (
        *("batch", "ended_ns", "error", "feeds", "lane", "offered_ns"),
        *("outputs", "ready", "started_ns"),
    )

    def __init__(self, lane: Lane, feeds: Values) -> None:
        self.lane, self.feeds = lane, feeds
        self.outputs: dict[str, Array] = {}
        self.error: Exception | None = None
        self.batch = 1
        """Frames that shared the run."""
        self.offered_ns = self.started_ns = self.ended_ns = time.perf_counter_ns()
        self.ready = threading.Lock()
        """Held until the job is done."""
        self.ready.acquire()

    def wait(self) -> dict[str, Array]:
        """The outputs, once there; raises what the run raised. To be called once."""
        self.ready.acquire()
        if self.error is not None:
            raise self.error
        return self.outputs

    def fail(self, error: Exception) -> None:
        """It ends without having run."""
        self.error = error
        self.started_ns = self.ended_ns = time.perf_counter_ns()
        self.ready.release()


class Lane:
    """The jobs of one session, first come first served. `close` gives up those that wait."""

    def __init__(self, turns: Turns, tail: Tail, window: int) -> None:
        self._turns, self.tail, self.window = turns, tail, window
        self.wanted: tuple[str, ...] | None = None
        """Outputs that the session reads, None for all: of a tail on a GPU no others are copied."""
        self.waiting: deque[Job] = deque()
        self.inside = 0
        """Jobs offered and not done; all of these are the scheduler's, under its lock."""
        self.closed = False
        self.quick = False
        """Whether its last run took less than QUICK_NS."""

    def run(self, feeds: Values) -> Job:
        """Run one: on this thread where it need not wait and cannot share its run."""
        return self._turns.run(self, feeds)

    def offer(self, feeds: Values) -> Job:
        """Have one run, here and now where that is quick; `Job.wait` waits for it."""
        return self._turns.offer(self, feeds)

    def close(self) -> None:
        """No turn will come any more: what waits fails. What runs is finished."""
        self._turns.close_lane(self)


class Turns:
    """At most `at_once` runs of tails at a time, in turn for every session that has one to run.

    Lanes with something to run stand in a ring; who was served goes to its end. So a session waits
    for at most one run of each other session, however much these have in flight.

    With `batch` above 1, jobs of equal tails run together, taken from the lanes in the same turn.
    A batch that is not full waits for at most `wait_ms` from its first job on, and only where a
    session of that tail has room in its window for another frame; it keeps its place meanwhile.
    """

    def __init__(self, at_once: int, *, batch: int = 1, wait_ms: float = 0.0) -> None:
        self.at_once, self.batch, self._wait_ns = at_once, batch, int(wait_ms * 1e6)
        self._ring: deque[Lane] = deque()
        self._lanes: set[Lane] = set()
        self._running = 0
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._gathering = 0
        self._work: SimpleQueue[Job | None] = SimpleQueue()
        self._workers: list[threading.Thread] = []

    def lane(self, tail: Tail, window: int) -> Lane:
        """A place for one session, which may have `window` frames in flight."""
        lane = Lane(self, tail, window)
        with self._lock:
            self._lanes.add(lane)
        return lane

    def waiting(self) -> int:
        """Jobs that wait for their turn."""
        with self._lock:
            return sum(len(lane.waiting) for lane in self._ring)

    def run(self, lane: Lane, feeds: Values) -> Job:
        """See Lane."""
        if min(self.batch, lane.tail.most) > 1:
            return self._offer(lane, feeds)
        job = Job(lane, feeds)
        if self._enter(job):
            _run([job])
            following = self._done([job])
            if following is not None:
                self._hand(following)
            job.ready.release()
        return job

    def offer(self, lane: Lane, feeds: Values) -> Job:
        """See Lane."""
        return self.run(lane, feeds) if lane.quick else self._offer(lane, feeds)

    def _offer(self, lane: Lane, feeds: Values) -> Job:
        job = Job(lane, feeds)
        if self._enter(job):
            self._hand(job)
        return job

    def close_lane(self, lane: Lane) -> None:
        """See Lane."""
        with self._lock:
            self._lanes.discard(lane)
            lane.closed = True
            given_up = list(lane.waiting)
            lane.waiting.clear()
            if given_up:
                self._ring.remove(lane)
            self._came.notify_all()
        for job in given_up:
            job.fail(_closed())

    def stop(self) -> None:
        """End every lane and the threads, when what runs is finished."""
        with self._lock:
            lanes, workers = list(self._lanes), list(self._workers)
            self._workers.clear()
        for lane in lanes:
            self.close_lane(lane)
        for _ in workers:
            self._work.put(None)
        for worker in workers:
            worker.join(timeout=5)

    def _enter(self, job: Job) -> bool:
        """Whether the job may run now; else it stands in its lane, or has failed."""
        lane = job.lane
        with self._lock:
            if lane.closed:
                job.fail(_closed())
                return False
            lane.inside += 1
            if self._running < self.at_once:
                self._running += 1
                return True
            if not lane.waiting:
                self._ring.append(lane)
            lane.waiting.append(job)
            if self._gathering:
                self._came.notify_all()
            return False

    def _hand(self, job: Job) -> None:
        """Let a worker run it."""
        with self._lock:
            if len(self._workers) < self.at_once:
                worker = threading.Thread(target=self._serve, name="tails", daemon=True)
                self._workers.append(worker)
                worker.start()
        self._work.put(job)

    def _done(self, jobs: Sequence[Job]) -> Job | None:
        """These are done; the next one in the ring takes their place, for a worker to run."""
        with self._lock:
            for job in jobs:
                job.lane.inside -= 1
            if not self._ring:
                self._running -= 1
                return None
            return self._first(self._ring[0])

    def _first(self, lane: Lane) -> Job:
        job = lane.waiting.popleft()
        self._ring.remove(lane)
        if lane.waiting:
            self._ring.append(lane)
        return job

    def _serve(self) -> None:
        following: Job | None = None
        while (job := following or self._work.get()) is not None:
            jobs = self._gathered(job)
            _run(jobs)
            # Whoever waits keeps this thread at work: no change of threads between two tails.
            following = self._done(jobs)
            for done in jobs:
                done.ready.release()

    def _gathered(self, first: Job) -> list[Job]:
        """The job and those that run with it."""
        tail, jobs = first.lane.tail, [first]
        most = min(self.batch, tail.most)
        if most == 1:
            return jobs
        deadline_ns = first.offered_ns + self._wait_ns
        with self._lock:
            while True:
                self._take(tail, jobs, most)
                left_ns = deadline_ns - time.perf_counter_ns()
                if len(jobs) == most or left_ns <= 0 or not self._more_may_come(tail):
                    return jobs
                self._gathering += 1
                self._came.wait(left_ns / 1e9)
                self._gathering -= 1

    def _take(self, tail: Tail, jobs: list[Job], most: int) -> None:
        """Add waiting jobs of this tail, one from each lane in turn."""
        while len(jobs) < most:
            lane = next((lane for lane in self._ring if lane.tail is tail), None)
            if lane is None:
                return
            jobs.append(self._first(lane))

    def _more_may_come(self, tail: Tail) -> bool:
        return any(lane.tail is tail and lane.inside < lane.window for lane in self._lanes)


def _run(jobs: Sequence[Job]) -> None:
    """Run jobs of one tail together; a batch that fails is run again frame by frame."""
    tail = jobs[0].lane.tail
    started_ns = time.perf_counter_ns()
    error: Exception | None = None
    outputs: list[dict[str, Array]] = []
    try:
        outputs = tail.run([job.feeds for job in jobs], _wanted(jobs))
    except Exception as failure:  # `Job.wait` raises it, on the thread of its frame
        error = failure
    if error is not None and len(jobs) > 1:
        for job in jobs:
            _run([job])
        return
    ended_ns = time.perf_counter_ns()
    for number, job in enumerate(jobs):
        job.started_ns, job.ended_ns = started_ns, ended_ns
        job.lane.quick = ended_ns - started_ns < QUICK_NS
        job.batch, job.error = len(jobs), error
        job.outputs = outputs[number] if error is None else {}
        job.feeds = {}


def _wanted(jobs: Sequence[Job]) -> tuple[str, ...] | None:
    """What any of them reads; None for all outputs."""
    names: dict[str, None] = {}
    for job in jobs:
        if job.lane.wanted is None:
            return None
        names |= dict.fromkeys(job.lane.wanted)
    return tuple(names)


def _closed() -> SplitbedError:
    return EdgeUnreachable("the session was closed before this frame had its turn")
