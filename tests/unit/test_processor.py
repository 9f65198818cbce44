"""A processor's name and features, out of what Linux says of it."""

from __future__ import annotations

import platform

import pytest

from splitbed.processor import parsed, processor

PI = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

processor\t: 1
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08

Hardware\t: BCM2835
Revision\t: c03111
Model\t\t: Raspberry Pi 4 Model B Rev 1.1
"""
BIG_AND_LITTLE = """processor\t: 0
Features\t: fp asimd aes
CPU implementer\t: 0x41
CPU part\t: 0xd03
processor\t: 4
Features\t: fp asimd aes
CPU implementer\t: 0x51
CPU part\t: 0x800
"""
PC = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: A Processor @ 2 GHz\nflags\t\t: fpu avx2\n"


@pytest.mark.parametrize(
    ("cpuinfo", "board", "name", "features"),
    [
        (PI, "", "Raspberry Pi 4 Model B Rev 1.1 (Cortex-A72)", "fp asimd evtstrm crc32 cpuid"),
        (BIG_AND_LITTLE, "", "Cortex-A53 and ARM core 0x51:0x800", "fp asimd aes"),
        (BIG_AND_LITTLE, "A board", "A board (Cortex-A53 and ARM core 0x51:0x800)", "fp asimd aes"),
        (PC, "", "A Processor @ 2 GHz", "fpu avx2"),
        ("", "", platform.processor(), ""),
    ],
)
def test_what_linux_says(cpuinfo: str, board: str, name: str, features: str) -> None:
    found = parsed(cpuinfo, board)
    assert (found.name, found.features) == (name, features)


def test_this_machine_has_one() -> None:
    assert isinstance(processor().name, str)
