"""The commands of `python -m netem`, and of `splitbed link`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from netem.commands.certify import certify
from netem.commands.hosts import hosts
from netem.commands.profiles import list_profiles
from netem.commands.servers import relay, responder

COMMANDS: Final[dict[str, tuple[Callable[[Sequence[str]], int], str]]] = {
    "relay": (relay, "forward connections to an edge through a shaped link"),
    "responder": (responder, "answer the probe where there is no relay"),
    "certify": (certify, "measure a link and compare it with a profile"),
    "hosts": (hosts, "two hosts on one machine, for splitbed run"),
    "profiles": (list_profiles, "list the link profiles"),
}
