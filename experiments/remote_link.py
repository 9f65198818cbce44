"""The way to an edge that somebody else started, as the link's own end describes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from netem.attendance import Attendance
from netem.probe import ProbeClient, measure
from netem.profiles import describe
from splitbed.address import host_and_port, written
from splitbed.certificate import LinkMeasurement
from splitbed.errors import LinkError
from splitbed.link import LinkCounters, LinkKind, LinkProfile, Replay

_MADE_BY: Final[dict[LinkKind, str]] = {
    "direct": "nothing shapes it",
    "relay": "made by the relay in user space",
    "kernel": "made by the kernel (netem)",
}
_SAID_AFTER_S: Final = 2.0


class RemoteLink:
    """A link with a probe at its other end, which may have other users.

    It is measured while nobody uses it, by one of them, for all (netem.users). A device joins when
    this is made: make it early.
    """

    def __init__(
        self, profile: LinkProfile, address: str, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.profile = profile
        self.users = 1
        """Devices that used the link at once, this one included, before the last measurement."""
        self.replayed: Replay | None = None
        """What came of the link's trace before the last measurement."""
        self.stop: threading.Event | None = None
        """Set, it ends every wait for others."""
        self._at, self._say = host_and_port(address), say
        self._attendance = Attendance(self._at)
        facts = self._facts = self._attendance.link
        if facts.kind == "direct" and not facts.port:
            self.close()
            raise LinkError(
                f"what answers at {address} is a responder, and does not say where the edge is: "
                "start `python -m netem serve` there, or a relay"
            )
        self.address = written(self._at[0], facts.port) if facts.port else address
        """Where frames go."""

    @property
    def kind(self) -> LinkKind:
        """Who makes it."""
        return self._facts.kind

    @property
    def settings(self) -> dict[str, str]:
        """What else was set on it, for the record."""
        return self._facts.settings

    def describe(self) -> str:
        """What it is and where, for people."""
        text = f"{_MADE_BY[self.kind]} at {written(*self._at)}"
        if self._facts.port not in (0, self._at[1]):
            text += f"; frames go to {self.address}"
        said, asked = self._facts.profile, self.profile
        if self.kind != "direct" and (said.up, said.down) != (asked.up, asked.down):
            text += f"; it says that it is '{said.name}': {describe(said)}"
        if self._facts.trace:
            text += f"; replays {self._facts.trace} while somebody uses it"
        return text

    def counters(self) -> LinkCounters:
        """What passed so far."""
        with ProbeClient(self._at) as client:
            return client.counters()

    def measure(self, seconds: float) -> LinkMeasurement:
        """What the idle link is, measured by this device or by another one for all."""
        told = self._attendance.idle(4 * seconds + 30, self.stop, self._waiter(""))
        if told.measurement is None:
            told = self._attendance.measured(measure(self._at, self.profile, seconds))
        assert told.measurement is not None  # by Attendance
        self.users, self.replayed = max(1, told.users), told.replay
        return told.measurement

    def replay(self, begin: bool) -> Replay | None:
        """Nothing: the link replays its trace while it has users; `replayed` is what came of it."""
        return None

    def end_with_others(self, code: int) -> int:
        """Wait until every user of the link is done; the largest exit code of all, `code` too."""
        return self._attendance.done(code, self.stop, self._waiter(" to end"))

    def close(self) -> None:
        """Leave its users; the link itself is not ours to take away."""
        self._attendance.close()

    def _waiter(self, what: str) -> Callable[[int], None]:
        start, said = time.monotonic(), False

        def wait(others: int) -> None:
            nonlocal said
            if others and not said and time.monotonic() > start + _SAID_AFTER_S:
                devices = "another device" if others == 1 else f"{others} other devices"
                self._say(f"waiting for {devices} on this link{what}")
                said = True

        return wait
