"""Links by name and written out."""

from __future__ import annotations

import pytest

from netem.profiles import describe, find_profile, profiles
from splitbed.errors import UsageError
from splitbed.link import Direction

MS = 1_000_000


@pytest.mark.parametrize("name", profiles())
def test_named_profile_says_where_it_comes_from(name: str) -> None:
    profile = find_profile(name)
    assert profile.name == name
    assert len(profile.source) > 20
    assert profile.is_shaped == (name != "none")
    for direction in (profile.up, profile.down):
        assert (direction.rate_bps is not None) == (name != "none")
    assert describe(profile)


def test_profiles_of_the_specification_have_its_rates() -> None:
    # TS 22.261 table 7.1-1: experienced data rates, downlink / uplink in Mbit/s.
    rates = {"5g-urban-macro": (50, 25), "5g-crowd": (25, 50), "5g-indoor": (1000, 500)}
    for name, (down, up) in rates.items():
        profile = find_profile(name)
        assert (profile.down.rate_bps, profile.up.rate_bps) == (down * 10**6, up * 10**6)


@pytest.mark.parametrize(
    ("text", "up", "down"),
    [
        ("rate=50mbit,delay=20ms", Direction(50_000_000, 20 * MS), Direction(50_000_000, 20 * MS)),
        ("up=10mbit,down=1gbit", Direction(10_000_000), Direction(1_000_000_000)),
        ("up=512kbit", Direction(512_000), Direction()),
        ("delay=1s", Direction(None, 10**9), Direction(None, 10**9)),
        ("delay=250us,jitter=0.5ms", *[Direction(None, 250_000, 500_000)] * 2),
        ("loss=2.5%", *[Direction(loss_pct=2.5)] * 2),
        ("rate=8MBIT,up=2Mbit", Direction(2_000_000), Direction(8_000_000)),
        ("delay=0ms", Direction(), Direction()),
    ],
)
def test_written_form(text: str, up: Direction, down: Direction) -> None:
    profile = find_profile(text)
    assert (profile.name, profile.up, profile.down) == (text, up, down)
    assert profile.source


@pytest.mark.parametrize(
    ("text", "rate_bps", "delay_ns"),
    [("rate=4.1mbit", 4_100_000, 0), ("delay=32.3ms", None, 32_300_000)],
)
def test_written_figures_are_exact(text: str, rate_bps: int | None, delay_ns: int) -> None:
    profile = find_profile(text)
    assert (profile.up.rate_bps, profile.up.delay_ns) == (rate_bps, delay_ns)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("5g-urban", "5g-urban-macro"), ("lte_verizon", "lte-verizon"), ("nne", "none")],
)
def test_unknown_name_suggests_the_nearest(text: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"unknown link profile '{text}'; did you mean '{meant}'"):
        find_profile(text)


def test_unknown_name_lists_all_and_the_written_form() -> None:
    with pytest.raises(UsageError) as caught:
        find_profile("???")
    sentence = str(caught.value)
    assert "did you mean" not in sentence
    assert "rate=50mbit,delay=20ms" in sentence
    for name in profiles():
        assert name in sentence


@pytest.mark.parametrize(
    "item",
    [
        "rate=50",
        "rate=mbit",
        "rate=fast",
        "rate=-1mbit",
        "rate=nanmbit",
        "rate=infmbit",
        "rate=50ms",
        "rate=",
        "delay=20",
        "delay=20mbit",
        "loss=5",
        "up",
        "queue=10ms",
        "=",
        "",
    ],
)
def test_item_that_is_not_understood_is_named(item: str) -> None:
    text = f"down=1mbit,{item}"
    with pytest.raises(UsageError) as caught:
        find_profile(text)
    sentence = str(caught.value)
    assert f"'{item}'" in sentence
    assert f"link '{text}'" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("text", ["rate=0mbit", "rate=0.5kbit", "loss=101%"])
def test_figure_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"link '{text}'"):
        find_profile(text)


@pytest.mark.parametrize("text", ["rate=1mbit,rate=2mbit", "delay=1ms,delay=2ms"])
def test_one_thing_said_twice_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        find_profile(text)


def test_description_for_people() -> None:
    assert describe(find_profile("none")) == "not shaped"
    text = "up=10mbit,delay=5ms,jitter=1ms,loss=0.5%"
    assert describe(find_profile(text)) == (
        "up 10 Mbit/s 5 ms +-1 ms 0.5 % loss, down full rate 5 ms +-1 ms 0.5 % loss"
    )
