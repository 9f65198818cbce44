"""Our own trace files: what is written reads back the same; what is broken is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netem.trace_csv import written_table
from netem.trace_files import read_trace
from netem.trace_steps import FASTEST_BPS, LONGEST_NS, made_of_steps
from splitbed.errors import UsageError
from splitbed.link import Change, Step, Trace

S = 1_000_000_000


def test_every_column() -> None:
    found = read_trace(
        "# a drive\n"
        "second,up_mbps,down_mbps,up_delay_ms,down_delay_ms,up_loss_pct,down_loss_pct\n"
        "100,5.5,20,25,0.5,1,2.5\n"
        "101.5,0,,,,,\n"
        "102, 1 ,,7\n"
        "110\n"
    )
    assert found.steps == (
        Step(
            0,
            Change(5_500_000, 25_000_000, 1.0),
            Change(20_000_000, 500_000, 2.5),
        ),
        Step(1_500_000_000, Change(0)),
        Step(2 * S, Change(1_000_000, 7_000_000)),
    )
    assert found.duration_ns == 10 * S


def test_without_an_end_the_last_row_holds_as_long_as_the_one_before() -> None:
    assert read_trace("second,up_mbps\n0,1\n4,2\n5,3\n").duration_ns == 6 * S


def test_columns_in_any_order() -> None:
    found = read_trace("down_mbps,second\n7,0\n,2\n")
    assert found.steps == (Step(0, Change(), Change(7_000_000)),)
    assert found.duration_ns == 2 * S


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("second,up_mbs\n0,1\n", "t, line 1: unknown column 'up_mbs': did you mean 'up_mbps'?"),
        ("second,zz\n0,1\n", "t, line 1: unknown column 'zz': known are up_mbps, up_delay_ms"),
        ("second,up_mbps,up_mbps\n0,1,1\n", "t, line 1: a column stands there twice"),
        ("second,up_mbps\n", "t does not say how long its row holds"),
        ("second,up_mbps\n0,1\n", "t does not say how long its row holds"),
        ("second,up_mbps\n0,1\n1,2,3\n", "t, line 3: 3 cells, where the header has 2"),
        ("second,up_mbps\n0,1\n\n0,2\n", "t, line 4: time goes back, or stands still, at second 0"),
        ("second,up_mbps\n0,1\nx,2\n", "t, line 3: second is 'x', which is no number"),
        ("up_mbps,second\n1\n", "t, line 2: second is '', which is no number"),
        ("second,up_mbps\n0,-1\n1\n", "t, line 2: up_mbps is -1, which is negative"),
        ("second,up_loss_pct\n0,101\n1\n", "t, line 2: up_loss_pct is 101; the largest possible"),
        ("second,up_delay_ms\n0,60001\n1\n", "t, line 2: up_delay_ms is 60001; the largest"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_trace(text, "t")
    assert words in str(caught.value)


CHANGES = st.builds(
    Change,
    rate_bps=st.none() | st.integers(0, FASTEST_BPS),
    delay_ns=st.none() | st.integers(0, 60 * S),
    loss_pct=st.none() | st.floats(0, 100),
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    times = draw(st.lists(st.integers(1, LONGEST_NS - 1), unique=True, max_size=8))
    steps = [Step(at_ns, draw(CHANGES), draw(CHANGES)) for at_ns in sorted({0, *times})]
    end_ns = draw(st.integers(max(times, default=0) + 1, LONGEST_NS))
    return made_of_steps(draw(st.text(max_size=20)), draw(st.text(max_size=20)), steps, end_ns)


@settings(deadline=None)
@given(traces())
def test_what_is_written_reads_back_the_same(trace: Trace) -> None:
    found = read_trace(written_table(trace))
    assert (found.steps, found.duration_ns) == (trace.steps, trace.duration_ns)
    assert found.digest == trace.digest
