"""Student's t against its published points."""

from __future__ import annotations

import pytest

from splitbed.student import spread95, student95


def test_points() -> None:
    assert (student95(2), student95(5.9), student95(0.2)) == (4.303, 2.571, 12.706)
    for degrees, point in ((10, 2.228), (19, 2.093), (30, 2.042), (60, 2.0003), (1e9, 1.95996)):
        assert student95(degrees) == pytest.approx(point, abs=1e-3)


def test_a_mean_of_few() -> None:
    middle, low, high = spread95([1.0, 2.0, 3.0])
    assert middle == 2
    assert (2 - low, high - 2) == pytest.approx((4.303 / 3**0.5, 4.303 / 3**0.5))
