"""The processor's frequency, by cpufreq (Linux)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from splitbed.resources.gauge import (
    Gauge,
    Gauges,
    listed,
    measured,
    open_files,
    open_gauges,
    unavailable,
)

_EACH_READ: Final = 8
"""Policies read at a time, in turn: each may interrupt a core to ask it, and servers have a policy
for every core."""


def find(root: Path) -> Gauges:
    """`freq_policyN_hz` for each cpufreq policy, as it is now."""
    wanted = []
    for policy in listed(root / "sys/devices/system/cpu/cpufreq", r"policy\d+"):
        name = f"freq_{policy.name}_hz"
        source = measured(name, "scaling_cur_freq (cpufreq)")
        path = policy / "scaling_cur_freq"
        wanted.append((source, lambda n=name, p=path: Gauge(n, open_files(p), 1e3)))
    gauges, sources = open_gauges(wanted)
    if not wanted:
        reason = "this machine shows no cpufreq (a virtual machine, or no driver for it)"
        sources.append(unavailable("freq_hz", "cpufreq", reason))
    return Gauges(gauges, sources, _EACH_READ)
