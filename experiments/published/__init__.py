"""The source documents' figures beside the same ones computed from the zoo's graphs.

Published figures stand here as they were printed; everything else comes out of the graphs. MB means
2^20 bytes or 10^6 bytes as each table turns out to use it; every table says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from experiments.published.detector import detector
from experiments.published.distribution import distribution
from experiments.published.gestures import gestures
from experiments.published.pose import pose
from experiments.published.pyramid import pyramid
from experiments.published.table import PublishedTable
from experiments.published.uplink import uplink

TABLES: Final[Mapping[str, Callable[[], list[PublishedTable]]]] = {
    "C1": uplink,
    "D1": distribution,
    "B1": pose,
    "B2": pyramid,
    "B3": detector,
    "B4": gestures,
}
"""What can be computed, by the requirement's id."""


def met(found: Sequence[PublishedTable]) -> tuple[int, int]:
    """Published figures that are met, and all of them."""
    rows = [row for table in found for row in table.rows]
    return sum(row.met for row in rows), sum(row.figures for row in rows)
