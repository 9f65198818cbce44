"""The commands of `python -m netem`, and of `splitbed link`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from netem.commands.certify import certify
from netem.commands.hosts import hosts
from netem.commands.profiles import list_profiles
from netem.commands.serve import serve
from netem.commands.servers import relay, responder
from netem.commands.shape import apply, change, check, clear, show

COMMANDS: Final[dict[str, tuple[Callable[[Sequence[str]], int], str]]] = {
    "relay": (relay, "forward connections to an edge through a shaped link"),
    "responder": (responder, "answer the probe where there is no relay"),
    "serve": (serve, "be the link before an edge, by the kernel or as a relay"),
    "apply": (apply, "shape an interface with the kernel until Ctrl-C"),
    "change": (change, "give a shaped interface another profile"),
    "show": (show, "what is shaped here, by whom, and what passed"),
    "clear": (clear, "take away what an earlier process left"),
    "check": (check, "whether this machine can shape with its kernel"),
    "certify": (certify, "measure a link and compare it with a profile"),
    "hosts": (hosts, "two hosts on one machine, for splitbed run"),
    "profiles": (list_profiles, "list the link profiles"),
}
