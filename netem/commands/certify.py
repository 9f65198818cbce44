"""`splitbed link certify`: measure a link and compare it with a profile."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from netem.commands.certificate_page import page
from netem.probe import ProbeClient, measure
from netem.profiles import find_profile
from splitbed import config
from splitbed.address import host_and_port
from splitbed.certificate import LinkCertificate, LinkMeasurement
from splitbed.errors import UsageError
from splitbed.link import LinkProfile


class CertifyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measure a link through a relay or a responder, and say whether it meets a profile.

    With --save RUN/link.json, before and after a device's run by hand, the run is certified: the
    first call writes the measurement before, the second adds the one after.
    """

    at: Annotated[str, config.POSITIONAL, Meta(description="the relay's or responder's host:port")]
    profile: Annotated[
        str,
        Meta(description="what it should be, by name or written out; if not given, what it says"),
    ] = ""
    seconds: Annotated[float, Meta(description="time to take, about", gt=0)] = 6.0
    save: Annotated[Path | None, Meta(description="keep a certificate in this file")] = None
    json: Annotated[bool, Meta(description="print the measurement as JSON")] = False


def certify(argv: Sequence[str]) -> int:
    """Measure once and compare; exit code 4 outside the profile's tolerance."""
    options = config.from_command_line(
        CertifyOptions, argv, command="splitbed link certify", table="certify"
    )

    def say(what: str) -> None:
        if not options.json:
            sys.stderr.write(f"measuring {options.at}: {what} ...\n")

    where = host_and_port(options.at)
    if options.profile:
        profile = find_profile(options.profile)
    else:
        with ProbeClient(where) as client:
            profile = client.facts().profile
    found = measure(where, profile, options.seconds, say)
    misses = found.misses(profile)
    if options.save is not None:
        _save(options.save, profile, found)
    if options.json:
        text = {"measured": found, "profile": profile, "misses": misses}
        sys.stdout.write(msgspec.json.encode(text).decode() + "\n")
    else:
        sys.stdout.write(page(profile, found, misses))
    return 4 if misses else 0


def _save(path: Path, profile: LinkProfile, found: LinkMeasurement) -> None:
    """The certificate's `before` into a new file, or its `after` into one that lacks it."""
    assert found.facts is not None
    certificate = LinkCertificate(found.facts.kind, profile, found)
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
