"""`splitbed link apply|change|show|clear|check`: an interface shaped by the kernel, by hand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from netem import interface as interfaces
from netem import shaping
from netem.detection import hosts_lack, interface_lacks
from netem.interface import Queueing
from netem.kernel_link import End, KernelLink
from netem.profiles import WRITTEN_FORM, describe, find_profile
from netem.shaping import Asked, Shaped
from splitbed import config, process
from splitbed.errors import LinkError

_INTERFACE = Meta(description="an interface, as in `ip link`")
_PROFILE = Meta(description=f"a profile's name, or {WRITTEN_FORM}")
_SIDE = Meta(description="which side of the link this machine is on")
_BOTH = Meta(description="shape what comes in as well (through an ifb): one machine shapes it all")


class ApplyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape an interface with the kernel's netem until Ctrl-C (needs root).

    Each side shapes what it sends: run it on both machines, or on one of them with --both.
    """

    interface: Annotated[str, config.POSITIONAL, _INTERFACE]
    profile: Annotated[str, _PROFILE]
    side: Annotated[Literal["edge", "device"], _SIDE] = "edge"
    both: Annotated[bool, _BOTH] = False
    keep: Annotated[bool, Meta(description="leave it so and return; `clear` takes it away")] = False
    seed: Annotated[int, Meta(description="of netem's chance, where the kernel takes one")] = 0


class ChangeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Give a shaped interface another profile while it runs; what is queued stays queued."""

    interface: Annotated[str, config.POSITIONAL, _INTERFACE]
    profile: Annotated[str, _PROFILE]
    side: Annotated[Literal["edge", "device"], _SIDE] = "edge"
    both: Annotated[bool, Meta(description="change what comes in, too")] = False


class ShowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Show what splitbed has put on the interfaces here, whose it is and what passed."""

    interface: Annotated[tuple[str, ...], config.POSITIONAL, _INTERFACE] = ()
    json: Annotated[bool, Meta(description="print it as a JSON list")] = False


class ClearOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take away what an earlier process left on the interfaces here, crashed or not.

    Links of `splitbed run` need no clearing: they go with the run's processes.
    """

    interface: Annotated[tuple[str, ...], config.POSITIONAL, _INTERFACE] = ()
    force: Annotated[bool, Meta(description="also what a living process holds")] = False


class CheckOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Say whether this machine can shape a link with its kernel, by trying it."""


def apply(argv: Sequence[str]) -> int:
    """Hold an interface shaped."""
    options = config.from_command_line(
        ApplyOptions, argv, command="splitbed link apply", table="apply"
    )
    profile = find_profile(options.profile)
    if not profile.is_shaped:
        raise LinkError(f"profile '{profile.name}' asks for nothing: there is nothing to apply")
    _must_be_able(options.both)
    end = End(options.interface, "up" if options.side == "device" else "down", options.both)
    stop = process.stop_event()
    link = KernelLink((end,), profile, seed=options.seed)
    try:
        for clause in link.stale:
            _say(f"a stale link was found and taken away: {clause}")
        for name, value in link.facts().settings.items():
            _say(f"{name}: {value}")
        _say(f"{options.interface} is shaped: {profile.name}: {describe(profile)}")
        if options.keep:
            return 0
        _say("Ctrl-C takes it away")
        stop.wait()
    except BaseException:
        link.close()
        raise
    link.close()
    return 0


def change(argv: Sequence[str]) -> int:
    """Change a shaped interface."""
    options = config.from_command_line(
        ChangeOptions, argv, command="splitbed link change", table="change"
    )
    profile = find_profile(options.profile)
    sends, receives = profile.down, profile.up
    if options.side == "device":
        sends, receives = receives, sends
    asked = Asked(sends, receives if options.both else None, profile.rtt_ns, name=profile.name)
    shaping.change(options.interface, asked)
    _say(f"{options.interface} is shaped: {profile.name}: {describe(profile)}")
    return 0


def show(argv: Sequence[str]) -> int:
    """Show what is there."""
    options = config.from_command_line(
        ShowOptions, argv, command="splitbed link show", table="show"
    )
    wanted = options.interface or tuple(interfaces.names())
    found = {name: shaping.show(name) for name in wanted if not shaping.is_ifb(name)}
    found = {name: shaped for name, shaped in found.items() if shaped.is_shaped}
    if options.json:
        rows = [{"interface": name, **msgspec.to_builtins(s)} for name, s in found.items()]
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return 0
    for name, shaped in found.items():
        sys.stdout.write(_page(name, shaped))
    if not found:
        sys.stdout.write("no interface here is shaped by splitbed\n")
    return 0


def clear(argv: Sequence[str]) -> int:
    """Clear interfaces."""
    options = config.from_command_line(
        ClearOptions, argv, command="splitbed link clear", table="clear"
    )
    done = shaping.clear_all(options.interface, options.force)
    for clause in done:
        _say(f"taken away: {clause}")
    if not done:
        _say("there was nothing to clear")
    return 0


def check(argv: Sequence[str]) -> int:
    """Try it."""
    config.from_command_line(CheckOptions, argv, command="splitbed link check", table="check")
    found = {
        "two hosts on this machine (splitbed run)": hosts_lack(),
        "both directions at an interface (link serve, apply --both)": interface_lacks(both=True),
        "what an interface sends (link apply)": interface_lacks(both=False),
    }
    for what, lacks in found.items():
        sys.stdout.write(f"{what}: {lacks or 'yes'}\n")
    return 4 if any(found.values()) else 0


def _must_be_able(both: bool) -> None:
    lacks = interface_lacks(both)
    if lacks:
        raise LinkError(lacks)


def _page(name: str, shaped: Shaped) -> str:
    record = shaped.record
    owner = "nobody left a record of whose it is"
    if record is not None:
        state = "running" if record.is_held else "gone: `splitbed link clear` takes it away"
        owner = f"'{record.profile}' since {record.begun_utc}, process {record.pid} ({state})"
    lines = [f"{name}  {owner}"]
    lines += [_line("out", queue) for queue in shaped.sends]
    lines += [_line("in", queue) for queue in shaped.receives]
    return "\n".join(lines) + "\n"


def _line(way: str, queue: Queueing) -> str:
    return (
        f"  {way:3} {queue.kind:5} {queue.handle >> 16:x}:  {queue.packets:,} packets, "
        f"{queue.bytes:,} bytes, {queue.dropped:,} dropped, {queue.waiting:,} in it now"
    )


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
