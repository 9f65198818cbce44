"""Stages of other installed packages, found by their entry points and imported when asked for.

A package offers a stage under its id in the group `splitbed.codec_stages`. Finding reads the
metadata of installed packages alone; a package whose import fails is named where its stage is asked
for, and everything else goes on working.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from functools import cache
from typing import Final

import msgspec

from splitbed.codec.stage import ArrayStage, ByteStage, Stage, SymbolStage
from splitbed.errors import CodecUnknown

GROUP: Final = "splitbed.codec_stages"

_ID: Final = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")
"""What can be written in a codec."""


class Extension(msgspec.Struct, frozen=True):
    """A stage that an installed package offers."""

    id: str
    package: str
    version: str
    target: str
    """`module:class`."""

    @property
    def origin(self) -> str:
        """Package and version, as a session's specification and its record say them."""
        return f"{self.package} {self.version}"

    def load(self) -> type[Stage]:
        """The stage's class; CodecUnknown, naming the package, for anything else."""
        found = _loaded(self)
        if isinstance(found, str):
            raise CodecUnknown(f"codec stage '{self.id}' of the package {self.origin} {found}")
        return found


@cache
def installed() -> dict[str, tuple[Extension, ...]]:
    """All that is offered, by id; more than one where packages claim the same id."""
    found: dict[str, tuple[Extension, ...]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        package, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
        one = Extension(point.name, package, version, point.value)
        if one not in found.get(one.id, ()):
            found[one.id] = (*found.get(one.id, ()), one)
    return dict(sorted(found.items()))


def extension(name: str) -> Extension | None:
    """The one that offers a stage of this id; CodecUnknown where packages disagree."""
    claims = installed().get(name, ())
    if len(claims) > 1:
        packages = " and ".join(claim.origin for claim in claims)
        raise CodecUnknown(
            f"codec stage '{name}' is offered by {packages}: neither is taken, remove one of them"
        )
    return claims[0] if claims else None


@cache
def _loaded(one: Extension) -> type[Stage] | str:
    """The class, or what is wrong with it."""
    if not _ID.match(one.id):
        return "cannot be used: an id is made of a-z, 0-9 and _, and begins with a letter"
    module, _, name = one.target.partition(":")
    try:
        kind: object = importlib.import_module(module)
        for part in name.split("."):
            kind = getattr(kind, part)
    except (Exception, SystemExit) as error:  # whatever a package does when it is imported
        why = " ".join(str(error).split())[:300]
        return f"cannot be imported from {one.target} ({type(error).__name__}: {why})"
    if not (isinstance(kind, type) and issubclass(kind, (ArrayStage, SymbolStage, ByteStage))):
        return f"is no stage: {one.target} should derive from ArrayStage, SymbolStage or ByteStage"
    if getattr(kind, "id", None) != one.id:
        return f"calls itself {getattr(kind, 'id', None)!r} in its class {one.target}: say one id"
    return kind
