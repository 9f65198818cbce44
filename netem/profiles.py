"""Link profiles: by name from `profiles.toml`, or written out."""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from splitbed.errors import UsageError
from splitbed.link import Direction, LinkProfile

_UNITS: Final = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_TIMES: Final = {"us": 1e3, "ms": 1e6, "s": 1e9}

WRITTEN_FORM: Final = (
    "rate=50mbit,delay=20ms (up=, down=, delay=, jitter=, loss=5%; delay is one way)"
)


@cache
def profiles() -> dict[str, LinkProfile]:
    """Every named profile."""
    text = Path(__file__).with_name("profiles.toml").read_text(encoding="utf-8")
    tables: dict[str, Any] = tomllib.loads(text)
    return {
        name: msgspec.convert({"name": name, **table}, LinkProfile)
        for name, table in tables.items()
    }


def find_profile(text: str) -> LinkProfile:
    """The profile of this name, or the one written out like `rate=50mbit,delay=20ms`.

    Raises UsageError for a name that is not known and a figure that cannot be.
    """
    known = profiles()
    if text in known:
        return known[text]
    if "=" not in text:
        close = difflib.get_close_matches(text, known, 1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise UsageError(
            f"unknown link profile '{text}'{hint} (known: {', '.join(known)}; or write one out as "
            f"{WRITTEN_FORM})"
        )
    figures: dict[str, dict[str, float]] = {"up": {}, "down": {}}
    given: set[str] = set()
    # up= and down= say more than rate=, wherever they stand.
    for item in sorted(text.split(","), key=lambda item: not item.startswith("rate=")):
        key, _, value = item.partition("=")
        if key in given:
            raise UsageError(f"link '{text}': '{key}' stands there twice")
        given.add(key)
        for way in ("up", "down"):
            if key in ("rate", way):
                figures[way]["rate_bps"] = round(_number(text, item, value, _UNITS))
            elif key in ("delay", "jitter"):
                figures[way][f"{key}_ns"] = round(_number(text, item, value, _TIMES))
            elif key == "loss":
                figures[way]["loss_pct"] = _number(text, item, value, {"%": 1.0})
            elif key not in ("up", "down"):
                raise UsageError(f"link '{text}': '{item}' is not understood; write {WRITTEN_FORM}")
    try:
        return LinkProfile(
            name=text,
            up=msgspec.convert(figures["up"], Direction),
            down=msgspec.convert(figures["down"], Direction),
            source="written on the command line",
        )
    except msgspec.ValidationError as error:
        raise UsageError(f"link '{text}': {error}") from error


def _number(whole: str, item: str, text: str, units: dict[str, float]) -> float:
    for unit in sorted(units, key=len, reverse=True):
        if text.lower().endswith(unit):
            try:
                number = float(text[: -len(unit)])
            except ValueError:
                break
            if 0 <= number < 1e9:
                return number * units[unit]
    raise UsageError(
        f"link '{whole}': '{item}' needs a number and a unit ({', '.join(units)}), as in "
        f"{WRITTEN_FORM}"
    )


def describe(profile: LinkProfile) -> str:
    """One line for people."""
    if not profile.is_shaped:
        return "not shaped"
    return f"up {_direction(profile.up)}, down {_direction(profile.down)}"


def _direction(direction: Direction) -> str:
    rate = "full rate" if direction.rate_bps is None else f"{direction.rate_bps / 1e6:g} Mbit/s"
    parts = [rate, f"{direction.delay_ns / 1e6:g} ms"]
    if direction.jitter_ns:
        parts.append(f"+-{direction.jitter_ns / 1e6:g} ms")
    if direction.loss_pct:
        parts.append(f"{direction.loss_pct:g} % loss")
    return " ".join(parts)
