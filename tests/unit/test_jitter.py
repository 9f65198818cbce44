"""The distributions that both backends draw from."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean, pstdev
from typing import Literal

import pytest

from netem.jitter import Jitter
from splitbed.link import Direction

MS = 1_000_000
Name = Literal["normal", "uniform", "pareto", "paretonormal"]


@pytest.mark.parametrize("name", ["normal", "uniform", "pareto", "paretonormal"])
def test_draws_have_the_deviation_that_was_asked_for(name: Name) -> None:
    jitter = Jitter(Direction(jitter_ns=2 * MS, jitter_distribution=name), seed=5)
    drawn = [jitter.draw_ns() / MS for _ in range(20_000)]
    assert abs(fmean(drawn)) < 0.05
    assert pstdev(drawn) == pytest.approx(2, rel=0.03)
    assert (fmean((x / 2) ** 3 for x in drawn) > 0.8) == name.startswith("pareto")
    assert (max(drawn) < 2 * 1.8) == (name == "uniform")


def test_a_correlation_makes_neighbours_alike() -> None:
    def alike(pct: float) -> float:
        jitter = Jitter(Direction(jitter_ns=MS, jitter_correlation_pct=pct), seed=1)
        drawn = [jitter.draw_ns() for _ in range(5000)]
        return fmean(a * b for a, b in pairwise(drawn)) / pstdev(drawn) ** 2

    assert abs(alike(0)) < 0.05
    assert 0.4 < alike(50) < 0.6


def test_without_jitter_nothing_strays_and_a_seed_tells_all() -> None:
    assert Jitter(Direction(delay_ns=MS), 1).draw_ns() == 0
    one, other = (Jitter(Direction(jitter_ns=MS), 3) for _ in range(2))
    assert [one.draw_ns() for _ in range(9)] == [other.draw_ns() for _ in range(9)]
