"""The commands of `python -m netem`."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from netem.probe import measure
from netem.profiles import WRITTEN_FORM, describe, find_profile, profiles
from netem.relay import Relay
from netem.responder import Responder
from splitbed import config, process
from splitbed.address import host_and_port
from splitbed.errors import UsageError
from splitbed.link import LinkCertificate, LinkKind, LinkMeasurement, LinkProfile

_PR_SET_TIMERSLACK: Final = 29


class RelayOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Forward TCP connections to an edge through a shaped link. Run it on the edge's machine.

    The device connects to --listen instead of the edge. `splitbed link certify` against the same
    address measures the link.
    """

    target: Annotated[str, Meta(description="the edge, host:port")]
    profile: Annotated[str, Meta(description=f"a profile's name, or {WRITTEN_FORM}")] = ""
    profile_json: Annotated[str, Meta(description="the profile as JSON (for splitbed itself)")] = ""
    listen: Annotated[str, Meta(description="where devices connect")] = "127.0.0.1:50052"
    seed: Annotated[int, Meta(description="seed of the jitter")] = 0


class ResponderOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer the probe on a link that has no relay. Run it on the edge's machine."""

    listen: Annotated[str, Meta(description="where the probe connects")] = "127.0.0.1:50053"


class ProfilesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List every named link profile with the source of its figures."""


class CertifyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measure a link through a relay or a responder, and say whether it meets a profile.

    With --save RUN/link.json, before and after a device's run by hand, the run is certified: the
    first call writes the measurement before, the second adds the one after.
    """

    at: Annotated[str, config.POSITIONAL, Meta(description="the relay's or responder's host:port")]
    profile: Annotated[str, Meta(description="what it should be, by name or written out")] = "none"
    seconds: Annotated[float, Meta(description="time to take, about", gt=0)] = 6.0
    save: Annotated[Path | None, Meta(description="keep a certificate in this file")] = None
    json: Annotated[bool, Meta(description="print the measurement as JSON")] = False


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
    process.end_with_parent()
    stop = process.stop_event()
    priority = _raise_priority()
    server = Relay(profile, options.listen, options.target, options.seed)
    process.announce(address=server.address, profile=profile.name, priority=priority)
    stop.wait()
    server.close()
    return 0


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


def certify(argv: Sequence[str]) -> int:
    """Measure once and compare; exit code 4 outside the profile's tolerance."""
    options = config.from_command_line(
        CertifyOptions, argv, command="splitbed link certify", table="certify"
    )
    profile = find_profile(options.profile)
    if not options.json:
        sys.stderr.write(f"measuring {options.at} for about {options.seconds:g} s ...\n")
    found = measure(host_and_port(options.at), profile, options.seconds)
    misses = found.misses(profile)
    if options.save is not None:
        _save(options.save, profile, found)
    if options.json:
        sys.stdout.write(
            msgspec.json.encode({"measured": found, "profile": profile, "misses": misses}).decode()
            + "\n"
        )
    else:
        sys.stdout.write(_page(profile, found, misses))
    return 4 if misses else 0


def list_profiles(argv: Sequence[str]) -> int:
    """Print every named profile with its source."""
    config.from_command_line(ProfilesOptions, argv, command="splitbed link profiles", table="relay")
    for name, profile in profiles().items():
        sys.stdout.write(f"{name:16} {describe(profile)}\n{'':16} {profile.source}\n")
    sys.stdout.write(f"{'or':16} {WRITTEN_FORM}\n")
    return 0


COMMANDS: Final[dict[str, tuple[Callable[[Sequence[str]], int], str]]] = {
    "relay": (relay, "forward connections to an edge through a shaped link"),
    "responder": (responder, "answer the probe where there is no relay"),
    "certify": (certify, "measure a link and compare it with a profile"),
    "profiles": (list_profiles, "list the link profiles"),
}


def _save(path: Path, profile: LinkProfile, found: LinkMeasurement) -> None:
    """The certificate's `before` into a new file, or its `after` into one that lacks it."""
    kind: LinkKind = "relay" if profile.is_shaped else "direct"
    certificate = LinkCertificate(kind, profile, found)
    try:
        if path.exists():
            kept = msgspec.json.decode(path.read_bytes(), type=LinkCertificate)
            if kept.after is not None or kept.profile != profile:
                raise UsageError(
                    f"{path} holds a certificate that is complete, or of another profile: give "
                    "another file"
                )
            certificate = msgspec.structs.replace(kept, after=found)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(certificate))
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is no certificate: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot keep a certificate in {path}: {error.strerror}") from error


def _page(profile: LinkProfile, found: LinkMeasurement, misses: list[str]) -> str:
    def wanted(bps: float | None) -> str:
        return "not asked" if bps is None else f"{bps / 1e6:.4g} Mbit/s"

    rows = [
        f"profile        {profile.name}: {describe(profile)}",
        f"uplink         {found.up_goodput_bps / 1e6:.4g} Mbit/s of TCP payload "
        f"(asked {wanted(profile.up.payload_bps)}, {found.up_probe_bytes} bytes)",
        f"downlink       {found.down_goodput_bps / 1e6:.4g} Mbit/s "
        f"(asked {wanted(profile.down.payload_bps)}, {found.down_probe_bytes} bytes)",
        f"round trip     median {found.rtt_median_ns / 1e6:.3f} ms, p95 "
        f"{found.rtt_p95_ns / 1e6:.3f} ms (asked {profile.rtt_ns / 1e6:g} ms, "
        f"{len(found.rtt_ns)} samples)",
        "verdict        " + ("outside tolerance: " + "; ".join(misses) if misses else "certified"),
    ]
    return "\n".join(rows) + "\n"


def _raise_priority() -> str:
    """Let the relay run when a packet is due, whatever else this machine computes.

    A link is a thing of its own in the real world; here it shares processors with both nodes.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            return "realtime (SCHED_RR 1)"
        except OSError:
            pass
    try:
        return f"nice {os.nice(-10)}"
    except OSError:
        return "normal"
