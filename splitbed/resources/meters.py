"""All meters of one process, read at most once for all samplers that ask at about the same time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from splitbed.record import ReadingSource
from splitbed.resources import battery, frequency, gpu, heat, hwmon, rapl
from splitbed.resources.gauge import Meter
from splitbed.resources.process import ProcessMeter, ProcessUse
from splitbed.resources.system import SystemMeter, SystemTimes
from splitbed.session import Node

MOST_READINGS: Final = 128
"""In one sample."""


class Snapshot(msgspec.Struct, frozen=True):
    """Everything at one instant; totals and counters have no common start."""

    t_ns: int
    process: ProcessUse
    system: SystemTimes | None
    readings: dict[str, float]


class Meters:
    """The meters of a node; GPUs are asked by an edge only. sysfs and procfs lie below `root`."""

    def __init__(self, node: Node, root: Path = Path("/")) -> None:
        self._process, self._system = ProcessMeter(root), SystemMeter(root)
        self.by_name: dict[str, Meter] = {
            "rapl": rapl.find(root),
            "hwmon": hwmon.find(root),
            "battery": battery.find(root),
            "frequency": frequency.find(root),
            "heat": heat.find(root),
        }
        if node == "edge":
            self.by_name["gpu"] = gpu.find()
        self._lock = threading.Lock()
        self._last: Snapshot | None = None

    def read(self, most_age_ns: int = 0) -> Snapshot:
        """What is used now, or was at most `most_age_ns` ago."""
        with self._lock:
            now_ns = time.perf_counter_ns()
            if self._last is None or now_ns - self._last.t_ns > most_age_ns:
                readings: dict[str, float] = {}
                for meter in self.by_name.values():
                    readings |= meter.read(now_ns)
                if len(readings) > MOST_READINGS:
                    readings = dict(list(readings.items())[:MOST_READINGS])
                self._last = Snapshot(now_ns, self._process.read(), self._system.read(), readings)
            return self._last

    def sources(self) -> tuple[ReadingSource, ...]:
        """Where everything comes from, and what cannot be had."""
        with self._lock:
            found = self._process.sources() + self._system.sources()
            for meter in self.by_name.values():
                found += meter.sources()
        return tuple(found)

    def close(self) -> None:
        """Let go of what is open."""
        with self._lock:
            for meter in self.by_name.values():
                meter.close()
            self._process.close()
            self._system.close()


_lock = threading.Lock()
_shared: dict[Node, tuple[Meters, int]] = {}


def borrow(node: Node) -> Meters:
    """This process's meters for a node, the same for all who have not given it back."""
    with _lock:
        found = _shared.get(node)
        meters, users = found if found is not None else (Meters(node), 0)
        _shared[node] = (meters, users + 1)
        return meters


def give_back(node: Node) -> None:
    """The last one to give it back closes it."""
    with _lock:
        meters, users = _shared.pop(node)
        if users > 1:
            _shared[node] = (meters, users - 1)
        else:
            meters.close()
