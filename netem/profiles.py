"""Link profiles: by name from `profiles.toml` or a file of one's own, or written out."""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from netem.notation import changed
from splitbed.config import load_toml
from splitbed.errors import UsageError
from splitbed.link import BurstLoss, Direction, LinkProfile

WRITTEN_FORM: Final = "rate=50mbit,delay=20ms (one way; all items: splitbed link profiles --help)"

_FILE: Final = re.compile(r"(?P<path>.+\.toml)(?::(?P<name>[^:]*))?")
_NESTED: Final[dict[str, type[msgspec.Struct]]] = {
    "up": Direction,
    "down": Direction,
    "burst_loss": BurstLoss,
}


@cache
def profiles() -> dict[str, LinkProfile]:
    """Every named profile."""
    return read_profiles(Path(__file__).with_name("profiles.toml"))


def read_profiles(path: Path) -> dict[str, LinkProfile]:
    """Every profile of a TOML file, by its name.

    Raises UsageError for a file that cannot be read, a key that is not known and a figure that
    cannot be, with the table named.
    """
    found: dict[str, LinkProfile] = {}
    for name, table in load_toml(path).items():
        if not isinstance(table, dict):
            raise UsageError(f"'{name}' in {path} is no profile: write [{name}] and its figures")
        _check_keys(table, LinkProfile, name, path)
        if "name" in table:
            raise UsageError(f"unknown key 'name' in [{name}] of {path}: the table is the name")
        try:
            found[name] = msgspec.convert({"name": name, **table}, LinkProfile)
        except msgspec.ValidationError as error:
            text = str(error).replace("`$.", "`")
            raise UsageError(f"[{name}] of {path}: {text[:1].lower()}{text[1:]}") from error
    return found


def _check_keys(table: dict[str, Any], kind: type[msgspec.Struct], where: str, path: Path) -> None:
    for key, value in table.items():
        if key not in kind.__struct_fields__:
            close = difflib.get_close_matches(key, kind.__struct_fields__, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UsageError(f"unknown key '{key}' in [{where}] of {path}{hint}")
        if key in _NESTED and isinstance(value, dict):
            _check_keys(value, _NESTED[key], f"{where}.{key}", path)


def find_profile(text: str) -> LinkProfile:
    """The profile of this name, of a file as `FILE.toml:NAME`, or written out.

    A name may be changed by items after it, as in `5g-urban-macro,up.loss=1%`; the text is then the
    name of what comes of it. `netem.notation.GRAMMAR` has all items. Raises UsageError for a name
    that is not known and a figure that cannot be.
    """
    first, *items = text.split(",")
    if _FILE.fullmatch(first.strip()):
        base = _of_file(first.strip())
    elif "=" in first:
        bare = LinkProfile(text, Direction(), Direction(), source="written out")
        return changed(bare, [first, *items], text)
    else:
        base = _named(first.strip())
    if not items:
        return base
    source = f"{base.source}; changed by {','.join(items)}".removeprefix("; ")
    return msgspec.structs.replace(changed(base, items, text), source=source)


def _of_file(text: str) -> LinkProfile:
    found = _FILE.fullmatch(text)
    assert found is not None
    path, name = Path(found["path"]), found["name"]
    known = read_profiles(path.expanduser())
    if name in known:
        return msgspec.structs.replace(known[name], name=text)
    close = difflib.get_close_matches(name or "", known, 1)
    example = close[0] if close else next(iter(known), "NAME")
    lacks = f"no link profile '{name}'" if name else "link profiles, of which one must be named"
    raise UsageError(
        f"{path} has {lacks}: write {path}:{example} (it has {', '.join(known) or 'none at all'})"
    )


def _named(name: str) -> LinkProfile:
    known = profiles()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise UsageError(
        f"unknown link profile '{name}'{hint} (splitbed link profiles lists all; or write one out "
        f"as {WRITTEN_FORM})"
    )


def needs_kernel(profile: LinkProfile) -> bool:
    """Whether it asks for what a relay of TCP connections cannot make: things done to packets."""
    return bool(profile.up.packet_effects or profile.down.packet_effects)


def describe(profile: LinkProfile) -> str:
    """One line for people, with everything that is asked."""
    if not profile.is_shaped:
        return "not shaped"
    if profile.up == profile.down:
        return f"each way {_direction(profile.up)}"
    return f"up {_direction(profile.up)}, down {_direction(profile.down)}"


def describe_extras(profile: LinkProfile) -> str:
    """As `describe`, but only what is asked besides rate and delay; "" for nothing."""
    up, down = " ".join(_extras(profile.up)), " ".join(_extras(profile.down))
    if up == down:
        return up and f"each way {up}"
    return ", ".join(f"{way} {text}" for way, text in (("up", up), ("down", down)) if text)


def _direction(direction: Direction) -> str:
    rate = "full rate" if direction.rate_bps is None else f"{direction.rate_bps / 1e6:g} Mbit/s"
    return " ".join((rate, f"{direction.delay_ns / 1e6:g} ms", *_extras(direction)))


def _extras(direction: Direction) -> list[str]:
    parts: list[str] = []
    if direction.jitter_ns:
        parts.append(f"+-{direction.jitter_ns / 1e6:g} ms")
        notes: list[str] = []
        if direction.jitter_distribution != "normal":
            notes.append(direction.jitter_distribution)
        if direction.jitter_correlation_pct:
            notes.append(f"{direction.jitter_correlation_pct:g} % correlated")
        if notes:
            parts[-1] += f" ({', '.join(notes)})"
    burst = direction.burst_loss
    if burst is not None:
        within = "" if burst.bad_loss_pct == 100 else f", losing {burst.bad_loss_pct:g} % within"
        outside = f", {burst.good_loss_pct:g} % outside" if burst.good_loss_pct else ""
        parts.append(
            f"{burst.mean_pct:.3g} % loss in bursts (begun {burst.to_bad_pct:g} %, ended "
            f"{burst.to_good_pct:g} %{within}{outside})"
        )
    parts += [
        f"{pct:g} % {word}"
        for pct, word in (
            (direction.loss_pct, "loss"),
            (direction.duplicate_pct, "duplicated"),
            (direction.reorder_pct, "reordered"),
            (direction.corrupt_pct, "corrupted"),
        )
        if pct
    ]
    if direction.queue_ns is not None:
        parts.append(f"queue {direction.queue_ns / 1e6:g} ms")
    return parts
