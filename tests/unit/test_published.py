"""The source documents' tables: what comes out as printed, and exactly what does not."""

from __future__ import annotations

import pytest

from experiments.published import TABLES, met
from experiments.published.table import PublishedTable


def unmet(found: list[PublishedTable]) -> set[tuple[str, str]]:
    """Table and line of every printed figure that does not come out."""
    return {
        (table.title.split(",")[0], row.cells[0])
        for table in found
        for row in table.rows
        if row.met < row.figures
    }


@pytest.mark.parametrize(
    ("table", "right", "total", "different"),
    [
        (
            "C1",
            17,
            23,
            {
                ("TR 22.874 table 5.1.1-2", "input"),
                ("TR 22.874 table 5.1.1-1", "pool5"),
                ("TR 22.874 table 5.1.1-2", "pool4"),
                ("TR 22.874 clause 5.1.1", "GoogleNet"),
            },
        ),
        ("D1", 30, 35, {("TR 22.874 table 6.x.1-1", "GoogleNet")}),
        ("B1", 3, 4, {("S4-240785 table 10.2.4-1", "parameters")}),
        ("B2", 5, 5, set()),
        ("B3", 16, 16, set()),
        ("B4", 7, 8, {("hand-gesture scenario", "resnext101_32x8d")}),
    ],
)
def test_printed_figures(
    table: str, right: int, total: int, different: set[tuple[str, str]]
) -> None:
    found = TABLES[table]()
    assert met(found) == (right, total)
    assert unmet(found) == different
    for one in found:
        assert one.rounding
        for row in one.rows:
            assert len(row.cells) == len(one.headings)
            assert bool(row.remark) == (row.met < row.figures), "a difference is explained"


def test_posenet_has_32_splits_with_growing_heads() -> None:
    splits = TABLES["B1"]()[1].rows
    assert [row.cells[0] for row in splits] == [f"{n}:{31 - n}" for n in range(32)]
    heads = [int(row.cells[1].replace(",", "")) for row in splits]
    assert heads == sorted(heads)
    assert heads[0] == 0


def test_each_gesture_network_has_eight_stages() -> None:
    stages = TABLES["B4"]()[1].rows
    assert [row.cells[1] for row in stages] == [str(n) for n in range(1, 9)] * 4


def test_every_requirement_of_the_issue_is_there() -> None:
    assert set(TABLES) == {"B1", "B2", "B3", "B4", "C1", "D1"}
