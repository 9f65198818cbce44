"""What few pictures say of many: margins against pushes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.answer_change import (
    PRIOR_PICTURES,
    expected_change,
    margin,
)
from experiments.class_scores import are_shares, log_scores

numbers = st.floats(-50, 50, allow_nan=False)
pairs = st.lists(st.tuples(st.floats(0, 50), numbers), min_size=1, max_size=30)


def test_a_margin_is_the_same_for_scores_and_their_softmax() -> None:
    scores = np.array([[3.0, 1.0, -2.0]], np.float32)
    softmax = np.exp(scores) / np.exp(scores).sum()
    for chosen, wanted in ((0, 2.0), (1, -2.0), (2, -5.0)):
        assert margin(log_scores(scores, False), chosen) == pytest.approx(wanted)
        assert margin(log_scores(softmax, True), chosen) == pytest.approx(wanted, abs=1e-5)
    assert not are_shares(scores)
    assert are_shares(softmax)
    assert margin(log_scores(np.array([0.3], np.float32), False), 0) == np.inf


@given(pairs)
def test_what_is_expected_is_a_share(found: list[tuple[float, float]]) -> None:
    margins, pushes = zip(*found, strict=True)
    change = expected_change(margins, pushes, found)
    assert 0 <= change.changed_pct <= 100
    assert change.lost_pct is not None
    assert -100 <= change.lost_pct <= 100
    assert expected_change(margins, pushes, ()).lost_pct is None


@given(pairs, st.floats(0, 20))
def test_more_push_changes_no_less(found: list[tuple[float, float]], more: float) -> None:
    margins, pushes = zip(*found, strict=True)
    further = [push + more for push in pushes]
    before = expected_change(margins, pushes, ())
    assert expected_change(margins, further, ()).changed_pct >= before.changed_pct - 1e-9


def test_nothing_pushed_changes_nothing_and_no_number_changes_all() -> None:
    assert expected_change([1.0, 2.0], [0.0, -3.0], [(1.0, 0.0)]).changed_pct == 0
    none = expected_change([1.0, 2.0], [float("nan")] * 2, [(1.0, float("nan"))])
    assert none.changed_pct == 100


def test_few_pictures_without_a_close_call_are_not_believed() -> None:
    """Counting says that none of these changes; of exponential margins some would."""
    pushes = [0.2] * 8
    change = expected_change([4.0] * 8, pushes, ())
    prior = 1 - np.exp(-0.2 / 4)
    assert change.changed_pct == pytest.approx(100 * prior * PRIOR_PICTURES / (8 + PRIOR_PICTURES))


def test_it_is_right_on_average_where_counting_is_coarse() -> None:
    """Of many draws of 16 pictures: near the truth, and far less scattered than a count."""
    rng = np.random.default_rng(0)
    margins = rng.gamma(1.3, 3.0, 20_000)
    pushes = rng.normal(0, 0.4, 20_000)
    truth = 100 * float((pushes >= margins).mean())
    counted, expected = [], []
    for draw in range(300):
        own = slice(16 * draw, 16 * draw + 16)
        counted.append(100 * float((pushes[own] >= margins[own]).mean()))
        change = expected_change(margins[own].tolist(), pushes[own].tolist(), ())
        expected.append(change.changed_pct)
    assert 0.8 * truth < np.mean(expected) < 3 * truth  # on the safe side
    assert np.std(expected) < 0.6 * np.std(counted)


def test_loss_is_net() -> None:
    """Right ones that become wrong and wrong ones that become right cancel."""
    right = [(1.0, 2.0), (-1.0, -2.0)]  # each pushed over the edge
    margins, pushes = [1.0, 1.0], [2.0, 2.0]
    change = expected_change(margins, pushes, right)
    prior = expected_change(margins, pushes, ()).changed_pct
    assert change.lost_pct is not None
    assert change.lost_pct < prior / 2
    worse = expected_change(margins, pushes, [(1.0, 2.0), (1.0, 2.0)])
    assert worse.lost_pct is not None
    assert worse.lost_pct > change.lost_pct
