"""All cuts of a model with everything that can be said of them without running it."""

from __future__ import annotations

import msgspec

from splitbed.graph.canonical import CanonicalModel
from splitbed.graph.cost import CostModel, PartCost
from splitbed.graph.cuts import CutPoint, cut_points
from splitbed.graph.marks import Marks, marks


class ListedCut(msgspec.Struct, frozen=True):
    """One position of the order."""

    point: CutPoint
    cost: PartCost | None
    """None where the model cannot be cut here."""
    marks: Marks


class Listing(msgspec.Struct, frozen=True):
    """A model's cuts in topological order, `@input` first and `@output` last."""

    cuts: tuple[ListedCut, ...]
    parameters: int
    """Elements of all weights that training makes: no means and variances, no bounds and scales."""
    parameter_bytes: int
    """The same as the file stores them."""
    macs: int
    """Multiply-accumulate operations of one inference at the bound shapes."""
    node_macs: tuple[int, ...]
    """The same of each node, in the order that positions count."""

    @property
    def legal(self) -> tuple[ListedCut, ...]:
        """Those where the model can be cut."""
        return tuple(cut for cut in self.cuts if cut.cost is not None)


def list_cuts(model: CanonicalModel) -> Listing:
    """One pass for the boundaries, one for the costs, one for the marks."""
    points = cut_points(model)
    sums = CostModel(model)
    costs = [None if point.cut is None else sums.at(point) for point in points]
    found = marks(model, points, costs)
    return Listing(
        cuts=tuple(map(ListedCut, points, costs, found)),
        parameters=sums.parameters,
        parameter_bytes=sums.parameter_bytes,
        macs=sums.macs,
        node_macs=tuple(sums.node_macs),
    )
