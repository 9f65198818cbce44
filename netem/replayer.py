"""Replays a trace on a link that the kernel shapes: changes at their instants, and how late."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final, Protocol

import msgspec

from netem.drift import Drift
from netem.priority import raise_priority
from netem.qdisc import granted_bits
from splitbed.errors import LinkError
from splitbed.link import Direction, LinkProfile, Replay, Trace, changed

_LOOK_UP_S: Final = 0.1
"""How soon a replay that waits for its next step hears that it is to end."""


class Changeable(Protocol):
    """A link that can be changed while it runs."""

    def change(self, up: Direction, down: Direction) -> None:
        """All figures."""

    def change_rates(self, up_bps: int | None, down_bps: int | None) -> None:
        """The rates alone."""


class Replayer:
    """One replay at a time of one trace over a profile.

    Raises LinkError where a step of the trace and the profile together are no link.
    """

    def __init__(self, trace: Trace, profile: LinkProfile, link: Changeable) -> None:
        self.trace, self._profile, self._link = trace, profile, link
        self._changes_due = list(_applied(trace, profile))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed = False
        self._drift, self._changes = Drift(), 0
        self._start_ns = 0

    def begin(self) -> Replay | None:
        """Begin the trace; what came of the replay that was going on, if there was one."""
        before = self.end()
        self._stop.clear()
        self._drift, self._changes, self._failed = Drift(), 0, False
        self._start_ns = time.perf_counter_ns()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()
        return before

    def end(self, restore: bool = True) -> Replay | None:
        """Back to the profile, unless the link is being closed; what came of the replay.

        None where none was going on, or where the link could not be changed at some point.
        """
        if self._thread is None:
            return None
        self._stop.set()
        self._thread.join()
        self._thread = None
        elapsed_ns = time.perf_counter_ns() - self._start_ns
        if restore:
            self._attempt(lambda: self._link.change(self._profile.up, self._profile.down))
        if self._failed:
            return None
        return Replay(
            trace=self.trace.name,
            digest=self.trace.digest,
            elapsed_ns=elapsed_ns,
            changes=self._changes,
            drift_p50_ns=self._drift.p50_ns,
            drift_max_ns=self._drift.max_ns,
        )

    def _run(self) -> None:
        # Of this thread alone: what answers the probe must not keep its sender from a processor.
        raise_priority()
        self._attempt(self._follow)

    def _attempt(self, doing: Callable[[], object]) -> None:
        try:
            doing()
        except (LinkError, OSError) as error:  # the interface is gone, say
            self._failed = True
            sys.stderr.write(f"the replay of {self.trace.name} has ended early: {error}\n")

    def _follow(self) -> None:
        round_ns, last = self._start_ns, (self._profile.up, self._profile.down)
        while True:
            for at_ns, up, down in self._changes_due:
                due_ns = round_ns + at_ns
                if self._stopped_before(due_ns):
                    return
                if _same_but_rate(up, last[0]) and _same_but_rate(down, last[1]):
                    self._link.change_rates(up.rate_bps, down.rate_bps)
                else:
                    self._link.change(up, down)
                self._drift.add(time.perf_counter_ns() - due_ns)
                self._changes += 1
                last = (up, down)
            round_ns += self.trace.duration_ns

    def _stopped_before(self, due_ns: int) -> bool:
        while (left_s := (due_ns - time.perf_counter_ns()) / 1e9) > _LOOK_UP_S:
            if self._stop.wait(min(left_s - _LOOK_UP_S / 2, _LOOK_UP_S)):
                return True
        if left_s > 0:
            time.sleep(left_s)
        return self._stop.is_set()


def _applied(trace: Trace, profile: LinkProfile) -> Iterator[tuple[int, Direction, Direction]]:
    """When each step is due, and the two directions from then on.

    Rates are less by what a change itself lets through. Without that, ten changes a second carry
    20 kB a second too many, which is a quarter of a bad moment's capacity. What a short and slow
    step cannot give back, the next ones do.
    """
    steps = trace.steps
    lasting = [b.at_ns - a.at_ns for a, b in pairwise(steps)]
    lasting.append(trace.duration_ns - steps[-1].at_ns)
    ways = []
    for usual, changes in (
        (profile.up, [step.up for step in steps]),
        (profile.down, [step.down for step in steps]),
    ):
        try:
            found = [changed(usual, change) for change in changes]
        except ValueError as error:
            raise LinkError(
                f"the trace {trace.name} over the profile '{profile.name}' is no link: {error}"
            ) from error
        rates = _less_grants([direction.rate_bps for direction in found], lasting)
        ways.append([_at(d, rate) for d, rate in zip(found, rates, strict=True)])
    for step, up, down in zip(steps, *ways, strict=True):
        yield step.at_ns, up, down


def _less_grants(rates: list[int | None], lasting_ns: list[int]) -> list[int | None]:
    """One direction's rates, less what each change lets through."""
    found: list[int | None] = []
    owed_bits, before = 0.0, rates[-1]
    for rate, ns in zip(rates, lasting_ns, strict=True):
        if rate is None:
            found.append(None)
        else:
            owed_bits += granted_bits(rate) if rate != before else 0.0
            wanted_bits = rate * ns / 1e9
            back_bits = min(owed_bits, wanted_bits)
            owed_bits -= back_bits
            found.append(round((wanted_bits - back_bits) / (ns / 1e9)))
        before = rate
    return found


def _at(direction: Direction, rate_bps: int | None) -> Direction:
    return msgspec.structs.replace(direction, rate_bps=rate_bps)


def _same_but_rate(one: Direction, other: Direction) -> bool:
    return _at(one, None) == _at(other, None)
