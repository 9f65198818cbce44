"""Where a codec is judged: cuts fixed by a rule, so that nobody chooses those that suit it.

For each share of the work, of all cuts that one tensor crosses: the one with the fewest bytes
within five points of that share, and beside it the one with the fewest bytes straight after a ReLU.
A detector is cut where it branches: of all cuts that several tensors cross, the one with the fewest
bytes within five points of each of the two larger shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from splitbed.errors import UsageError
from splitbed.graph import INPUT_CUT, OUTPUT_CUT, ListedCut, Listing

SHARES_PCT: Final = (25, 50, 75)
"""Of the model's multiply-accumulates, in the head."""

BRANCHED_PCT: Final = (50, 75)
"""Likewise, where several tensors cross."""

WITHIN: Final = 5.0
"""Points to either side of a share."""

Kind = Literal["fewest bytes", "after a ReLU", "several tensors"]


class RuleCut(msgspec.Struct, frozen=True):
    """A cut that the rule takes."""

    name: str
    share_pct: int
    """The share that it was taken for."""
    kind: Kind
    macs_pct: float
    """The share that it has."""
    nbytes: int

    @property
    def is_near(self) -> bool:
        """Whether it lies as near to its share as the rule wants."""
        return abs(self.macs_pct - self.share_pct) <= WITHIN


def cuts_by_rule(listing: Listing) -> tuple[RuleCut, ...]:
    """The rule's cuts, by share; one that is taken for several reasons stands there several times.

    Where no cut lies within the five points, the nearest one is taken (`is_near` is False). Of
    equal bytes the nearest to the share is taken, and of those the last. A model without any cut
    after a ReLU gets none of those. Raises UsageError where there is nothing to choose from.
    """
    single = [
        cut
        for cut in listing.legal
        if cut.marks.single and cut.point.name not in (INPUT_CUT, OUTPUT_CUT)
    ]
    if not single or not listing.macs:
        why = "no cut of it has one tensor" if listing.macs else "it has no multiply-accumulates"
        raise UsageError(f"the rule finds no cuts in this model ({why}): name some with --cut")
    rectified = [cut for cut in single if cut.marks.rectified]
    found = []
    for share in SHARES_PCT:
        found.append(_chosen(single, share, "fewest bytes", listing.macs))
        if rectified:
            found.append(_chosen(rectified, share, "after a ReLU", listing.macs))
    return tuple(found)


def branched_cuts_by_rule(listing: Listing) -> tuple[RuleCut, ...]:
    """The same for a model with branches: two cuts of several tensors each.

    The model's own input and output are no such cuts. Raises UsageError as `cuts_by_rule`.
    """
    several = [
        cut
        for cut in listing.legal
        if not cut.marks.single and cut.point.name not in (INPUT_CUT, OUTPUT_CUT)
    ]
    if not several or not listing.macs:
        return cuts_by_rule(listing)
    return tuple(_chosen(several, share, "several tensors", listing.macs) for share in BRANCHED_PCT)


def _chosen(cuts: Sequence[ListedCut], share_pct: int, kind: Kind, macs: int) -> RuleCut:
    candidates = [_rule_cut(cut, share_pct, kind, macs) for cut in cuts]
    near = [cut for cut in candidates if cut.is_near]
    if not near:
        least = min(abs(cut.macs_pct - share_pct) for cut in candidates)
        near = [cut for cut in candidates if abs(cut.macs_pct - share_pct) == least]
    # From the end, because `min` keeps the first of equals.
    return min(reversed(near), key=lambda cut: (cut.nbytes, abs(cut.macs_pct - share_pct)))


def _rule_cut(listed: ListedCut, share_pct: int, kind: Kind, macs: int) -> RuleCut:
    assert listed.cost is not None
    assert listed.point.cut is not None
    return RuleCut(
        name=listed.point.name,
        share_pct=share_pct,
        kind=kind,
        macs_pct=100 * listed.cost.head_macs / macs,
        nbytes=listed.point.cut.nbytes,
    )
