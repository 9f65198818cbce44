"""`splitbed link relay` and `responder`: the servers of a link."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from netem.priority import raise_priority
from netem.profiles import WRITTEN_FORM, find_profile
from netem.relay import Relay
from netem.responder import Responder
from netem.traces import WRITTEN_TRACE, find_trace
from splitbed import config, process
from splitbed.errors import UsageError
from splitbed.link import LinkProfile, Trace


class RelayOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Forward TCP connections to an edge through a shaped link. Run it on the edge's machine.

    The device connects to --listen instead of the edge. `splitbed link certify` against the same
    address measures the link.
    """

    target: Annotated[str, Meta(description="the edge, host:port")]
    profile: Annotated[str, Meta(description=f"a profile's name, or {WRITTEN_FORM}")] = ""
    profile_json: Annotated[str, Meta(description="the profile as JSON (for splitbed itself)")] = ""
    trace: Annotated[str, Meta(description=f"replay this when asked to: {WRITTEN_TRACE}")] = ""
    trace_json: Annotated[
        Path | None, Meta(description="the trace as a file of JSON (for splitbed itself)")
    ] = None
    begin: Annotated[
        bool, Meta(description="begin the trace at once; the first run begins it anew")
    ] = False
    listen: Annotated[str, Meta(description="where devices connect")] = "127.0.0.1:50052"
    seed: Annotated[int, Meta(description="seed of the jitter")] = 0


class ResponderOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer the probe on a link that has no relay. Run it on the edge's machine."""

    listen: Annotated[str, Meta(description="where the probe connects")] = "127.0.0.1:50053"


def relay(argv: Sequence[str]) -> int:
    """Run a relay until SIGTERM."""
    options = config.from_command_line(
        RelayOptions, argv, command="python -m netem relay", table="relay"
    )
    if options.profile_json:
        try:
            profile = msgspec.json.decode(options.profile_json, type=LinkProfile)
        except msgspec.MsgspecError as error:
            raise UsageError(f"--profile-json: {error}") from error
    elif options.profile:
        profile = find_profile(options.profile)
    else:
        raise UsageError("python -m netem relay needs --profile; see --help")
    trace = _trace(options, profile)
    process.end_with_parent()
    stop = process.stop_event()
    priority = raise_priority()
    server = Relay(profile, options.listen, options.target, options.seed, trace)
    if options.begin:
        server.replay(True)
    process.announce(address=server.address, profile=profile.name, priority=priority)
    stop.wait()
    server.close()
    return 0


def _trace(options: RelayOptions, profile: LinkProfile) -> Trace | None:
    if options.trace_json is None:
        if options.begin and not options.trace:
            raise UsageError("--begin needs a trace: say --trace TRACE")
        return find_trace(options.trace, profile) if options.trace else None
    try:
        return msgspec.json.decode(options.trace_json.read_bytes(), type=Trace)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"--trace-json {options.trace_json}: {error}") from error


def responder(argv: Sequence[str]) -> int:
    """Run a responder until SIGTERM."""
    options = config.from_command_line(
        ResponderOptions, argv, command="python -m netem responder", table="responder"
    )
    process.end_with_parent()
    stop = process.stop_event()
    server = Responder(options.listen)
    process.announce(address=server.address, profile="none", priority="normal")
    stop.wait()
    server.close()
    return 0
