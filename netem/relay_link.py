"""Links as a run uses them: the relay in a process of its own, or none at all."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from netem.probe import ProbeClient, measure
from splitbed.address import host_and_port
from splitbed.certificate import LinkMeasurement
from splitbed.errors import LinkError
from splitbed.link import LinkCounters, LinkFacts, LinkKind, LinkProfile, Replay, Trace

Starter = Callable[[list[str], IO[bytes]], "subprocess.Popen[bytes]"]
"""Starts a Python module with arguments as a child that ends with us; stderr goes to the file."""


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
        self._profile = profile
        self._has_relay = profile.is_shaped or trace is not None
        if self._has_relay:
            command = ["relay", "--target", edge_address, "--seed", str(seed)]
            command += ["--profile-json", msgspec.json.encode(profile).decode()]
        else:
            command = ["responder"]
        self._log = log
        with tempfile.TemporaryDirectory() as folder, log.open("ab") as errors:
            if trace is not None:
                # Linux takes no argument of more than 128 kB.
                file = Path(folder, "trace.json")
                file.write_bytes(msgspec.json.encode(trace))
                command += ["--trace-json", str(file)]
            self.process = start(["-m", "netem", *command, "--listen", "127.0.0.1:0"], errors)
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
        if not line:
            self.close()
            words = _last_line(log).removeprefix("netem: ")
            raise LinkError(f"the {command[0]} did not start: {words}")
        ready = msgspec.json.decode(line)
        self._probe_address: str = ready["address"]
        self.priority: str = ready["priority"]
        """How the operating system schedules the relay."""
        self._address = ready["address"] if self._has_relay else edge_address

    @property
    def kind(self) -> LinkKind:
        """`relay`, or `direct` where nothing is asked of the link."""
        return "relay" if self._has_relay else "direct"

    @property
    def profile(self) -> LinkProfile:
        """What it was asked to be."""
        return self._profile

    @property
    def address(self) -> str:
        """Where the device connects."""
        return self._address

    def counters(self) -> LinkCounters:
        """What the relay forwarded; zeros where there is none."""
        with ProbeClient(host_and_port(self._probe_address)) as client:
            return client.counters()

    def facts(self) -> LinkFacts:
        """What it says of itself."""
        with ProbeClient(host_and_port(self._probe_address)) as client:
            return client.facts()

    def replay(self, begin: bool) -> Replay | None:
        """Begin its trace (anew), or end it; what came of the replay until now, if one was on."""
        with ProbeClient(host_and_port(self._probe_address)) as client:
            return client.replay(begin)

    def measure(self, seconds: float) -> LinkMeasurement:
        """Probe it through the port that frames use."""
        if self.process.poll() is not None:
            raise LinkError(f"the link's process ended on its own: {_last_line(self._log)}")
        return measure(host_and_port(self._probe_address), self._profile, seconds)

    def close(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"see {log}"
