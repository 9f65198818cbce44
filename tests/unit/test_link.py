"""A link's profile: what is asked of it, and what cannot be."""

from __future__ import annotations

import msgspec
import pytest

from splitbed.link import Direction, LinkProfile

MBIT = 1_000_000
MS = 1_000_000

PROFILE = LinkProfile("test", Direction(10 * MBIT, 10 * MS), Direction(20 * MBIT, 15 * MS))


def test_payload_is_1448_of_1500_bytes() -> None:
    assert Direction(15 * MBIT).payload_bps == pytest.approx(14.48 * MBIT)
    assert Direction().payload_bps is None


def test_round_trip_is_both_delays() -> None:
    assert PROFILE.rtt_ns == 25 * MS


def test_a_direction_by_its_name() -> None:
    assert (PROFILE.direction("up"), PROFILE.direction("down")) == (PROFILE.up, PROFILE.down)


@pytest.mark.parametrize(
    ("direction", "shaped"),
    [
        (Direction(), False),
        (Direction(rate_bps=1000), True),
        (Direction(delay_ns=1), True),
        (Direction(jitter_ns=1), True),
        (Direction(loss_pct=0.1), True),
    ],
)
def test_anything_asked_of_either_direction_is_shaping(direction: Direction, shaped: bool) -> None:
    assert LinkProfile("p", direction, Direction()).is_shaped == shaped
    assert LinkProfile("p", Direction(), direction).is_shaped == shaped


@pytest.mark.parametrize(
    "fields", [{"rate_bps": 999}, {"delay_ns": -1}, {"jitter_ns": -1}, {"loss_pct": 101}, {"x": 1}]
)
def test_figures_that_cannot_be_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Direction)
