"""Links written out in a line of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem.notation import GRAMMAR, written
from netem.profiles import find_profile, profiles
from splitbed.errors import UsageError
from splitbed.link import BurstLoss, Direction, LinkProfile

MS = 1_000_000
MBIT = 1_000_000


@pytest.mark.parametrize(
    ("text", "up", "down"),
    [
        ("rate=50mbit,delay=20ms", Direction(50 * MBIT, 20 * MS), Direction(50 * MBIT, 20 * MS)),
        ("up=10mbit,down=1gbit", Direction(10 * MBIT), Direction(1000 * MBIT)),
        ("up=512kbit", Direction(512_000), Direction()),
        ("up.rate=512kbit", Direction(512_000), Direction()),
        ("delay=1s", Direction(None, 10**9), Direction(None, 10**9)),
        ("delay=250us,jitter=0.5ms", *[Direction(None, 250_000, 500_000)] * 2),
        ("loss=2.5%", *[Direction(loss_pct=2.5)] * 2),
        ("rate=8MBIT,up=2Mbit", Direction(2 * MBIT), Direction(8 * MBIT)),
        ("up=2mbit,rate=8mbit", Direction(2 * MBIT), Direction(8 * MBIT)),
        ("delay=0ms", Direction(), Direction()),
        ("up.delay=5ms, down.delay = 7 ms", Direction(None, 5 * MS), Direction(None, 7 * MS)),
        ("up.loss=1%,loss=2%", Direction(loss_pct=1), Direction(loss_pct=2)),
        (
            "jitter=2ms/pareto/25%",
            *[Direction(jitter_ns=2 * MS, jitter_distribution="pareto", jitter_correlation_pct=25)]
            * 2,
        ),
        (
            "up.jitter=2ms/25%,down.jitter=1ms/uniform",
            Direction(jitter_ns=2 * MS, jitter_correlation_pct=25),
            Direction(jitter_ns=MS, jitter_distribution="uniform"),
        ),
        ("burst=1%/25%", *[Direction(burst_loss=BurstLoss(1, 25))] * 2),
        ("down.burst=1%/25%/80%", Direction(), Direction(burst_loss=BurstLoss(1, 25, 80))),
        ("burst=1%/25%/80%/0.5%", *[Direction(burst_loss=BurstLoss(1, 25, 80, 0.5))] * 2),
        (
            "loss=1%,up.burst=1%/25%",
            Direction(burst_loss=BurstLoss(1, 25)),
            Direction(loss_pct=1),
        ),
        (
            "duplicate=1%,delay=1ms,up.reorder=2%,corrupt=0.1%,queue=50ms",
            Direction(None, MS, duplicate_pct=1, reorder_pct=2, corrupt_pct=0.1, queue_ns=50 * MS),
            Direction(None, MS, duplicate_pct=1, corrupt_pct=0.1, queue_ns=50 * MS),
        ),
        ("loss=1e-3%", *[Direction(loss_pct=0.001)] * 2),
        ("rate=.5mbit", *[Direction(500_000)] * 2),
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


def test_name_changed_by_what_follows() -> None:
    base = find_profile("5g-urban-macro")
    text = "5g-urban-macro,up.loss=1%,down=8mbit"
    profile = find_profile(text)
    assert profile.name == text
    assert profile.up == Direction(base.up.rate_bps, base.up.delay_ns, loss_pct=1)
    assert profile.down == Direction(8 * MBIT, base.down.delay_ns)
    assert profile.source == f"{base.source}; changed by up.loss=1%,down=8mbit"


@pytest.mark.parametrize(
    ("text", "up"),
    [
        # One kind of loss takes the place of the other, and jitter is one thing with its shape.
        ("cell-edge,loss=0%", Direction(1_110_000, 60 * MS, 15 * MS)),
        ("cell-edge,loss=1%,jitter=0ms", Direction(1_110_000, 60 * MS, loss_pct=1)),
        ("5qi-7,burst=1%/25%", Direction(25 * MBIT, 100 * MS, burst_loss=BurstLoss(1, 25))),
    ],
)
def test_item_takes_the_place_of_the_profiles_own(text: str, up: Direction) -> None:
    assert find_profile(text).up == up


@pytest.mark.parametrize(
    "item",
    [
        *("rate=50", "rate=mbit", "rate=fast", "rate=nanmbit", "rate=infmbit", "rate=50ms"),
        *("rate=", "delay=20", "delay=20mbit", "loss=5", "up", "=", "", "loss=1%%", "up.up=1mbit"),
        *("rate=1_000kbit", "rate=1mbit=2mbit", "delay=0x1ms", "lte", "queue", "up.=1ms", "loss=%"),
        *("jitter=/pareto", "jitter=1ms/normale", "jitter=1ms/5", "jitter=1ms/5%/5%"),
        *("burst=1%", "burst=1/25", "burst=1%/25%/1%/1%/1%", "burst=", "burst=1%//1%"),
        *("loss.up=1%", "UP=1mbit"),
    ],
)
def test_item_that_is_not_understood_is_named(item: str) -> None:
    text = f"down=1mbit,{item}"
    with pytest.raises(UsageError) as caught:
        find_profile(text)
    sentence = str(caught.value)
    assert sentence.startswith(f"link '{text}': '{item}'")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("item", "meant"),
    [
        ("dealy=20ms", "delay="),
        ("up.los=1%", "up.loss="),
        ("loss_pct=1%", "loss="),
        ("up.bursts=1%/25%", "up.burst="),
        ("delay", "delay="),
    ],
)
def test_unknown_item_suggests_the_nearest(item: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"'{item}' is not understood; did you mean '{meant}'"):
        find_profile(f"rate=1mbit,{item}")


def test_unknown_item_like_no_other_lists_all() -> None:
    with pytest.raises(UsageError) as caught:
        find_profile("mtu=1500")
    for key in ("rate=", "up=", "down=", "delay=", "jitter=", "loss=", "burst=", "queue="):
        assert key in str(caught.value)
        assert key in GRAMMAR


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rate=0mbit", "'rate=0mbit' is under 1 kbit/s"),
        ("rate=0.5kbit", "'rate=0.5kbit' is under 1 kbit/s"),
        ("up=-1mbit", "'up=-1mbit' is negative"),
        ("rate=1e9gbit", "'rate=1e9gbit' is over 1000 gbit"),
        ("delay=-5ms", "'delay=-5ms' is negative"),
        ("delay=61s", "'delay=61s' is over 60 s"),
        ("loss=101%", "'loss=101%' is over 100 %"),
        ("down.corrupt=100.1%", "'down.corrupt=100.1%' is over 100 %"),
        ("queue=0ms", "'queue=0ms' must be more than 0"),
        ("burst=0%/25%", "'burst=0%/25%' must begin and end bursts"),
        ("burst=1%/0%", "'burst=1%/0%' must begin and end bursts"),
        ("burst=1%/25%/101%", "'burst=1%/25%/101%' is over 100 %"),
        ("jitter=0ms/25%", "'jitter=0ms/25%' correlates a jitter of 0"),
        ("loss=1%,burst=1%/25%", "'loss=1%' and 'burst=1%/25%' exclude each other"),
        ("up.burst=1%/25%,up.loss=0%", "'up.burst=1%/25%' and 'up.loss=0%' exclude each other"),
        ("reorder=1%", "'reorder=1%': reordered packets skip the delay, and there is none"),
        ("up.reorder=1%,down.delay=5ms", "'up.reorder=1%': reordered packets skip the delay"),
        ("rate=1mbit,rate=2mbit", "'rate=1mbit' and 'rate=2mbit' say the same thing twice"),
        ("delay=1ms,delay=2ms", "'delay=1ms' and 'delay=2ms' say the same thing twice"),
        ("up=1mbit,up.rate=2mbit", "'up=1mbit' and 'up.rate=2mbit' say the same thing twice"),
        ("lte,loss=200%", "'loss=200%' is over 100 %"),
    ],
)
def test_figure_that_cannot_be_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_profile(text)
    sentence = str(caught.value)
    assert sentence.startswith(f"link '{text}': {why}")
    assert "\n" not in sentence


PERCENT = st.floats(0, 100)
CHANCE = st.floats(0, 100, exclude_min=True)
TIME = st.integers(0, 60 * 10**9)


@st.composite
def directions(draw: st.DrawFn) -> Direction:
    """Any direction that the written form can hold."""
    bursts = draw(st.booleans())
    delay_ns, jitter_ns = draw(TIME), draw(TIME)
    return Direction(
        rate_bps=draw(st.none() | st.integers(1000, 10**12)),
        delay_ns=delay_ns,
        jitter_ns=jitter_ns,
        jitter_distribution=draw(st.sampled_from(["normal", "uniform", "pareto", "paretonormal"])),
        jitter_correlation_pct=draw(PERCENT) if jitter_ns else 0.0,
        loss_pct=0.0 if bursts else draw(PERCENT),
        burst_loss=(
            BurstLoss(draw(CHANCE), draw(CHANCE), draw(PERCENT), draw(PERCENT)) if bursts else None
        ),
        duplicate_pct=draw(PERCENT),
        reorder_pct=draw(PERCENT) if delay_ns else 0.0,
        corrupt_pct=draw(PERCENT),
        queue_ns=draw(st.none() | st.integers(1, 60 * 10**9)),
    )


@given(directions(), directions() | st.none())
def test_what_is_written_out_reads_as_the_same(up: Direction, down: Direction | None) -> None:
    profile = LinkProfile("any", up, up if down is None else down)
    text = written(profile)
    found = find_profile(text)
    assert (found.up, found.down) == (profile.up, profile.down)
    if down is None:
        assert not any(item.startswith(("up", "down")) for item in text.split(","))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none", "none"),
        ("lte", "up=7.87mbit,down=30.6mbit,delay=10.5ms"),
        ("cell-edge", "up=1.11mbit,down=1.95mbit,delay=60ms,jitter=15ms,burst=0.5%/25%"),
        ("5qi-84", "up=25mbit,down=50mbit,delay=30ms,loss=0.001%"),
    ],
)
def test_profiles_written_out(name: str, text: str) -> None:
    assert written(find_profile(name)) == text


@pytest.mark.parametrize("name", profiles())
def test_named_profile_written_out_is_the_same(name: str) -> None:
    profile = find_profile(name)
    again = find_profile(written(profile))
    assert (again.up, again.down) == (profile.up, profile.down)
