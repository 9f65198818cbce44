"""Two hosts on this machine and the link between them, as a run uses them: a child process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from netem.link_process import LinkProcess, Starter
from netem.namespace import Namespace
from netem.probe import ProbeClient, measure
from splitbed.address import host_and_port
from splitbed.certificate import LinkMeasurement
from splitbed.link import LinkCounters, LinkFacts, LinkKind, LinkProfile, Replay, Trace


class HostsLink:
    """Two network namespaces and the shaped wire between them.

    First the edge is started `on_edge`, then `reach` says where it listens, then devices are
    started `on_device`.
    """

    def __init__(
        self,
        profile: LinkProfile,
        log: Path,
        start: Starter,
        trace: Trace | None = None,
        seed: int = 0,
    ) -> None:
        self.profile = profile
        """What it was asked to be."""
        command = ["hosts", "--profile-json", msgspec.json.encode(profile).decode()]
        command += ["--seed", str(seed)]
        self._child = LinkProcess(command, log, start, trace)
        self.process = self._child.process
        ready = self._child.ready
        self.settings: dict[str, str] = ready["settings"]
        """TCP settings of both hosts, offloads, queues."""
        self.edge_host: str = ready["edge_address"]
        """The address of the edge's host."""
        self.probe_at = host_and_port(ready["address"])
        """Where the link answers the probe: on the edge's host."""
        self.address = ""
        """Where the device connects; "" until `reach`."""
        try:
            self._device = Namespace(ready["device"])
            self._edge = Namespace(ready["edge"])
        except BaseException:
            self._child.close()
            raise
        self.on_device, self.on_edge = self._device.entered, self._edge.entered

    def reach(self, edge_address: str) -> None:
        """The edge listens there."""
        self.address = edge_address

    @property
    def kind(self) -> LinkKind:
        """The kernel's, shaped or not: frames pass two network stacks and a wire."""
        return "kernel"

    def counters(self) -> LinkCounters:
        """Bytes of IP packets, the probe's included."""
        with self._asked() as client:
            return client.counters()

    def facts(self) -> LinkFacts:
        """What the link says of itself."""
        with self._asked() as client:
            return client.facts()

    def replay(self, begin: bool) -> Replay | None:
        """Begin the trace, or end it; what came of the one that was going on."""
        with self._asked() as client:
            return client.replay(begin)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[ProbeClient]:
        """From the edge's own host: questions about the link do not go over it."""
        with self.on_edge(), ProbeClient(self.probe_at) as client:
            yield client

    def measure(self, seconds: float) -> LinkMeasurement:
        """Probe it from the device's host to the edge's, over the wire of the frames."""
        self._child.must_run()
        with self.on_device():
            return measure(self.probe_at, self.profile, seconds)

    def close(self) -> None:
        """End the process; the kernel takes the rest away with the last process in it."""
        self._child.close()
        self._device.close()
        self._edge.close()
