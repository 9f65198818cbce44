"""The face of every link that a run can use."""

from __future__ import annotations

from typing import Protocol

from splitbed.certificate import LinkMeasurement
from splitbed.link import LinkCounters, LinkKind, LinkProfile, Replay


class Link(Protocol):
    """A link between a device and an edge, made by one backend."""

    @property
    def kind(self) -> LinkKind:
        """Which backend made it."""

    @property
    def profile(self) -> LinkProfile:
        """What it was asked to be."""

    @property
    def address(self) -> str:
        """`host:port` to which the device connects in order to reach the edge over this link."""

    def counters(self) -> LinkCounters:
        """What passed so far."""

    def measure(self, seconds: float) -> LinkMeasurement:
        """Probe it on the path of the frames, for about `seconds`."""

    def replay(self, begin: bool) -> Replay | None:
        """Begin its trace, or end it; what came of the replay that was going on, if any."""

    def close(self) -> None:
        """Take it away. Calling it twice is fine."""
