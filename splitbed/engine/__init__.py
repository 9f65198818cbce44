"""ONNX Runtime sessions over partitions: providers, buffers, warm-up, failures by their type."""

from splitbed.engine.binding import Steps
from splitbed.engine.engine import Engine, observed, working_provider
from splitbed.engine.providers import (
    Accelerator,
    distribution_conflict,
    installed_distributions,
    settled,
)

__all__ = [
    "Accelerator",
    "Engine",
    "Steps",
    "distribution_conflict",
    "installed_distributions",
    "observed",
    "settled",
    "working_provider",
]
