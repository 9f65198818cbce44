"""Which backend makes a link: what was asked for, or what this machine can do."""

from __future__ import annotations

from typing import Literal

import msgspec

from netem.detection import hosts_lack, interface_lacks
from netem.relay import left_out
from splitbed.errors import LinkError
from splitbed.link import LinkKind, LinkProfile, Trace

Backend = Literal["auto", "kernel", "relay"]


class Choice(msgspec.Struct, frozen=True):
    """A backend, and why it is this one, as a clause for people."""

    kind: LinkKind
    why: str


def choose(
    wanted: Backend, profile: LinkProfile, trace: Trace | None = None, alone: bool = False
) -> Choice:
    """The backend for a profile on this machine.

    `auto` takes the kernel where this process may shape and the kernel can, else the relay; nothing
    at all where nothing is asked of the link. `alone`: both directions are shaped at an interface
    of this host, as an edge does it; else two hosts are made here. Raises LinkError where what is
    wanted cannot be had.
    """
    if not profile.is_shaped and trace is None and wanted != "kernel":
        return Choice("direct", "nothing is asked of the link")
    if wanted == "relay":
        return _relay("as asked for", profile)
    lacks = interface_lacks(both=True) if alone else hosts_lack()
    if not lacks:
        return Choice("kernel", "as asked for" if wanted == "kernel" else "netem is there")
    if wanted == "kernel":
        raise LinkError(lacks)
    lacks = lacks.removesuffix(", or use --backend relay")
    effects = {*profile.up.packet_effects, *profile.down.packet_effects}
    if trace is not None and any(step.up.loss_pct or step.down.loss_pct for step in trace.steps):
        effects.add("loss")
    if effects:
        whose = f"profile '{profile.name}'" if trace is None else f"'{profile.name}' and its trace"
        raise LinkError(
            f"{whose} asks for {' and '.join(sorted(effects))}, which only the kernel can make: "
            f"{lacks}"
        )
    return _relay(lacks, profile)


def _relay(why: str, profile: LinkProfile) -> Choice:
    notes = (f"{name} {what}" for name, what in left_out(profile).items())
    return Choice("relay", "; ".join((why, *notes)))
