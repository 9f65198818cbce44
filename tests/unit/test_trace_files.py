"""Trace files of other people: recognised, read as they are meant, refused with the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netem import trace_files
from netem.trace_files import load_trace, read_trace
from netem.trace_steps import FASTEST_BPS, LONGEST_NS, cut, joined, pieces
from splitbed.errors import UsageError
from splitbed.link import Change, Step, Trace

S, MS = 1_000_000_000, 1_000_000
UCC = "Timestamp,Longitude,DL_bitrate,UL_bitrate,State"
LUMOS = "run_num,seq_num,latitude,nrStatus,Throughput,tower_id"


def down(text: str, **given: Any) -> list[tuple[float, int | None]]:
    """Millisecond and bit/s of the downlink."""
    found = read_trace(text, **given)
    assert pieces(found, "up") == ((0, Change()),)
    return [(at_ns / MS, change.rate_bps) for at_ns, change in pieces(found, "down")]


def lines(*rows: object) -> str:
    return "".join(f"{row}\n" for row in rows)


# ----------------------------------------------------------------------------------------- mahimahi


def test_packet_opportunities_are_counted_in_steps_of_100_ms() -> None:
    text = lines(0, 0, 99, 100, 250, 310, 399, 400)
    # The last line is the length of the file, and instant 0 of the next round: 4 packets then.
    assert down(text) == [(0, 480_000), (100, 120_000), (300, 240_000)]
    assert read_trace(text).duration_ns == 400 * MS


def test_a_step_without_opportunities_has_rate_0() -> None:
    assert down(lines(50, 1000)) == [(0, 240_000), (100, 0)]


@pytest.mark.parametrize("bin_ms", [1, 7, 20, 100, 1000])
def test_bytes_are_kept_whatever_the_step(bin_ms: int) -> None:
    times = [3, 3, 40, 99, 100, 101, 512, 777, 777, 777, 1003]
    trace = read_trace(lines(*times), bin_ns=bin_ms * MS)
    side = pieces(trace, "down")
    ends = [*(at_ns for at_ns, _ in side[1:]), trace.duration_ns]
    bits = sum((c.rate_bps or 0) * (e - at_ns) for (at_ns, c), e in zip(side, ends, strict=True))
    assert trace.duration_ns == 1003 * MS
    assert bits / S == pytest.approx(len(times) * 12_000, abs=len(side))


def test_what_is_left_at_the_end_joins_the_last_step() -> None:
    trace = read_trace(lines(*range(1, 231)))
    assert [step.at_ns for step in trace.steps] in ([0], [0, 100 * MS])
    assert trace.duration_ns == 230 * MS
    assert {step.down.rate_bps for step in trace.steps} == {12_000_000}


def test_a_file_of_one_line_says_a_rate() -> None:
    trace = read_trace("1\n")  # mahimahi's own example: 12 Mbit/s
    assert trace.steps == (Step(0, Change(), Change(12_000_000)),)
    assert trace.duration_ns == 100 * MS


def test_directions() -> None:
    rate = Change(12_000_000)
    assert read_trace("1\n", way="up").steps == (Step(0, rate, Change()),)
    assert read_trace("1\n", way="both").steps == (Step(0, rate, rate),)


# --------------------------------------------------------------------------------------- UCC, Lumos


def test_ucc_averages_a_second_holds_over_gaps_and_leaves_idle_rows_out() -> None:
    text = lines(
        UCC,
        "2020.02.13_23.59.58,-8.3,0,77,I",
        "2020.02.13_23.59.58,-8.3,100,77,D",
        "2020.02.13_23.59.58,-8.3,300,77,VD",
        "2020.02.13_23.59.59,-8.3,0,77,D",
        "2020.02.14_00.00.02,-8.3,50,77,D",
        "2020.02.14_00.00.03,-8.3,999,77,I",
        "2020.02.14_00.00.04,-8.3,7,77,D",
    )
    assert down(text) == [(0, 200_000), (1000, 0), (4000, 50_000), (6000, 7_000)]
    trace = read_trace(text)
    assert trace.duration_ns == 7 * S
    assert "2 rows left out" in trace.source
    assert "3 seconds without a row" in trace.source
    assert "UL_bitrate is no capacity" in trace.source


def test_lumos5g_runs_follow_one_another() -> None:
    text = lines(
        LUMOS, "1,5,44.9,NONE,2.5,t1", "1,6,44.9,NONE,1.5,t1", "2,1,44.9,X,0,t", "2,4,,,9,"
    )
    assert down(text) == [(0, 2_500_000), (1000, 1_500_000), (2000, 0), (5000, 9_000_000)]
    assert read_trace(text).duration_ns == 6 * S


@pytest.mark.parametrize("blank", [" ", "\t"])
def test_seconds_and_mbit(blank: str) -> None:
    text = lines(f"10.5{blank}2", f"11.5{blank}0", f"13{blank}3.25")
    assert down(text) == [(0, 2_000_000), (1000, 0), (2500, 3_250_000)]
    assert read_trace(text).duration_ns == 4 * S


def test_a_format_is_seen_from_its_content_past_marks_comments_and_blank_lines() -> None:
    text = "\ufeff\r\n# of the fifth run\r\n\r\n0 1\r\n2 3\r\n"
    assert down(text) == [(0, 1_000_000), (2000, 3_000_000)]


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "t is empty"),
        ("\n\n# nothing\n", "t is empty"),
        ("rate\n1\n", "t, line 1: 'rate' begins none of the traces known: mahimahi"),
        ("1.5\n2.5\n", "t, line 1: '1.5' begins none"),
        ("# a\n\nWHAT,EVER\n", "t, line 3: 'WHAT,EVER' begins none"),
        ("5\n\n7\n6\n", "t, line 4: time goes back from millisecond 7 to 6"),
        ("5\nsix\n", "t, line 2: the millisecond is 'six', which is no number"),
        ("5\n6.5\n", "t, line 2: the millisecond '6.5' is not a whole number"),
        ("-5\n6\n", "t, line 1: the millisecond is -5, which is negative"),
        ("5\n99999999999\n", "t, line 2: the millisecond is 99999999999; the largest possible"),
        ("5\n" + "9" * 5000, "t, line 2: the millisecond is " + "9" * 40 + "...; the largest"),
        ("0\n0\n", "all packet opportunities are at 0 ms"),
        (
            "0\n" * 100_000 + "1\n",
            "a rate of 1,200 Gbit/s at second 0; the largest possible is 1000",
        ),
        ("0 1\n", "t has one row only"),
        ("0 1\n1\n", "t, line 2: '1' is not a second and Mbit/s"),
        ("0 1\n1 2 3\n", "t, line 2: '1 2 3' is not a second and Mbit/s"),
        ("0 1\n0 2\n", "t, line 2: time goes back, or stands still, at second 0"),
        ("0 1\n1 -2\n", "t, line 2: the rate is -2, which is negative"),
        ("0 1\n1 nan\n", "t, line 2: the rate is 'nan', which is no number"),
        ("0 1\n1 1e7\n", "t, line 2: the rate is 1e7; the largest possible is 1e+06"),
        ("0 1\n1e9 1\n", "the trace t lasts 2,000,000,000 s; the longest"),
        (lines(UCC), "t has no row in which something was downloaded"),
        (lines(UCC, "2020.02.13_13.03.24,1,1,1,I"), "t has no row in which something was"),
        (lines(UCC, "2020.02.13,1,1,1,D"), "t, line 2: '2020.02.13' is no time stamp like"),
        (lines(UCC, "2020.02.13_13.03.24,1,1"), "t, line 2: 3 columns, where the header has 5"),
        (lines(UCC, "2020.02.13_13.03.24,1,-,1,D"), "t, line 2: DL_bitrate is '-', which is no"),
        (lines(UCC, "2020.02.13_13.03.24,1,-4,1,D"), "t, line 2: DL_bitrate is -4, which is neg"),
        (
            lines(UCC, "2020.02.13_13.03.24,1,1,1,D", "2020.02.13_13.03.23,1,1,1,D"),
            "t, line 3: time goes back to 2020.02.13_13.03.23",
        ),
        (lines(LUMOS), "t has no row below its header"),
        (lines(LUMOS, "1,1,,,x,"), "t, line 2: Throughput is 'x', which is no number"),
        (lines(LUMOS, "1,2,,,1,", "1,2,,,1,"), "t, line 3: time goes back from second 2 to 2"),
    ],
)
def test_a_broken_trace_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_trace(text, "t")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    for content, words in (
        (b"\x89PNG\r\n\x1a\n\0\0", "is not a text file in UTF-8"),
        (b"1\n2\n\0\n", "is not a text file"),
        (b"", "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=words):
            load_trace(path)
    for nowhere in (tmp_path / "no", tmp_path):
        with pytest.raises(UsageError, match=r"cannot read the trace .*: (No such|Is a dir)"):
            load_trace(nowhere)
    path.write_bytes(b"1\n" * 100)
    monkeypatch.setattr(trace_files, "LARGEST_BYTES", 199)
    with pytest.raises(UsageError, match="is larger than 0 MiB"):
        load_trace(path)


WORDS = st.one_of(
    st.sampled_from(
        ["second", "up_mbps", "down_delay_ms", "up_loss_pct", *UCC.split(","), *LUMOS.split(",")]
    ),
    st.sampled_from(
        ["2020.02.13_13.03.24", "2020.02.13_13.03.25", "9999.12.31_23.59.59", "D", "I"]
    ),
    st.integers(-2, 100).map(str),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", '"', "-", "#", "1e400", "1_0", "\u0663", "nan", "0x10", "\0", "\x1c", "\r"]
    ),
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.tuples(st.sampled_from([",", " ", "\t"]), st.lists(WORDS, max_size=6)).map(
            lambda row: row[0].join(row[1])
        ),
        max_size=12,
    ).map("\n".join),
    st.lists(st.integers(0, 3000), max_size=40).map(lambda n: lines(*sorted(n))),
    st.lists(WORDS, max_size=30).map(lambda rest: lines(UCC, *rest)),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS, st.sampled_from(["up", "down", "both"]))
def test_whatever_stands_in_a_text_it_is_a_trace_or_refused(text: str, way: Any) -> None:
    try:
        trace = read_trace(text, "t", way)
    except UsageError:
        return
    assert 0 < trace.duration_ns <= LONGEST_NS
    assert all((c.rate_bps or 0) <= FASTEST_BPS for s in trace.steps for c in (s.up, s.down))
    assert msgspec.json.decode(msgspec.json.encode(trace), type=Trace) == trace


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=80))
def test_whatever_stands_in_a_file(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(content)
    try:
        load_trace(path)
    except UsageError:
        return


# -------------------------------------------------------------------------------------------- steps


def test_a_piece_begins_with_what_held() -> None:
    trace = read_trace("0 1\n10 2\n20 3\n30 4\n")
    piece = cut(trace, 15 * S, 25 * S)
    assert [(s.at_ns / S, s.down.rate_bps) for s in piece.steps] == [(0, 2_000_000), (5, 3_000_000)]
    assert piece.duration_ns == 10 * S
    assert cut(trace, 0, 40 * S).steps == trace.steps
    for start, end in ((5, 5), (30, 41), (9, 3)):
        with pytest.raises(UsageError, match=r"lasts 40 s: .* is no piece of it"):
            cut(trace, start * S, end * S)


def test_joined_traces_repeat_the_shorter_one() -> None:
    found = joined("x", read_trace("0 1\n1 2\n", way="up"), read_trace("0 5\n2.5 6\n"))
    rates = [((s.at_ns / S), s.up.rate_bps, s.down.rate_bps) for s in found.steps]
    assert found.duration_ns == 5 * S
    assert rates == [
        (0, 1_000_000, 5_000_000),
        (1, 2_000_000, 5_000_000),
        (2, 1_000_000, 5_000_000),
        (2.5, 1_000_000, 6_000_000),
        (3, 2_000_000, 6_000_000),
        (4, 1_000_000, 6_000_000),
    ]


def test_a_short_trace_beside_a_long_one_is_bounded() -> None:
    short = read_trace("0 1\n0.001 2\n", way="up")
    with pytest.raises(UsageError, match="begins anew too often"):
        joined("x", short, read_trace("0 1\n40000 2\n"))
