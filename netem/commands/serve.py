"""`splitbed link serve`: be the link, on the edge's machine, with whatever this machine can do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from netem import interface as interfaces
from netem.backend import Backend, choose
from netem.kernel_link import End, KernelLink
from netem.priority import raise_priority
from netem.profiles import WRITTEN_FORM, describe, find_profile
from netem.relay import Relay
from netem.responder import Responder
from netem.traces import WRITTEN_TRACE, find_trace
from splitbed import config, process
from splitbed.address import host_and_port
from splitbed.errors import UsageError
from splitbed.link import LinkProfile


class ServeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Be the link before an edge until SIGTERM, for devices that can shape nothing themselves.

    With the kernel, both directions are shaped at the edge's interface (what comes in through an
    ifb), and devices talk to the edge itself; else a relay listens for them. Either way the probe
    answers at --listen, and tells them where to go.
    """

    profile: Annotated[str, Meta(description=f"a profile's name, or {WRITTEN_FORM}")]
    edge: Annotated[str, Meta(description="the edge, host:port")] = "127.0.0.1:50051"
    listen: Annotated[str, Meta(description="where the probe, and devices of a relay, connect")] = (
        "127.0.0.1:50052"
    )
    trace: Annotated[
        str, Meta(description=f"what it does while a run goes on: {WRITTEN_TRACE}")
    ] = ""
    begin: Annotated[
        bool, Meta(description="begin the trace at once; the first run begins it anew")
    ] = False
    backend: Annotated[
        Backend, Meta(description="auto: the kernel's netem where this process may use it")
    ] = "auto"
    interface: Annotated[
        str, Meta(description="shaped by the kernel (default: that of the default route)")
    ] = ""
    seed: Annotated[int, Meta(description="of the link's chance")] = 0


def serve(argv: Sequence[str]) -> int:
    """Hold the link."""
    options = config.from_command_line(
        ServeOptions, argv, command="splitbed link serve", table="serve"
    )
    profile = find_profile(options.profile)
    trace = find_trace(options.trace, profile) if options.trace else None
    if options.begin and trace is None:
        raise UsageError("--begin needs a trace: say --trace TRACE")
    choice = choose(options.backend, profile, trace, alone=True)
    process.end_with_parent()
    stop = process.stop_event()
    if choice.kind == "relay":
        priority = raise_priority()
        relay = Relay(profile, options.listen, options.edge, options.seed, trace)
        if options.begin:
            relay.replay(True)
        _announce(relay.address, choice.kind, choice.why, profile, priority)
        stop.wait()
        relay.close()
        return 0
    ends: tuple[End, ...] = ()
    if choice.kind == "kernel":
        ends = (End(options.interface or interfaces.of_default_route(), "down", both=True),)
    port = host_and_port(options.edge)[1]
    link = KernelLink(ends, profile, trace, port, options.seed)
    try:
        for clause in link.stale:
            sys.stderr.write(f"a stale link was found and taken away: {clause}\n")
        responder = Responder(options.listen, link)
        if options.begin:
            link.replay(True)
        _announce(responder.address, choice.kind, choice.why, profile, "normal")
        stop.wait()
        responder.close()
    finally:
        link.close()
    return 0


def _announce(address: str, kind: str, why: str, profile: LinkProfile, priority: str) -> None:
    sys.stderr.write(f"link {profile.name}: {describe(profile)}; backend {kind}: {why}\n")
    process.announce(address=address, profile=profile.name, kind=kind, priority=priority)
