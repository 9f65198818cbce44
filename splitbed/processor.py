"""What the system says of this machine's processor."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

import msgspec

CPUINFO: Final = Path("/proc/cpuinfo")
BOARD: Final = Path("/proc/device-tree/model")

_ARM_CORES: Final = {
    "0xc07": "Cortex-A7",
    "0xc08": "Cortex-A8",
    "0xc09": "Cortex-A9",
    "0xc0f": "Cortex-A15",
    "0xd02": "Cortex-A34",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
}
"""Arm's own cores (implementer 0x41) by part number, as their reference manuals have it."""


class Processor(msgspec.Struct, frozen=True):
    """A processor as Linux describes it; elsewhere what Python knows."""

    name: str
    """Its own name, or on ARM the board's and its cores', as far as they are told; may be empty."""
    features: str
    """Instruction set extensions by Linux's names, with blanks between; empty where unknown."""


def processor() -> Processor:
    """This machine's processor."""
    return parsed(_text(CPUINFO), _text(BOARD).rstrip("\0\n"))


def parsed(cpuinfo: str, board: str = "") -> Processor:
    """The processor of a /proc/cpuinfo and the board's name of the device tree."""
    found: dict[str, list[str]] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), []).append(value.strip())

    def first(*keys: str) -> str:
        return next((found[key][0] for key in keys if key in found), "")

    implementers, parts = found.get("CPU implementer", []), found.get("CPU part", [])
    cores = dict.fromkeys(map(_core, implementers, parts))  # big and little ones, once each
    chip = " and ".join(cores) or first("model name")
    board = board or first("Model", "Hardware")
    name = f"{board} ({chip})" if board and chip else board or chip or platform.processor()
    return Processor(name, first("Features", "flags"))


def _core(implementer: str, part: str) -> str:
    if implementer == "0x41" and part in _ARM_CORES:
        return _ARM_CORES[part]
    return f"ARM core {implementer}:{part}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
