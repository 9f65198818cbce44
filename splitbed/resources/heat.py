"""Temperatures, and whether the machine slowed itself down because of them (Linux)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from splitbed.record import ReadingSource
from splitbed.resources.gauge import (
    Counters,
    Gauge,
    Gauges,
    NumberFile,
    listed,
    measured,
    open_files,
    open_gauges,
    plain,
    text_of,
    unavailable,
)

_CHIPS: Final = ("coretemp", "k10temp", "zenpower")
_MOST_ZONES: Final = 8
_NO_WRAP: Final = 0
_FIRMWARE: Final = "sys/devices/platform/soc/soc:firmware/get_throttled"

Wanted = list[tuple[ReadingSource, Callable[[], Gauge]]]


def find(root: Path) -> Gauges:
    """`temp_ZONE_celsius`, `throttle_core_count`, `throttle_package_count`, `cooling_N_flags`.

    Throttling is counted by the processor (x86), or shown by what cools it by slowing it down (ARM:
    `cooling_N_flags`, 0 where it does not; Raspberry Pi: `firmware_throttled_flags`, its firmware's
    bits).
    """
    wanted = _temperatures(root) + _counts(root) + _cooling(root)
    gauges, sources = open_gauges(wanted)
    names = {source.name for source in sources if source.how != "unavailable"}
    if not any(name.startswith("temp_") for name in names):
        sources.append(
            unavailable("temp_celsius", "thermal zones and hwmon", "this machine shows none")
        )
    if not any(name.startswith(("throttle_", "cooling_", "firmware_")) for name in names):
        reason = (
            "this machine does not tell (a virtual machine, no driver for it, or closed to this "
            "process)"
        )
        sources.append(unavailable("throttle_count", "thermal_throttle, cooling devices", reason))
    return Gauges(gauges, sources)


def _temperatures(root: Path) -> Wanted:
    wanted: Wanted = []
    places: list[tuple[str, Path, str]] = []
    for zone in listed(root / "sys/class/thermal", r"thermal_zone\d+"):
        number = zone.name.removeprefix("thermal_zone")
        places.append((f"{plain(text_of(zone / 'type'))}-{number}", zone / "temp", "thermal zone"))
    # What stands for the processor first, as phones have dozens.
    places.sort(key=lambda place: not any(word in place[0] for word in ("pkg", "cpu", "soc")))
    chips = []
    for chip in listed(root / "sys/class/hwmon", r"hwmon\d+"):
        kind = text_of(chip / "name")
        if kind in _CHIPS:
            chips.append((f"{kind}-{chip.name[5:]}", chip / "temp1_input", "hwmon"))
    for label, path, kind in (chips + places)[:_MOST_ZONES]:
        name = f"temp_{label}_celsius"
        source = measured(name, f"{kind} {label}")
        wanted.append((source, lambda n=name, p=path: Gauge(n, open_files(p), 1e-3)))  # type: ignore[misc]
    return wanted


def _counts(root: Path) -> Wanted:
    """Of each core one file; of a package the first core's, because all of its cores show it."""
    core: list[Path] = []
    packages: dict[str, Path] = {}
    for cpu in listed(root / "sys/devices/system/cpu", r"cpu\d+"):
        folder = cpu / "thermal_throttle"
        if not os.path.exists(folder / "core_throttle_count"):
            continue
        core.append(folder / "core_throttle_count")
        package = text_of(cpu / "topology/physical_package_id") or "0"
        packages.setdefault(package, folder / "package_throttle_count")
    wanted: Wanted = []
    for name, paths in (("core", core), ("package", list(packages.values()))):
        if paths:
            reading = f"throttle_{name}_count"
            source = measured(reading, f"thermal_throttle of {len(paths)} {name}s, since the start")
            wanted.append((source, lambda n=reading, p=paths: _InTurn(n, p)))  # type: ignore[misc]
    return wanted


class _InTurn(Gauge):
    """A sum of counters of which eight are read at a time: a count is late, never lost."""

    def __init__(self, name: str, paths: list[Path]) -> None:
        super().__init__(name, open_files(*paths), 1)
        self._parts = [
            Counters(name, self.files[at : at + 8], 1, [_NO_WRAP] * len(self.files[at : at + 8]))
            for at in range(0, len(self.files), 8)
        ]
        self._known = [0.0] * len(self._parts)
        self._next = 0

    def value(self, now_ns: int) -> float:
        """Counted since the first reading, as known by now."""
        at = self._next % len(self._parts)
        self._next = at + 1
        self._known[at] = self._parts[at].value(now_ns)
        return sum(self._known)


def _cooling(root: Path) -> Wanted:
    wanted: Wanted = []
    for device in listed(root / "sys/class/thermal", r"cooling_device\d+"):
        kind = text_of(device / "type")
        if "cpufreq" not in kind or len(wanted) >= _MOST_ZONES:
            continue
        name = f"cooling_{device.name.removeprefix('cooling_device')}_flags"
        source = measured(name, f"state of cooling device {kind}, 0: not slowed down")
        path = device / "cur_state"
        wanted.append((source, lambda n=name, p=path: Gauge(n, open_files(p), 1)))  # type: ignore[misc]
    firmware = root / _FIRMWARE
    if os.path.exists(firmware):  # Path.exists raises where the folder is closed to us
        source = measured("firmware_throttled_flags", "Raspberry Pi's firmware, get_throttled")
        wanted.append(
            (source, lambda: Gauge("firmware_throttled_flags", [NumberFile(firmware, 16)], 1))
        )
    return wanted
