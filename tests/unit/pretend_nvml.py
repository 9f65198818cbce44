"""An NVML with GPUs that are not there: as much of `pynvml` as `splitbed.resources.gpu` asks."""

from __future__ import annotations

from typing import Any


class PretendNvml:
    """Answers about `count` equal GPUs; `lacks` are calls that they do not support."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2

    def __init__(self, count: int = 1, lacks: tuple[str, ...] = ()) -> None:
        self.up = 0
        """Initialised so often, less shut down so often."""
        self.millijoules = 5_000_000
        self.step_millijoules = 0
        """That the counter goes on with each reading."""
        self._count = count
        for name in lacks:
            setattr(self, name, self._refuse)

    def _refuse(self, *_: object) -> int:
        raise self.NVMLError("Not Supported")

    def nvmlInit(self) -> None:
        self.up += 1

    def nvmlShutdown(self) -> None:
        self.up -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self._count

    def nvmlDeviceGetHandleByIndex(self, number: int) -> str:
        return f"handle {number}"

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return b"A card"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return _Rates

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return _Memory

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 123_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self.millijoules += self.step_millijoules
        return self.millijoules

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        return 55

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return 1500 * kind

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return 0x24


class _Rates:
    gpu, memory = 40, 10


class _Memory:
    used = 3_000_000_000
