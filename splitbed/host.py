"""What a run was made with: versions, and facts of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any, Final

import psutil

from splitbed import __version__
from splitbed.codec.entropy import implementation
from splitbed.codec.registry import offered
from splitbed.engine import installed_distributions
from splitbed.processor import processor

_LIBRARIES: Final = ("av", "grpcio", "numpy", "onnx", "Pillow", "protobuf", "zstandard")


def versions() -> dict[str, str]:
    """Versions of splitbed, Python, every library that may change a figure, and the packages that
    bring codec stages.
    """
    found = {"splitbed": __version__, "python": platform.python_version()}
    found["entropy coder"] = implementation()
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found |= {one.package: one.version for one in offered()}
    return found | installed_distributions()


def host_facts() -> dict[str, Any]:
    """Processor, memory, operating system and what this process may use of them."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor().name,
        "cores": psutil.cpu_count(logical=True),
        "cores_usable": len(affinity(0)) if affinity else psutil.cpu_count(logical=True),
        "memory_bytes": psutil.virtual_memory().total,
        "byte_order": sys.byteorder,
    }


def described() -> str:
    """The machine in one line, for a benchmark's first."""
    facts = host_facts()
    return (
        f"{facts['processor']}, {facts['cores_usable']} cores, "
        f"{facts['memory_bytes'] / 1e9:.0f} GB, {facts['system']}"
    )
