"""A link written out in one line of text, such as `rate=50mbit,delay=20ms,up.loss=1%`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple, get_args, get_type_hints

from msgspec.structs import asdict

from splitbed.errors import UsageError
from splitbed.link import BurstLoss, Direction, LinkProfile, Way

GRAMMAR: Final = """\
A link is a name, or written out as items between commas:

  rate=50mbit      both ways; up=10mbit and down=50mbit each on its own
  delay=20ms       one way
  jitter=2ms       standard deviation; jitter=2ms/pareto/25% has a distribution
                   (normal, uniform, pareto, paretonormal) and a correlation
  loss=1%          packets lost, each on its own
  burst=0.5%/25%   packets lost in bursts (Gilbert-Elliott): the chance, packet
                   by packet, that a burst begins and that it ends; the shares
                   lost within bursts and outside may follow, as 1%/25%/80%/0%
  duplicate=1%     packets that arrive twice
  reorder=1%       packets that skip the delay
  corrupt=0.1%     packets with one bit flipped
  queue=50ms       longest wait for the rate; else one round trip (the kernel's
                   only: a relay drops nothing, and leaves it out)

An item holds for both ways, or for one as up.loss=1% or down.delay=5ms. What
is said of one way counts more than what is said of both. Rates (kbit, mbit,
gbit) are bits of IP packets per second; times are in us, ms or s.

A name may come first, changed by what follows: 5g-urban-macro,up.loss=1%. In
place of a name, FILE.toml:NAME is a profile of your own. Such a file holds:

  [NAME]
  source = "measured in the cellar"
  up = { rate_bps = 2_000_000, delay_ns = 30_000_000, loss_pct = 0.5 }
  down = { rate_bps = 8_000_000, delay_ns = 30_000_000 }
"""

WAYS: Final[tuple[Way, ...]] = get_args(Way)

_RATES: Final = {"kbit": Decimal(10**3), "mbit": Decimal(10**6), "gbit": Decimal(10**9)}
_TIMES: Final = {"us": Decimal(10**3), "ms": Decimal(10**6), "s": Decimal(10**9)}
_PERCENT: Final = {"%": Decimal(1)}
_LARGEST_RATE_BPS: Final = 10**12
_LONGEST_NS: Final = 60 * 10**9
_QUANTITY: Final = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?)\s*([a-z%]+)", re.IGNORECASE
)
_SHARES: Final = {
    "duplicate": "duplicate_pct",
    "reorder": "reorder_pct",
    "corrupt": "corrupt_pct",
}
_KEYS: Final = ("rate", "delay", "jitter", "loss", "burst", *_SHARES, "queue")
_DISTRIBUTIONS: Final[tuple[str, ...]] = get_args(get_type_hints(Direction)["jitter_distribution"])


class _Item(NamedTuple):
    """One item, read."""

    ways: tuple[Way, ...]
    key: str
    text: str
    fields: dict[str, Any]
    """What it makes of a Direction's fields."""


def changed(profile: LinkProfile, items: Sequence[str], name: str) -> LinkProfile:
    """`profile` as these items change it, under another name, which is the whole text.

    Raises UsageError where an item is not understood, or asks for what cannot be.
    """
    read: list[_Item] = []
    for text in items:
        item = _read(text.strip(), f"link '{name}'")
        for other in read:
            if other.ways == item.ways:
                _refuse_both(other, item, f"link '{name}'")
        read.append(item)
    # What is said of one way counts more than what is said of both, wherever it stands.
    read.sort(key=lambda item: len(item.ways), reverse=True)
    up, down = (_direction(getattr(profile, way), way, read, f"link '{name}'") for way in WAYS)
    return LinkProfile(**(asdict(profile) | {"name": name, "up": up, "down": down}))


def _refuse_both(one: _Item, other: _Item, where: str) -> None:
    if one.key == other.key:
        raise UsageError(f"{where}: '{one.text}' and '{other.text}' say the same thing twice")
    if {one.key, other.key} == {"loss", "burst"}:
        raise UsageError(
            f"{where}: '{one.text}' and '{other.text}' exclude each other: loss is either random "
            "or in bursts"
        )


def _direction(base: Direction, way: Way, items: Iterable[_Item], where: str) -> Direction:
    mine = [item for item in items if way in item.ways]
    fields = asdict(base)
    for item in mine:
        fields |= item.fields
    if fields["reorder_pct"] and not fields["delay_ns"]:
        culprit = next((item for item in mine if item.key in ("reorder", "delay")), None)
        named = f"'{culprit.text}'" if culprit else f"the {way}link"
        raise UsageError(f"{where}: {named}: reordered packets skip the delay, and there is none")
    return Direction(**fields)


def _read(text: str, where: str) -> _Item:
    name, equals, value = (part.strip() for part in text.partition("="))
    ways, key = _place(name)
    if key not in _KEYS or not equals:
        known = [*_KEYS, *WAYS, *(f"{way}.{key}" for way in WAYS for key in _KEYS)]
        close = difflib.get_close_matches(name, known, 1)
        help_text = (
            f"did you mean '{close[0]}='?"
            if close
            else f"an item is one of {'=, '.join((*_KEYS, *WAYS))}=, or up. or down. before one"
        )
        raise UsageError(f"{where}: '{text}' is not understood; {help_text}")
    return _Item(ways, key, text, _fields(key, value, f"{where}: '{text}'"))


def _place(name: str) -> tuple[tuple[Way, ...], str]:
    for way in WAYS:
        if name == way:
            return (way,), "rate"
        if name.startswith(f"{way}."):
            return (way,), name.removeprefix(f"{way}.")
    return WAYS, name


