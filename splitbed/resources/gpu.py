"""NVIDIA GPUs, by NVML through nvidia-ml-py. Only an edge asks; a device never imports it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from splitbed.record import ReadingSource
from splitbed.resources.gauge import Gauges, Meter, measured, unavailable

MOST: Final = 8
"""GPUs that are sampled."""
SLOWED: Final = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
"""Of NVML's reasons for lower clocks: power cap, hardware slowdown, heat (software, hardware) and
power brake. Idle clocks and clocks that somebody set are none."""
_SOURCE: Final = "NVML"

Call = tuple[Callable[[], Any], dict[str, Callable[[Any], float]]]


def find(module: Any = None) -> Meter:
    """`gpuN_pct`, `_memory_pct`, `_memory_bytes`, `_w`, `_j`, `_celsius`, `_sm_hz`, `_memory_hz`,
    `_throttle_flags`, of the whole GPU with everything on it.

    `module` stands for pynvml.
    """
    try:
        nvml = importlib.import_module("pynvml") if module is None else module
    except ImportError:
        reason = "nvidia-ml-py is not installed: pip install nvidia-ml-py where the edge has a GPU"
        return Gauges([], [unavailable("gpu_pct", _SOURCE, reason)])
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        reason = f"no NVIDIA driver answers ({_words(error)})"
        return Gauges([], [unavailable("gpu_pct", _SOURCE, reason)])
    return GpuMeter(nvml)


class GpuMeter:
    """Readings of up to eight GPUs. What one does not support is left out after the first try."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._sources: dict[str, ReadingSource] = {}
        self._calls: list[Call] = []
        self._first_mj: dict[int, int] = {}
        try:
            for number in range(min(MOST, nvml.nvmlDeviceGetCount())):
                self._add(number, nvml.nvmlDeviceGetHandleByIndex(number))
        except nvml.NVMLError as error:
            self._sources["gpu_pct"] = unavailable("gpu_pct", _SOURCE, _words(error))
        if not self._sources:
            self._sources["gpu_pct"] = unavailable("gpu_pct", _SOURCE, "the driver has no GPU")

    def _add(self, number: int, handle: Any) -> None:
        nvml, gpu = self._nvml, f"gpu{number}"
        model = nvml.nvmlDeviceGetName(handle)
        model = model.decode("ascii", "replace") if isinstance(model, bytes) else str(model)
        calls: list[Call] = [
            (
                lambda: nvml.nvmlDeviceGetUtilizationRates(handle),
                {f"{gpu}_pct": lambda u: u.gpu, f"{gpu}_memory_pct": lambda u: u.memory},
            ),
            (
                lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
                {f"{gpu}_memory_bytes": lambda memory: memory.used},
            ),
            (
                lambda: nvml.nvmlDeviceGetPowerUsage(handle),
                {f"{gpu}_w": lambda milliwatts: milliwatts / 1e3},
            ),
            (
                lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle),
                {f"{gpu}_j": lambda mj: (mj - self._first_mj.setdefault(number, mj)) / 1e3},
            ),
            (
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
                {f"{gpu}_celsius": float},
            ),
            (
                lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
                {f"{gpu}_sm_hz": lambda mhz: mhz * 1e6},
            ),
            (
                lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
                {f"{gpu}_memory_hz": lambda mhz: mhz * 1e6},
            ),
            (lambda: _reasons(nvml, handle), {f"{gpu}_throttle_flags": float}),
        ]
        for call in calls:
            self._calls.append(call)
            for name in call[1]:
                energy = name in (f"{gpu}_j", f"{gpu}_w")
                self._sources[name] = measured(
                    name,
                    f"{_SOURCE}, {model}, of the whole GPU with every process on it",
                    scope=gpu if energy else "",
                    resolution=1e-3 if energy else 0.0,
                    window_s=2.0 if energy else 0.0,
                )

    def sources(self) -> list[ReadingSource]:
        """See Meter."""
        return list(self._sources.values())

    def read(self, now_ns: int) -> dict[str, float]:
        """See Meter."""
        found: dict[str, float] = {}
        for call in list(self._calls):
            ask, parts = call
            try:
                answer = ask()
                found |= {name: float(part(answer)) for name, part in parts.items()}
            except (self._nvml.NVMLError, AttributeError, TypeError, ValueError) as error:
                self._calls.remove(call)
                for name in parts:
                    self._sources[name] = msgspec.structs.replace(
                        self._sources[name], how="unavailable", reason=_words(error)
                    )
        return found

    def close(self) -> None:
        """See Meter."""
        if self._calls:
            self._calls = []
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError:
                return


def _reasons(nvml: Any, handle: Any) -> Any:
    """Why clocks are lower than they could be; the call's newer name first."""
    ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    return (ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
