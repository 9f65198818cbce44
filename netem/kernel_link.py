"""A link that the kernel shapes, at both of its ends or at one: what the probe and traces see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from netem.namespace import Namespace
from netem.replayer import Replayer
from netem.shaping import Asked, Shaping, show
from splitbed.link import Direction, LinkCounters, LinkFacts, LinkProfile, Replay, Trace

Place = Callable[[], AbstractContextManager[None]]
"""Enters the network namespace of an end."""


class KernelLink:
    """Shapes a link, answers for it (netem.answering.Served), and changes it while it runs.

    `ends` are (place, interface) pairs: the device's and the edge's where both are ours, or the
    edge's alone, whose own direction is then the downlink and which shapes what it receives too.
    """

    def __init__(
        self,
        ends: tuple[tuple[Place, str], ...],
        profile: LinkProfile,
        trace: Trace | None = None,
        port: int = 0,
        seed: int = 0,
        recorded: bool = True,
    ) -> None:
        self.profile, self._port, self._trace = profile, port, trace
        self._ends = ends if profile.is_shaped or trace is not None else ()
        self._shapings: list[Shaping] = []
        self.stale: list[str] = []
        """What earlier processes had left on the interfaces, as clauses."""
        try:
            for (place, interface), asked in zip(
                self._ends, self._asked(profile.up, profile.down), strict=True
            ):
                with place():
                    shaping = Shaping(interface, asked, seed + 2 * len(self._shapings), recorded)
                self._shapings.append(shaping)
                self.stale += [shaping.stale] if shaping.stale else []
        except BaseException:
            self.close()
            raise
        self._replayer = None if trace is None else Replayer(trace, profile, self)

    def _asked(self, up: Direction, down: Direction) -> tuple[Asked, ...]:
        """What each end is to do."""
        rtt_ns, name = self.profile.rtt_ns, self.profile.name
        if not self._ends:
            return ()
        peaks = (_peak(self._trace, "up"), _peak(self._trace, "down"))
        if len(self._ends) == 1:
            return (Asked(down, up, rtt_ns, peaks[::-1], name),)
        return tuple(
            Asked(direction, None, rtt_ns, (peak, None), name)
            for direction, peak in zip((up, down), peaks, strict=True)
        )

    def change(self, up: Direction, down: Direction) -> None:
        """Other figures from now on; what is queued stays queued."""
        for (place, _), shaping, asked in zip(
            self._ends, self._shapings, self._asked(up, down), strict=True
        ):
            with place():
                shaping.change(asked)

    def change_rates(self, up_bps: int | None, down_bps: int | None) -> None:
        """The rates alone."""
        if len(self._shapings) == 1:
            self._shapings[0].change_rates(down_bps, up_bps)
            return
        for (place, _), shaping, rate_bps in zip(
            self._ends, self._shapings, (up_bps, down_bps), strict=True
        ):
            with place():
                shaping.change_rates(rate_bps, None)

    def counters(self) -> LinkCounters:
        """Bytes of IP packets that left each direction's queue. Connections are not counted."""
        passed = []
        for place, interface in self._ends:
            with place():
                found = show(interface)
            sides = (found.receives, found.sends) if len(self._ends) == 1 else (found.sends,)
            passed += [min((queue.bytes for queue in side), default=0) for side in sides]
        up_bytes, down_bytes = passed or (0, 0)
        return LinkCounters(up_bytes, down_bytes, 0)

    def facts(self) -> LinkFacts:
        """What it is, with what else was set."""
        settings: dict[str, str] = {}
        for number, shaping in enumerate(self._shapings):
            end = "" if len(self._shapings) == 1 else ("device, ", "edge, ")[number]
            settings |= {f"{end}{name}": value for name, value in shaping.settings.items()}
        trace = "" if self._trace is None else self._trace.name
        return LinkFacts("kernel", self.profile, self._port, trace, settings)

    def replay(self, begin: bool) -> Replay | None:
        """Begin the trace, or end it; what came of the one that was going on."""
        if self._replayer is None:
            return None
        return self._replayer.begin() if begin else self._replayer.end()

    def close(self) -> None:
        """Take it all away. Calling it twice is fine."""
        replayer = getattr(self, "_replayer", None)
        if replayer is not None:
            replayer.end()
        for (place, _), shaping in zip(self._ends, self._shapings, strict=False):
            with place():
                shaping.close()
        self._shapings = []


def two_hosts(
    device: Namespace, edge: Namespace, interface: str
) -> tuple[tuple[Place, str], tuple[Place, str]]:
    """The ends of a link between two namespaces."""
    return (device.entered, interface), (edge.entered, interface)


def one_end(interface: str) -> tuple[tuple[Place, str]]:
    """The edge's end alone, in the namespace of this process."""
    return ((contextlib.nullcontext, interface),)


def _peak(trace: Trace | None, way: str) -> int | None:
    rates = [] if trace is None else [getattr(step, way).rate_bps for step in trace.steps]
    return max((rate for rate in rates if rate is not None), default=None)