def _fields(key: str, value: str, where: str) -> dict[str, Any]:
    if key == "rate":
        return {"rate_bps": _rate_bps(value, where)}
    if key == "delay":
        return {"delay_ns": _time_ns(value, where)}
    if key == "queue":
        queue_ns = _time_ns(value, where)
        if queue_ns == 0:
            raise UsageError(f"{where} must be more than 0: a queue of no length drops everything")
        return {"queue_ns": queue_ns}
    if key == "jitter":
        return _jitter(value, where)
    if key == "loss":
        return {"loss_pct": _percent(value, where), "burst_loss": None}
    if key == "burst":
        return {"loss_pct": 0.0, "burst_loss": _burst(value, where)}
    return {_SHARES[key]: _percent(value, where)}


def _jitter(value: str, where: str) -> dict[str, Any]:
    first, *rest = (part.strip() for part in value.split("/"))
    found: dict[str, Any] = {"jitter_ns": _time_ns(first, where)}
    for part in rest:
        kept: dict[str, Any]
        if part.endswith("%"):
            kept = {"jitter_correlation_pct": _percent(part, where)}
        elif part in _DISTRIBUTIONS:
            kept = {"jitter_distribution": part}
        else:
            raise UsageError(
                f"{where}: '{part}' is neither a correlation in % nor one of the distributions "
                + ", ".join(_DISTRIBUTIONS)
            )
        if kept.keys() & found.keys():
            raise UsageError(
                f"{where} says twice what it takes once, as jitter=2ms/pareto/25% does"
            )
        found |= kept
    if found.get("jitter_correlation_pct") and not found["jitter_ns"]:
        raise UsageError(f"{where} correlates a jitter of 0")
    return {"jitter_distribution": "normal", "jitter_correlation_pct": 0.0} | found


def _burst(value: str, where: str) -> BurstLoss:
    shares = [_percent(part.strip(), where) for part in value.split("/")]
    if not 2 <= len(shares) <= 4:
        raise UsageError(
            f"{where} needs the chance that a burst begins and that it ends, as in burst=0.5%/25%, "
            "and may go on with the loss within bursts and outside"
        )
    if not shares[0] or not shares[1]:
        raise UsageError(f"{where} must begin and end bursts with a chance of more than 0")
    return BurstLoss(*shares)


def _rate_bps(text: str, where: str) -> int:
    rate_bps = round(_number(text, _RATES, "rate=50mbit", where))
    if rate_bps < 1000:
        raise UsageError(f"{where} is under 1 kbit/s, the lowest rate that can be kept")
    if rate_bps > _LARGEST_RATE_BPS:
        raise UsageError(f"{where} is over 1000 gbit")
    return rate_bps


def _time_ns(text: str, where: str) -> int:
    time_ns = round(_number(text, _TIMES, "delay=20ms", where))
    if time_ns > _LONGEST_NS:
        raise UsageError(f"{where} is over 60 s")
    return time_ns


def _percent(text: str, where: str) -> float:
    share = float(_number(text, _PERCENT, "loss=1%", where))
    if share > 100:
        raise UsageError(f"{where} is over 100 %")
    return share


def _number(text: str, units: dict[str, Decimal], example: str, where: str) -> Decimal:
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2].lower() not in units:
        raise UsageError(f"{where} needs a number and a unit ({', '.join(units)}), as in {example}")
    number = Decimal(found[1])
    if number < 0:
        raise UsageError(f"{where} is negative")
    return number * units[found[2].lower()]


def written(profile: LinkProfile) -> str:
    """The text that gives the two directions of `profile` again, exactly; "none" for none."""
    up, down = _items(profile.up), _items(profile.down)
    parts: list[str] = []
    for key in _KEYS:
        if key in up and up[key] == down.get(key):
            parts.append(f"{key}={up[key]}")
            continue
        for way, items in zip(WAYS, (up, down), strict=True):
            if key in items:
                parts.append(f"{way if key == 'rate' else f'{way}.{key}'}={items[key]}")
    return ",".join(parts) or "none"


def _items(direction: Direction) -> dict[str, str]:
    found: dict[str, str] = {}
    if direction.rate_bps is not None:
        found["rate"] = _shortest(direction.rate_bps, _RATES)
    if direction.delay_ns:
        found["delay"] = _shortest(direction.delay_ns, _TIMES)
    if direction.jitter_ns or direction.jitter_distribution != "normal":
        found["jitter"] = _shortest(direction.jitter_ns, _TIMES)
        if direction.jitter_distribution != "normal":
            found["jitter"] += f"/{direction.jitter_distribution}"
        if direction.jitter_correlation_pct:
            found["jitter"] += f"/{_share(direction.jitter_correlation_pct)}"
    if direction.loss_pct:
        found["loss"] = _share(direction.loss_pct)
    if direction.burst_loss is not None:
        shares = list(asdict(direction.burst_loss).values())
        for given in (0.0, 100.0):  # the defaults, from the last on
            if shares[-1] != given:
                break
            shares.pop()
        found["burst"] = "/".join(map(_share, shares))
    for key, field in _SHARES.items():
        if getattr(direction, field):
            found[key] = _share(getattr(direction, field))
    if direction.queue_ns is not None:
        found["queue"] = _shortest(direction.queue_ns, _TIMES)
    return found


def _shortest(number: int, units: dict[str, Decimal]) -> str:
    """In the largest unit of which it is at least one, else in the smallest."""
    unit = next((u for u in reversed(units) if number >= units[u]), next(iter(units)))
    return f"{(number / units[unit]).normalize():f}{unit}"


def _share(pct: float) -> str:
    return f"{pct!r}%".replace(".0%", "%")
