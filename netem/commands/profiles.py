"""`splitbed link profiles`: every named link."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from netem.profiles import WRITTEN_FORM, describe, profiles
from splitbed import config


class ProfilesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List every named link profile with the source of its figures."""


def list_profiles(argv: Sequence[str]) -> int:
    """Print every named profile with its source."""
    config.from_command_line(ProfilesOptions, argv, command="splitbed link profiles", table="relay")
    for name, profile in profiles().items():
        sys.stdout.write(f"{name:16} {describe(profile)}\n{'':16} {profile.source}\n")
    sys.stdout.write(f"{'or':16} {WRITTEN_FORM}\n")
    return 0
