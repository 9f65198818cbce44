"""`python -m netem hosts`: two hosts on one machine, for `splitbed run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from netem import host_settings
from netem import interface as interfaces
from netem.kernel_link import KernelLink, two_hosts
from netem.namespace import Namespace
from netem.responder import Responder
from splitbed import config, process
from splitbed.errors import UsageError
from splitbed.link import LinkProfile, Trace

DEVICE_ADDRESS: Final = "10.83.98.1"
EDGE_ADDRESS: Final = "10.83.98.2"
_PREFIX_BITS: Final = 30
_WIRE: Final = "splitbed"


class HostsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hold two network namespaces with a shaped wire between them until SIGTERM (needs root).

    `splitbed run --backend kernel` starts this; by hand, `splitbed link apply` shapes an interface.
    """

    profile_json: Annotated[str, Meta(description="the profile as JSON")]
    trace_json: Annotated[Path | None, Meta(description="file with a trace as JSON")] = None
    seed: Annotated[int, Meta(description="of netem, where the kernel takes one")] = 0


def hosts(argv: Sequence[str]) -> int:
    """Hold them; the ready line tells where they are."""
    options = config.from_command_line(
        HostsOptions, argv, command="python -m netem hosts", table="hosts"
    )
    try:
        profile = msgspec.json.decode(options.profile_json, type=LinkProfile)
        trace = None
        if options.trace_json is not None:
            trace = msgspec.json.decode(options.trace_json.read_bytes(), type=Trace)
    except (msgspec.MsgspecError, OSError) as error:
        raise UsageError(f"python -m netem hosts: {error}") from error
    process.end_with_parent()
    stop = process.stop_event()
    device, edge = Namespace(), Namespace()
    interfaces.join(device, edge, _WIRE, (DEVICE_ADDRESS, EDGE_ADDRESS), _PREFIX_BITS)
    for namespace in (device, edge):
        with namespace.entered():
            settings = host_settings.apply(host_settings.for_link(profile, trace))
    link = KernelLink(
        two_hosts(device, edge, _WIRE), profile, trace, seed=options.seed, recorded=False
    )
    try:
        with edge.entered():
            server = Responder(f"{EDGE_ADDRESS}:0", link)
        process.announce(
            address=server.address,
            device=device.path,
            edge=edge.path,
            edge_address=EDGE_ADDRESS,
            settings=settings | link.facts().settings,
        )
        stop.wait()
        server.close()
    finally:
        link.close()
    return 0
