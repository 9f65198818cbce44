"""The rule that says where codecs are judged, on listings made up here."""

from __future__ import annotations

import pytest

from experiments.cut_rule import RuleCut, branched_cuts_by_rule, cuts_by_rule
from splitbed.errors import UsageError
from splitbed.graph import INPUT_CUT, OUTPUT_CUT, ListedCut, Listing
from splitbed.graph.cost import PartCost
from splitbed.graph.cuts import CutPoint
from splitbed.graph.marks import Marks
from splitbed.tensor import Cut, TensorSpec


def place(
    name: str, macs: int, nbytes: int, *, relu: bool = False, single: bool = True
) -> ListedCut:
    cut = Cut(name, (TensorSpec(name, "uint8", (nbytes,)),))
    point = CutPoint(name, 0, "", (name,), cut, "", 0.0)
    return ListedCut(point, PartCost(0, 0, macs, 0, 0), Marks(single=single, rectified=relu))


def listing(*cuts: ListedCut, macs: int = 1000) -> Listing:
    ends = place(INPUT_CUT, 0, 1), place(OUTPUT_CUT, macs, 1)
    return Listing((ends[0], *cuts, ends[1]), 0, 0, macs, ())


def at(found: tuple[RuleCut, ...], share: int, kind: str) -> RuleCut:
    (only,) = [cut for cut in found if (cut.share_pct, cut.kind) == (share, kind)]
    return only


def test_fewest_bytes_within_five_points() -> None:
    found = cuts_by_rule(
        listing(
            place("early", 199, 1),  # 19.9 %: out by a tenth of a point
            place("edge", 200, 30),
            place("small", 260, 20),
            place("relu", 270, 40, relu=True),
            place("late", 301, 1),
            place("two", 250, 1, single=False),
            place("half", 500, 9, relu=True),
            place("end", 750, 9),
        )
    )
    assert at(found, 25, "fewest bytes").name == "small"
    assert at(found, 25, "after a ReLU").name == "relu"
    assert at(found, 25, "after a ReLU").macs_pct == 27
    assert at(found, 50, "fewest bytes").name == at(found, 50, "after a ReLU").name == "half"
    assert at(found, 75, "fewest bytes").name == "end"
    assert all(cut.is_near for cut in found if (cut.share_pct, cut.kind) != (75, "after a ReLU"))


@pytest.mark.parametrize(
    ("places", "wanted"),
    [
        ([("far", 220), ("near", 251)], "near"),
        ([("near", 249), ("far", 280)], "near"),
        ([("first", 250), ("second", 250), ("third", 250)], "third"),
        ([("before", 240), ("after", 260)], "after"),
    ],
)
def test_equal_bytes_the_nearest_and_of_those_the_last(
    places: list[tuple[str, int]], wanted: str
) -> None:
    found = cuts_by_rule(listing(*(place(name, macs, 10) for name, macs in places)))
    assert at(found, 25, "fewest bytes").name == wanted


def test_where_none_is_near_the_nearest_is_taken_and_says_so() -> None:
    found = cuts_by_rule(
        listing(place("a", 100, 5), place("b", 400, 50), place("c", 400, 40), place("d", 900, 1))
    )
    middle = at(found, 50, "fewest bytes")
    assert (middle.name, middle.is_near, middle.macs_pct) == ("c", False, 40)
    # As far on either side: the one with fewer bytes.
    assert at(found, 25, "fewest bytes").name == "a"
    assert not any(cut.kind == "after a ReLU" for cut in found)


def test_nothing_to_choose_from() -> None:
    with pytest.raises(UsageError, match=r"no cut of it has one tensor.*--cut"):
        cuts_by_rule(listing(place("two", 500, 1, single=False)))
    with pytest.raises(UsageError, match=r"no multiply-accumulates.*--cut"):
        cuts_by_rule(listing(place("one", 0, 1), macs=0))


def test_a_detector_is_cut_where_several_tensors_cross() -> None:
    found = branched_cuts_by_rule(
        listing(
            place("one", 500, 1),
            place("half", 520, 30, single=False),
            place("small", 549, 20, single=False),
            place("out", 551, 1, single=False),
            place("late", 720, 9, single=False),
        )
    )
    assert [(cut.name, cut.share_pct, cut.kind) for cut in found] == [
        ("small", 50, "several tensors"),
        ("late", 75, "several tensors"),
    ]


def test_a_detector_without_branches_is_cut_as_any_other() -> None:
    made = listing(place("one", 500, 1))
    assert branched_cuts_by_rule(made) == cuts_by_rule(made)
