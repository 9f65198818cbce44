"""`splitbed link certify`: measure a link and compare it with a profile."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from netem.probe import measure
from netem.profiles import describe, find_profile
from splitbed import config
from splitbed.address import host_and_port
from splitbed.certificate import LinkCertificate, LinkMeasurement
from splitbed.errors import UsageError
from splitbed.link import LinkKind, LinkProfile


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
