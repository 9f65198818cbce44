"""Power from sensors on the board: INA chips of ARM boards, meters of servers (Linux hwmon)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from splitbed.record import ReadingSource
from splitbed.resources.gauge import (
    Gauge,
    Gauges,
    listed,
    measured,
    open_files,
    open_gauges,
    plain,
    text_of,
    unavailable,
)

_WHOLE: Final = ("vdd-in", "pom-5v-in", "vin-sys-5v0", "total", "board", "system")
"""Labels of rails that feed the whole board (NVIDIA Jetson among others)."""
_MOST: Final = 16


def find(root: Path) -> Gauges:
    """`hwmon_CHIP_LABEL_w`, one for each sensor. Sensors may measure the same current one behind
    the other, so none are added: `scope` says which one feeds the whole board.
    """
    wanted: list[tuple[ReadingSource, Callable[[], Gauge]]] = []
    for chip in listed(root / "sys/class/hwmon", r"hwmon\d+"):
        kind = plain(text_of(chip / "name")) or chip.name
        power = listed(chip, r"power\d+_(input|average)")
        seen: set[str] = set()
        for file in power:
            number = file.name.split("_")[0].removeprefix("power")
            if number in seen:
                continue
            seen.add(number)
            label = text_of(chip / f"power{number}_label")
            wanted.append(_sensor(kind, label or number, [file], 1e-6, len(wanted)))
        if power or not kind.startswith("ina"):
            continue
        for file in listed(chip, r"curr\d+_input"):
            number = file.name.split("_")[0].removeprefix("curr")
            label = text_of(chip / f"in{number}_label")
            pair = [chip / f"in{number}_input", file]  # millivolts and milliamperes
            wanted.append(_sensor(kind, label or number, pair, 1e-6, len(wanted)))
    gauges, sources = open_gauges(wanted[:_MOST])
    if not wanted:
        reason = "this machine shows no power sensor"
        sources.append(unavailable("hwmon_w", "power sensors (hwmon)", reason, "machine"))
    return Gauges(gauges, sources)


def _sensor(
    kind: str, label: str, files: list[Path], scale: float, count: int
) -> tuple[ReadingSource, Callable[[], Gauge]]:
    name = f"hwmon_{kind}_{plain(label) or count}_w"
    whole = kind == "power-meter" or plain(label) in _WHOLE
    what = "voltage times current" if len(files) > 1 else "power"
    source = measured(
        name,
        f"{what} of sensor {kind} {label} (hwmon), of "
        + ("the whole board, not of this process" if whole else "its rail only"),
        reason="the sensor may be read by root only: run as root, or allow it with chmod a+r",
        scope="machine" if whole else "part",
        window_s=2.0,
    )
    return source, lambda: Gauge(name, open_files(*files), scale)
