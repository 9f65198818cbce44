"""Links as a run uses them: the relay in a process of its own, or none at all."""

from __future__ import annotations

from pathlib import Path

import msgspec

from netem.link_process import LinkProcess, Starter
from netem.probe import ProbeClient, measure
from splitbed.address import host_and_port
from splitbed.certificate import LinkMeasurement
from splitbed.link import LinkCounters, LinkFacts, LinkKind, LinkProfile, Replay, Trace


class ProcessLink:
    """A link made by `python -m netem relay` (or, unshaped, `responder`) as a child process.

    Given a trace, it is as its profile says until `replay` begins the trace, and after it ended it.
    """

    def __init__(
        self,
        profile: LinkProfile,
        edge_address: str,
        log: Path,
        start: Starter,
        seed: int = 0,
        trace: Trace | None = None,
    ) -> None:
        self.profile = profile
        """What it was asked to be."""
        self._has_relay = profile.is_shaped or trace is not None
        if self._has_relay:
            command = ["relay", "--target", edge_address, "--seed", str(seed)]
            command += ["--profile-json", msgspec.json.encode(profile).decode()]
        else:
            command = ["responder"]
        self._child = LinkProcess([*command, "--listen", "127.0.0.1:0"], log, start, trace)
        self.process = self._child.process
        self._probe = host_and_port(self._child.ready["address"])
        self.priority: str = self._child.ready["priority"]
        """How the operating system schedules the relay."""
        self.address: str = self._child.ready["address"] if self._has_relay else edge_address
        """Where the device connects."""

    @property
    def kind(self) -> LinkKind:
        """`relay`, or `direct` where nothing is asked of the link."""
        return "relay" if self._has_relay else "direct"

    def counters(self) -> LinkCounters:
        """What the relay forwarded; zeros where there is none."""
        with ProbeClient(self._probe) as client:
            return client.counters()

    def facts(self) -> LinkFacts:
        """What it says of itself."""
        with ProbeClient(self._probe) as client:
            return client.facts()

    def replay(self, begin: bool) -> Replay | None:
        """Begin its trace (anew), or end it; what came of the replay until now, if one was on."""
        with ProbeClient(self._probe) as client:
            return client.replay(begin)

    def measure(self, seconds: float) -> LinkMeasurement:
        """Probe it through the port that frames use."""
        self._child.must_run()
        return measure(self._probe, self.profile, seconds)

    def close(self) -> None:
        """End the process."""
        self._child.close()
