"""A measurement of a link for people: every figure with what was asked, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from netem.profiles import describe
from splitbed import chance
from splitbed.certificate import DatagramMeasurement, LinkMeasurement
from splitbed.link import Direction, LinkProfile, Way

_COLUMNS: Final = 80
_NAME_COLUMNS: Final = 15


def page(profile: LinkProfile, found: LinkMeasurement, misses: Sequence[str]) -> str:
    """The measurement and its verdict, a line or more for each figure."""
    rows = [*_rows(profile, found)]
    rows.append(("verdict", f"outside tolerance: {'; '.join(misses)}" if misses else "certified"))
    return "".join(_written(name, text) for name, text in rows)


def _written(name: str, text: str) -> str:
    return "".join(
        f"{line}\n"
        for line in textwrap.wrap(
            text,
            _COLUMNS,
            initial_indent=f"{name:{_NAME_COLUMNS}}",
            subsequent_indent=" " * _NAME_COLUMNS,
            break_on_hyphens=False,
        )
    )


def _rows(profile: LinkProfile, found: LinkMeasurement) -> Iterator[tuple[str, str]]:
    yield "profile", f"{profile.name}: {describe(profile)}"
    if found.facts is not None:
        settings = "".join(f"; {key} {value}" for key, value in found.facts.settings.items())
        yield "link", found.facts.kind + settings
    yield "uplink", _tcp(profile.up, found.up_goodput_bps, found.up_probe_bytes)
    yield "downlink", _tcp(profile.down, found.down_goodput_bps, found.down_probe_bytes)
    ways: tuple[Way, ...] = ("up", "down")
    for way in ways:
        datagrams, direction = found.datagrams(way), profile.direction(way)
        if datagrams is not None:
            if datagrams.rate_bps is not None:
                yield f"{way}link UDP", _udp(direction, datagrams)
            yield f"{way}link loss", _loss(direction, datagrams)
    if found.without_datagrams:
        yield "loss", f"not measured: {found.without_datagrams}"
    low, high = (f"{bound / 1e6:.4g}" for bound in found.wanted_rtt_ns(profile))
    asked = f"asked {low} ms" if low == high else f"asked {low} to {high} ms"
    hosts = found.hosts_median_ns / 1e6
    yield (
        "round trip",
        f"median {found.rtt_median_ns / 1e6:.3f} ms, p95 {found.rtt_p95_ns / 1e6:.3f} ms "
        f"({asked}, {len(found.rtt_ns)} samples)"
        + (f"; waking the hosts' processes takes {hosts:.3f} ms more" if hosts else ""),
    )
    yield (
        "jitter",
        f"standard deviation {found.rtt_sd_ns / 1e6:.3f} ms, p95 less median "
        f"{found.rtt_rise_ns / 1e6:.3f} ms ({_jitter(profile, len(found.rtt_ns))})",
    )


def _tcp(direction: Direction, bps: float, size: int) -> str:
    asked = "not asked"
    if direction.packet_effects:
        asked = f"not asked of TCP under {' and '.join(direction.packet_effects)}"
    elif direction.payload_bps is not None:
        asked = f"asked {direction.payload_bps / 1e6:.4g} Mbit/s"
    return f"{bps / 1e6:.4g} Mbit/s of TCP payload ({asked}, {size} bytes)"


def _udp(direction: Direction, found: DatagramMeasurement) -> str:
    asked = (direction.rate_bps or 0) * (1 - direction.corrupt_pct / 100)
    return (
        f"{(found.rate_bps or 0) / 1e6:.4g} Mbit/s of IP packets (asked {asked / 1e6:.4g} Mbit/s, "
        f"{(found.rate_offered_bps or 0) / 1e6:.4g} sent)"
    )


def _loss(direction: Direction, found: DatagramMeasurement) -> str:
    low, high = chance.lost_between(found.sent, direction)
    asked = f"{direction.mean_loss_pct + direction.corrupt_pct:.3g} %" if high else "none"
    between = f": {low} to {high}" if high else ""
    text = f"{found.lost} of {found.sent} packets, {found.loss_pct:.2f} % (asked {asked}{between})"
    if found.duplicated or direction.duplicate_pct:
        text += f"; {found.duplicated} twice (asked {direction.duplicate_pct:g} %)"
    if found.reordered or direction.reorder_pct:
        text += f"; {found.reordered} overtaken"
    if found.overflowed:
        text += f"; {found.overflowed} dropped by the receiver's socket"
    return text


def _jitter(profile: LinkProfile, samples: int) -> str:
    if not (profile.up.jitter_ns or profile.down.jitter_ns):
        return "not asked"
    low, high = chance.spread_between(samples, profile)
    return f"asked {low / 1e6:.2f} to {high / 1e6:.2f} ms"
