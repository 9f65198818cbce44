"""A link that the kernel shapes, at both of its ends or at one: what the probe and traces see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec

from netem.interface import Queueing
from netem.namespace import Namespace
from netem.qdisc import ASSUMED_BPS, must_wake
from netem.replayer import Replayer
from netem.shaping import Asked, Shaping, show
from splitbed.link import (
    Direction,
    LinkCounters,
    LinkFacts,
    LinkKind,
    LinkProfile,
    Replay,
    Trace,
    Way,
    changed,
)

Place = Callable[[], AbstractContextManager[None]]
"""Enters the network namespace of an end."""


class End(msgspec.Struct, frozen=True):
    """One end of a link: an interface and what is done there."""

    interface: str
    sends: Way
    """Which direction leaves here: "up" on the device's side, "down" on the edge's."""
    both: bool = False
    """Whether the other direction is shaped here as well, as it comes in."""
    place: Place = contextlib.nullcontext
    """By default the namespace of this process."""
    label: str = ""
    """For people, where there are two."""


class KernelLink:
    """Shapes a link, answers for it (netem.answering.Served), and changes it while it runs.

    A profile that asks for nothing, without a trace, leaves the interfaces as they are.
    """

    def __init__(
        self,
        ends: tuple[End, ...],
        profile: LinkProfile,
        trace: Trace | None = None,
        port: int = 0,
        seed: int = 0,
        recorded: bool = True,
    ) -> None:
        self.profile, self._port, self._trace = profile, port, trace
        self._held: list[tuple[End, Shaping]] = []
        self.stale: list[str] = []
        """What earlier processes had left on the interfaces, as clauses."""
        self._replayer = None
        if trace is not None:
            must_wake()
            self._replayer = Replayer(trace, profile, self)
        try:
            for number, end in enumerate(ends if profile.is_shaped or trace is not None else ()):
                asked = self._asked(end, profile.up, profile.down)
                with end.place():
                    shaping = Shaping(end.interface, asked, seed + 2 * number, recorded)
                self._held.append((end, shaping))
                self.stale += [shaping.stale] if shaping.stale else []
        except BaseException:
            self.close()
            raise

    def _asked(self, end: End, up: Direction, down: Direction) -> Asked:
        """What an end is to do."""
        ways = {"up": up, "down": down}
        other = _other(end.sends)
        return Asked(
            sends=ways[end.sends],
            receives=ways[other] if end.both else None,
            rtt_ns=self.profile.rtt_ns,
            peaks_bps=(self._peak_bps(end.sends), self._peak_bps(other)),
            name=self.profile.name,
        )

    def _peak_bps(self, way: Way) -> int | None:
        """The highest rate that a direction may have; None where it has the same all the time."""
        if self._trace is None:
            return None
        usual = self.profile.direction(way)
        steps = [changed(usual, getattr(step, way)) for step in self._trace.steps]
        rates = [direction.rate_bps for direction in (usual, *steps)]
        return max(ASSUMED_BPS if rate is None else rate for rate in rates)

    def change(self, up: Direction, down: Direction) -> None:
        """Other figures from now on; what is queued stays queued."""
        for end, shaping in self._held:
            with end.place():
                shaping.change(self._asked(end, up, down))

    def change_rates(self, up_bps: int | None, down_bps: int | None) -> None:
        """The rates alone."""
        for end, shaping in self._held:
            rates = (up_bps, down_bps) if end.sends == "up" else (down_bps, up_bps)
            with end.place():
                shaping.change_rates(*rates)

    def counters(self) -> LinkCounters:
        """Bytes of packets, with their link headers, that left each direction's queue.

        Connections are not counted.
        """
        passed: dict[Way, int] = {"up": 0, "down": 0}
        for end, _ in self._held:
            with end.place():
                found = show(end.interface)
            sides: tuple[tuple[Way, tuple[Queueing, ...]], ...] = (
                (end.sends, found.sends),
                (_other(end.sends), found.receives),
            )
            for way, queues in sides:
                if queues:
                    passed[way] = min(queue.bytes for queue in queues)
        return LinkCounters(passed["up"], passed["down"], 0)

    def facts(self) -> LinkFacts:
        """What it is, with what else was set."""
        settings = {
            f"{end.label}{name}": value
            for end, shaping in self._held
            for name, value in shaping.settings.items()
        }
        trace = "" if self._trace is None else self._trace.name
        kind: LinkKind = "kernel" if self._held else "direct"
        return LinkFacts(kind, self.profile, self._port, trace, settings)

    def replay(self, begin: bool) -> Replay | None:
        """Begin the trace, or end it; what came of the one that was going on."""
        if self._replayer is None:
            return None
        return self._replayer.begin() if begin else self._replayer.end()

    def close(self) -> None:
        """Take it all away. Calling it twice is fine."""
        with contextlib.ExitStack() as stack:  # each end, whatever becomes of the others
            for end, shaping in self._held:
                stack.callback(_close, end, shaping)
            if self._replayer is not None:
                # No last change: it would fail, or put queues where none are any more.
                self._replayer.end(restore=False)
        self._held = []


def two_hosts(device: Namespace, edge: Namespace, interface: str) -> tuple[End, End]:
    """The ends of a link between two namespaces, each shaping what it sends."""
    return (
        End(interface, "up", place=device.entered, label="device, "),
        End(interface, "down", place=edge.entered, label="edge, "),
    )


def _close(end: End, shaping: Shaping) -> None:
    with end.place():
        shaping.close()


def _other(way: Way) -> Way:
    return "down" if way == "up" else "up"
