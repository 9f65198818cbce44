"""Energy of processor and memory, from RAPL's counters by way of powercap (Linux on x86)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from splitbed.resources.gauge import (
    Counters,
    Gauge,
    Gauges,
    listed,
    measured,
    open_files,
    open_gauges,
    text_of,
    unavailable,
)

_FOLDER: Final = "sys/class/powercap"
_LOCKED: Final = (
    "energy_uj may be read by root only, since CVE-2020-8694: run as root, or allow it with "
    "`chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj "
    "/sys/class/powercap/intel-rapl:*:*/energy_uj` until the next start"
)
_OF_ALL: Final = "of the whole machine with every process on it, not of this process"


def find(root: Path) -> Gauges:
    """`rapl_j`: all packages and their memory; `rapl_psys_j`: the platform, beside it.

    Domains inside a package (core, uncore) are part of its count and are not added; a platform
    domain holds the packages and is kept apart; `intel-rapl-mmio` counts the same package again and
    is left out. Memory (dram) is listed below a package and is no part of it (Intel SDM volume 3B,
    chapter on power and thermal management).
    """
    folder = root / _FOLDER
    added, platform = [], []
    for domain in listed(folder, r"intel-rapl:\d+"):
        name = text_of(domain / "name")
        if name == "psys":
            platform.append(domain)
            continue
        added.append(domain)
        for place in (domain, folder):  # below the package in devices, beside it in the class
            below = listed(place, rf"{domain.name}:\d+")
            added += [one for one in below if text_of(one / "name") == "dram"]
            if below:
                break
    wanted = []
    for name, domains in (("rapl_j", added), ("rapl_psys_j", platform)):
        if not domains:
            continue
        words = " + ".join(_name(domain) for domain in domains)
        source = measured(
            name,
            f"RAPL counters {words} (powercap), {_OF_ALL}",
            reason=_LOCKED,
            scope="machine",
            resolution=1e-6 * 61,
            window_s=1.0,
        )
        wanted.append((source, lambda n=name, d=domains: _counters(n, d)))
    gauges, sources = open_gauges(wanted)
    if not added:
        reason = "this machine shows no RAPL (a virtual machine, no x86, or no intel_rapl module)"
        sources.append(unavailable("rapl_j", "RAPL (powercap)", reason, "machine"))
    return Gauges(gauges, sources)


def _counters(name: str, domains: list[Path]) -> Gauge:
    files = open_files(*(domain / "energy_uj" for domain in domains))
    ranges = []
    for domain in domains:
        most = text_of(domain / "max_energy_range_uj")
        ranges.append(int(most) if most.isdigit() else 0)
    return Counters(name, files, 1e-6, ranges)


def _name(domain: Path) -> str:
    """`package-0`, `dram of 0`."""
    name = text_of(domain / "name") or domain.name
    return name if name != "dram" else f"dram of {domain.name.split(':')[1]}"
