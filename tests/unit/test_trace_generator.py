"""Generated traces: the same everywhere, and as the model says."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netem.profiles import find_profile
from netem.trace_steps import pieces
from netem.traces import find_trace
from splitbed.errors import UsageError
from splitbed.link import LinkProfile, Trace

S = 1_000_000_000
PROFILE = find_profile("up=10mbit,down=40mbit,delay=5ms")
LONG = "generate:seed=5,duration=20000s"


def generate(text: str, profile: LinkProfile = PROFILE) -> Trace:
    return find_trace(text, profile)


def spans(trace: Trace, way: str = "up") -> list[tuple[float, int]]:
    """Seconds and bit/s of each span of a direction."""
    side = pieces(trace, "up" if way == "up" else "down")
    ends = [*(at_ns for at_ns, _ in side[1:]), trace.duration_ns]
    return [((e - at_ns) / S, c.rate_bps or 0) for (at_ns, c), e in zip(side, ends, strict=True)]


def sampled(trace: Trace, way: str) -> list[int]:
    """Bit/s in every step of 100 ms, where there are no gaps."""
    return [bps for s, bps in spans(trace, way) for _ in range(round(s * 10))]


def mean(trace: Trace, way: str) -> float:
    return math.fsum(s * bps for s, bps in spans(trace, way)) / (trace.duration_ns / S)


def test_the_same_seed_is_the_same_trace_on_every_machine() -> None:
    found = generate("generate:seed=1")
    assert found.digest == "89a0a4a0c4164f713c88cfd2694d0ec8351e0305aa38513de9ef13b97d2f03d1"
    assert generate("generate:seed=1") == found
    assert generate("generate:seed=2").digest != found.digest


@pytest.mark.parametrize(
    "text", ["", "seed=3,cv=2", "cv=0", "gap=0ms", "floor=0", "every=1s,gap=2s"]
)
def test_the_mean_is_the_profile_s_rate(text: str) -> None:
    found = generate(f"generate:{text}")
    assert mean(found, "up") == pytest.approx(10e6, abs=0.5)
    assert mean(found, "down") == pytest.approx(40e6, abs=0.5)
    assert found.duration_ns == 60 * S


def test_deviation_and_correlation_are_as_asked() -> None:
    rates = sampled(generate(LONG + ",cv=0.3,correlation=2s,gap=0s,floor=0"), "up")
    assert len(rates) == 200_000
    assert statistics.pstdev(rates) / 10e6 == pytest.approx(0.3, rel=0.05)
    off = [bps - 10e6 for bps in rates]
    power = statistics.fmean(x * x for x in off)
    after_2_s = statistics.fmean(a * b for a, b in zip(off, off[20:], strict=False)) / power
    assert after_2_s == pytest.approx(1 / math.e, abs=0.05)


def test_gaps_are_as_asked() -> None:
    found = generate(LONG + ",gap=250ms,every=10s")
    for way in ("up", "down"):
        gaps = [s for s, bps in spans(found, way) if bps == 0]
        assert set(gaps) == {0.25}
        assert len(gaps) == pytest.approx(20_000 / 10.25, rel=0.1)
    begins = [step.at_ns / S for step in found.steps if step.up.rate_bps == 0]
    waits = [b - a - 0.25 for a, b in pairwise(begins)]
    # Of an exponential distribution, deviation and mean are the same.
    assert statistics.stdev(waits) == pytest.approx(statistics.fmean(waits), rel=0.1)


def test_the_floor_holds_outside_gaps() -> None:
    found = generate("generate:seed=4,cv=2,floor=10%,duration=600s")
    for way, least in (("up", 1_000_000), ("down", 4_000_000)):
        rates = {bps for _, bps in spans(found, way)}
        assert min(rates - {0}) == least


def test_directions_vary_on_their_own() -> None:
    found = generate("generate:gap=0s,floor=0", find_profile("rate=10mbit"))
    ups, downs = sampled(found, "up"), sampled(found, "down")
    assert abs(statistics.correlation(ups, downs)) < 0.9


def test_a_direction_without_a_rate_has_the_gaps_only() -> None:
    found = generate("generate:seed=2,every=5s", find_profile("up=10mbit"))
    assert {step.down.rate_bps for step in found.steps} == {None, 0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds=1", "'seeds' is not understood: did you mean 'seed'?"),
        ("zz", "'zz' is not understood: known are seed, cv"),
        ("seed=1,seed=2", "'seed' stands there twice"),
        ("seed=-1", "'seed=-1' is not understood: write seed=NUMBER"),
        ("gap=3", "'gap=3' is not understood: write gap=NUMBERs or gap=NUMBERms"),
        ("gap=inf", "'gap=inf' is not understood"),
        ("cv=9", "Expected `float` <= 3.0"),
        ("floor=95%", "Expected `float` <= 0.9"),
        ("step=0.5ms", "Expected `int` >= 1000000"),
        ("duration=0s", "Expected `int` >= 1"),
        ("duration=90000s", "Expected `int` <= "),
        ("step=1ms,duration=501s", "more than 500000 steps"),
        ("gap=999s,every=1ms", "gaps leave so little time"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        generate(f"generate:{text}")
    assert words in str(caught.value)


def test_a_profile_without_a_rate_is_refused() -> None:
    with pytest.raises(UsageError, match="the profile 'none' has no rate that could vary"):
        generate("generate:", find_profile("none"))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["seed", "cv", "correlation", "gap", "every", "floor", "step", "x"]),
            st.sampled_from(["", "0", "1", "0.5", "30", "9999999", "1e5", "-1", "\u0663"]),
            st.sampled_from(["", "s", "ms", "%"]),
        ).map(lambda t: f"{t[0]}={t[1]}{t[2]}"),
        max_size=4,
    )
)
def test_whatever_is_written_is_a_trace_or_refused(items: list[str]) -> None:
    try:
        found = generate("generate:" + ",".join(["duration=30s", *items]))
    except UsageError:
        return
    assert mean(found, "up") == pytest.approx(10e6, abs=1)
