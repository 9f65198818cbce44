"""TCP settings of a namespace that stands for a host; what was set, for the record.

Chosen by measurement (METHODOLOGY.md, "What TCP needs on a long path"). On two real machines the
same lines go through `sysctl`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from splitbed.errors import LinkError

_TCP: Final = Path("/proc/sys/net/ipv4")

SETTINGS: Final = {
    # A frame after a pause must find the window that the frame before it had opened.
    "tcp_slow_start_after_idle": "0",
    # The probe's connection must leave nothing behind for that of the frames.
    "tcp_no_metrics_save": "1",
    # Room for 200 Mbit/s over 300 ms of round trip, with a queue of the same length.
    "tcp_rmem": "4096 131072 33554432",
    "tcp_wmem": "4096 131072 33554432",
}


def apply(settings: dict[str, str]) -> dict[str, str]:
    """Set them in the current network namespace; what they are then."""
    found = {}
    for name, value in settings.items():
        try:
            (_TCP / name).write_text(value, encoding="ascii")
            found[name] = " ".join((_TCP / name).read_text(encoding="ascii").split())
        except OSError as error:
            raise LinkError(f"cannot set {_TCP / name}: {error.strerror}") from error
    return found
