"""Which backend makes a link: what was asked for, or what this machine can do."""

from __future__ import annotations

from typing import Literal

import msgspec

from netem.detection import kernel_lacks
from splitbed.errors import LinkError
from splitbed.link import LinkKind, LinkProfile, Trace

Backend = Literal["auto", "kernel", "relay"]


class Choice(msgspec.Struct, frozen=True):
    """A backend, and why it is this one, as a clause for people."""

    kind: LinkKind
    why: str


def choose(
    wanted: Backend, profile: LinkProfile, trace: Trace | None = None, both: bool = False
) -> Choice:
    """The backend for a profile on this machine.

    `auto` takes the kernel where this process may shape and the kernel can, else the relay; nothing
    at all where nothing is asked of the link. `both`: an interface's two directions are shaped, as
    an edge does alone. Raises LinkError where what is wanted cannot be had.
    """
    if wanted == "auto" and not profile.is_shaped and trace is None:
        return Choice("direct", "nothing is asked of the link")
    if wanted == "relay":
        return Choice(
            "relay" if profile.is_shaped or trace is not None else "direct", "as asked for"
        )
    lacks = kernel_lacks(both)
    if not lacks:
        return Choice("kernel", "as asked for" if wanted == "kernel" else "netem is there")
    if wanted == "kernel":
        raise LinkError(lacks)
    effects = (*profile.up.packet_effects, *profile.down.packet_effects)
    if effects:
        raise LinkError(
            f"profile '{profile.name}' asks for {' and '.join(dict.fromkeys(effects))}, which only "
            f"the kernel can make: {lacks.removesuffix(', or use --backend relay')}"
        )
    if trace is not None and any(s.up.loss_pct or s.down.loss_pct for s in trace.steps):
        raise LinkError(
            f"the trace {trace.name} asks for loss, which only the kernel can make: "
            f"{lacks.removesuffix(', or use --backend relay')}"
        )
    return Choice("relay", lacks.removesuffix(", or use --backend relay"))
