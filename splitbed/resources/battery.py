"""Power drawn from a battery: Linux and Android (/sys/class/power_supply), Termux's command."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import msgspec

from splitbed.record import ReadingSource
from splitbed.resources.gauge import (
    Gauge,
    Gauges,
    Meter,
    NumberFile,
    listed,
    measured,
    open_files,
    text_of,
    unavailable,
    why,
)

WINDOW_S: Final = 60.0
"""A fuel gauge is brought up to date every second to every half minute."""
_COMMAND: Final = "termux-battery-status"
_EVERY_NS: Final = 10_000_000_000
_PATIENCE_NS: Final = 10_000_000_000
_FAILURES: Final = 3
_MOST_BYTES: Final = 65_536
_NOMINAL_V: Final = 3.85
"""Of a lithium-ion phone battery half full, where its voltage is not told."""
_CHARGING: Final = "the battery does not drain (it is charged or full): unplug the charger"
_OF_ALL: Final = "of the whole machine with its screen and radio"


def find(root: Path) -> Meter:
    """`battery_w`: drawn from the battery, while it drains."""
    locked = ""
    for supply in listed(root / "sys/class/power_supply", r"[\w.:-]+"):
        if text_of(supply / "type") != "Battery" or text_of(supply / "scope") == "Device":
            continue
        status = text_of(supply / "status")
        try:
            return Gauges(*_opened(supply, status))
        except PermissionError:
            locked = f"{supply.name} may not be read by this process"
        except (OSError, ValueError) as error:
            locked = f"{supply.name}: {why(error)}"
    command = shutil.which(_COMMAND)
    if command:
        return TermuxBattery(command)
    reason = locked or "this machine shows no battery"
    if locked:
        reason += f"; on Android install Termux:API and its {_COMMAND}"
    return Gauges([], [unavailable("battery_w", "power_supply", reason, "machine")])


def _opened(supply: Path, status: str) -> tuple[list[Gauge], list[ReadingSource]]:
    if os.path.exists(supply / "power_now"):
        what, files, scale = "power_now", open_files(supply / "power_now"), 1e-6
    else:
        what = "current_now times voltage_now"
        files = open_files(supply / "current_now", supply / "voltage_now")
        scale = 1e-12
    gauge = _Draining("battery_w", files, scale, supply / "status")
    source = measured(
        "battery_w",
        f"{supply.name} {what} (power_supply), {_OF_ALL}",
        scope="machine",
        window_s=WINDOW_S,
    )
    if status in ("Charging", "Full"):
        gauge.close()
        return [], [unavailable("battery_w", source.source, _CHARGING, "machine")]
    return [gauge], [source]


class _Draining(Gauge):
    """Power of a battery; ValueError while it is charged. The sign differs between drivers."""

    def __init__(self, name: str, files: list[NumberFile], scale: float, status: Path) -> None:
        super().__init__(name, files, scale)
        self._status = status

    def value(self, now_ns: int) -> float:
        """Watts drawn."""
        if text_of(self._status) in ("Charging", "Full"):
            raise ValueError(_CHARGING)
        return abs(super().value(now_ns))


class TermuxBattery:
    """`battery_w` by Termux:API's command, started every ten seconds and never waited for.

    Its own cost is in no figure of this process: Android answers from another one.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._running: subprocess.Popen[bytes] | None = None
        self._begun_ns = 0
        self._failures = 0
        self._source = measured(
            "battery_w", f"{_COMMAND}, {_OF_ALL}", scope="machine", window_s=WINDOW_S
        )

    def sources(self) -> list[ReadingSource]:
        """See Meter."""
        return [self._source]

    def read(self, now_ns: int) -> dict[str, float]:
        """See Meter: a value in the sample after the command has answered, and in no other."""
        if self._failures >= _FAILURES:
            return {}
        if self._running is None:
            if not self._begun_ns or now_ns - self._begun_ns >= _EVERY_NS:
                self._start(now_ns)
            return {}
        if self._running.poll() is None:
            if now_ns - self._begun_ns > _PATIENCE_NS:
                self._fail("it does not answer: is the Termux:API app installed?")
            return {}
        try:
            drawn_w = self._power_w(self._answer())
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self._fail(why(error))
            return {}
        self._failures = 0
        return {"battery_w": drawn_w}

    def _start(self, now_ns: int) -> None:
        self._begun_ns = now_ns
        try:
            self._running = subprocess.Popen(
                [self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self._fail(why(error))

    def _answer(self) -> bytes:
        assert self._running is not None
        assert self._running.stdout is not None
        with self._running.stdout as out:
            self._running = None
            os.set_blocking(out.fileno(), False)  # somebody else may hold the other end open
            return os.read(out.fileno(), _MOST_BYTES)

    def _power_w(self, answer: bytes) -> float:
        told: dict[str, Any] = msgspec.json.decode(answer, type=dict[str, Any])
        if str(told.get("status", "")).upper() in ("CHARGING", "FULL"):
            raise ValueError(_CHARGING)
        current = told.get("current")
        voltage = told.get("voltage")
        if not isinstance(current, int | float) or not current:
            raise ValueError("this phone does not tell its current")
        if isinstance(voltage, int | float) and voltage > 0:
            volts = voltage / 1000 if voltage > 100 else float(voltage)
        else:
            volts = _NOMINAL_V
            self._source = msgspec.structs.replace(
                self._source,
                how="modelled",
                source=f"{_COMMAND}: its current times {_NOMINAL_V} V, {_OF_ALL}",
            )
        return abs(current) * 1e-6 * volts

    def _fail(self, reason: str) -> None:
        self._failures += 1
        self.close()
        if self._failures >= _FAILURES:
            self._source = msgspec.structs.replace(self._source, how="unavailable", reason=reason)

    def close(self) -> None:
        """See Meter."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            if self._running.stdout is not None:
                self._running.stdout.close()
            self._running = None
