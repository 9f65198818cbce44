"""A published table beside its computed figures."""

from __future__ import annotations

from typing import Final

import msgspec

from splitbed import zoo
from splitbed.graph import (
    CanonicalModel,
    CutPoint,
    Listing,
    built,
    canonicalise,
    find_cut,
    list_cuts,
)

MIB: Final = 1 << 20
FRAMES_PER_S: Final = 30


class Row(msgspec.Struct, frozen=True):
    """One line: `cells` in the order of the headings; `remark` where a published figure differs."""

    cells: tuple[str, ...]
    figures: int = 0
    """Published figures in this line."""
    met: int = 0
    """Those that the computed ones equal, rounded as the table rounds."""
    remark: str = ""


class PublishedTable(msgspec.Struct, frozen=True):
    """One table of a source document, computed."""

    id: str
    title: str
    rounding: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    """Cells of a published figure begin with `= ` where it is met and with `≠ ` where not."""


class Network:
    """A network of the zoo without its weights, and its cuts."""

    def __init__(self, name: str) -> None:
        self.model: CanonicalModel = canonicalise(
            built(f"zoo:{name}", zoo.build(name, weights="hollow"))
        )
        self.listing: Listing = list_cuts(self.model)
        self.points = [cut.point for cut in self.listing.cuts]

    def cut(self, name: str) -> CutPoint:
        """The cut of this name."""
        return find_cut(self.model, self.points, name)

    def nbytes(self, name: str) -> int:
        """What crosses there."""
        point = self.cut(name)
        return 0 if point.cut is None else point.cut.nbytes


def like(value: float, printed: str) -> str:
    """`value` with as many decimals as `printed` has."""
    decimals = len(printed.partition(".")[2])
    return f"{value:.{decimals}f}"


def against(computed: str, printed: str) -> str:
    """The printed figure, with = before it where the computed one is the same, else with ≠."""
    return f"{'=' if computed == printed else '≠'} {printed}"
