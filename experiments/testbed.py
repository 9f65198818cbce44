"""An edge and a certified link, kept for one run or for several."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from experiments import children
from experiments.remote_link import RemoteLink
from netem.hosts_link import HostsLink
from netem.least_delay import least_delays_ns, told_ns
from netem.link import Link
from netem.relay_link import ProcessLink
from splitbed.certificate import LinkCertificate
from splitbed.errors import LinkError
from splitbed.link import LinkKind, LinkProfile, Replay, Trace

_ATTEMPTS: Final = 4
"""Measurements of the link before a run, at most."""


class TestbedOptions(msgspec.Struct, frozen=True):
    """What an edge and a link are made of."""

    profile: LinkProfile
    kind: LinkKind
    """Which backend makes the link."""
    models: Path
    """Model folder or file for the edge."""
    out: Path
    """Folder of run folders; the edge leaves its audit rows there."""
    remote: RemoteLink | None
    """The way to an edge that is running already; None to start both."""
    provider: str
    edge_threads: int
    certify_s: float
    sample_s: float
    seed: int
    message_mib: int = 128
    trace: Trace | None = None
    """What the link does while a run goes on."""
    edge_turns: Mapping[str, float] = {}
    """What the edge is told of its tails' turns, by its flags' names."""


class Testbed:
    """Starts the edge and the link; measures the link before and after every run."""

    def __init__(self, options: TestbedOptions, logs: Path) -> None:
        self.options = options
        self.edge: subprocess.Popen[bytes] | None = None
        self.edge_facts: dict[str, Any] = {}
        """The edge's ready line."""
        self.priority = ""
        """How the operating system schedules the relay."""
        self.on_device: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        """Enters the host of the device: what is started there is on the device's side."""
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._hosts: HostsLink | None = None
        try:
            self.link: Link = self._start()
            self._last = self.link.measure(options.certify_s)
        except BaseException:
            self.close()
            raise

    def _start(self) -> Link:
        options = self.options
        if options.remote is not None:
            return options.remote
        if options.kind == "kernel":
            log, start = self.logs / "link.log", children.start_module
            self._hosts = hosts = HostsLink(
                options.profile, log, start, options.trace, options.seed
            )
            with hosts.on_edge():
                self._start_edge(hosts.edge_host)
            hosts.reach(self.edge_facts["address"])
            self.on_device = hosts.on_device
            return hosts
        self._start_edge("127.0.0.1")
        link = ProcessLink(
            options.profile,
            self.edge_facts["address"],
            self.logs / "relay.log",
            children.start_module,
            options.seed,
            options.trace,
        )
        self.priority = link.priority
        return link

    def _start_edge(self, host: str) -> None:
        options = self.options
        arguments = ["-m", "edge_node", "--listen", f"{host}:0", "--status", ""]
        arguments += ["--models", str(options.models), "--records", str(options.out)]
        arguments += ["--provider", options.provider, "--threads", str(options.edge_threads)]
        arguments += ["--sample-s", str(options.sample_s)]
        arguments += ["--message-mib", str(options.message_mib)]
        for name, value in options.edge_turns.items():
            arguments += [f"--{name}", str(value)]
        log = self.logs / "edge.log"
        with log.open("ab") as errors:
            self.edge = children.start_module(arguments, errors)
        self.edge_facts = children.ready_line(self.edge, "edge", log)

    @property
    def link_settings(self) -> dict[str, str]:
        """What else was set on the link, for the record."""
        if self.options.remote is not None:
            return self.options.remote.settings
        if self._hosts is not None:
            return self._hosts.settings
        return {} if self._last.facts is None else self._last.facts.settings

    @property
    def least_delays_ns(self) -> tuple[int, int]:
        """Up and down: what nothing on the link is faster than, as far as is known."""
        if self.options.remote is not None:
            return told_ns(self._last.facts)
        return least_delays_ns(self.options.profile, self.options.trace)

    def begin_replay(self) -> None:
        """Begin the link's trace; nothing without one."""
        if self.options.trace is not None:
            self.link.replay(begin=True)

    def end_replay(self) -> Replay | None:
        """Back to the profile; what came of the trace, None without one or where the link ended."""
        if self.options.trace is None:
            return None
        with contextlib.suppress(LinkError):
            return self.link.replay(begin=False)
        return None

    def certificate(self) -> LinkCertificate:
        """A certificate for a run that begins now: the last measurement is its `before`.

        A busy moment of the machine must not spoil a run that has not begun: a link outside its
        tolerance is measured again first, and the certificate says how often.
        """
        profile, attempts = self.options.profile, 1
        while self._last.misses(profile) and attempts < _ATTEMPTS:
            self._last = self.link.measure(self.options.certify_s)
            attempts += 1
        return LinkCertificate(self.link.kind, profile, self._last, before_attempts=attempts)

    def certified(self, certificate: LinkCertificate) -> LinkCertificate:
        """The same with its `after`, measured now; without it where the link is gone."""
        try:
            self._last = self.link.measure(self.options.certify_s)
        except LinkError:
            return certificate
        users = self.link.users if isinstance(self.link, RemoteLink) else 1
        return msgspec.structs.replace(certificate, after=self._last, users=users)

    def ended(self) -> str:
        """A clause for each process started here that is no longer there; "" if all are."""
        processes = {"edge": self.edge}
        if isinstance(self.link, (ProcessLink, HostsLink)):
            processes["relay" if self.link.kind == "relay" else "link"] = self.link.process
        return ", ".join(
            f"the {name} {children.ending(process)}"
            for name, process in processes.items()
            if process is not None and process.poll() is not None
        )

    def close(self) -> None:
        """End what was started here. Calling it twice is fine."""
        link = getattr(self, "link", None) or self._hosts
        if link is not None and link is not self.options.remote:
            link.close()
        if self.edge is not None:
            children.end(self.edge)

    def __enter__(self) -> Testbed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
