"""`splitbed link trace`: its figures, its picture, its file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from PIL import Image

from experiments.commands.link_trace import main
from experiments.trace_summary import TraceSummary, summarised
from netem.profiles import find_profile
from netem.traces import find_trace
from splitbed.errors import RecordError, UsageError

TABLE = """\
second,up_mbps,up_delay_ms,down_delay_ms,up_loss_pct
0,5,20,10,0
3,0,20,,
3.5,8,60,30,1.5
9,,,,
12
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "drive.csv"
    path.write_text(TABLE)
    return path


def test_the_page(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(table)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = {line[:18].strip(): line[18:].split("  ") for line in out.splitlines()}
    cells = {name: [cell.strip() for cell in row if cell] for name, row in rows.items()}
    assert cells["trace"] == ["drive.csv"]
    assert cells["duration"] == ["12.000 s, then again from the beginning"]
    assert cells["rate, mean"] == ["6.556 Mbit/s", "as the profile"]
    assert cells["median"] == ["8 Mbit/s"]
    assert cells["p5 .. p95"] == ["0 .. 8 Mbit/s"]
    assert cells["outages"] == ["1, 0.5 s in all"]
    assert cells["delay"] == ["20 .. 60 ms", "10 .. 30 ms"]
    assert cells["loss"] == ["0 .. 1.5 %", "as the profile"]
    # 0, 3, 3.5, 9 up; down 0, 3, 3.5, 9: each one a change, from the end to the beginning too.
    assert cells["changes a second"] == ["0.333", "0.333"]


def test_the_page_fits_into_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        "second,up_mbps,down_mbps,up_delay_ms\n0,123456.789,0.012345,12345.678\n"
        "0.123,0,999999,1.234\n100.5,1,2,\n200.123\n"
    )
    main([str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80


def test_for_programs(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(table), "--json"])
    found = msgspec.json.decode(capsys.readouterr().out, type=TraceSummary)
    assert found == summarised(find_trace(str(table), find_profile("none")))
    assert found.up is not None
    assert found.up.mean_bps == pytest.approx((15e6 + 8e6 * 5.5) / 9)
    assert (found.up.outages, found.up.outage_s) == (1, 0.5)


def test_shares_of_the_time_not_of_the_steps(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("second,down_mbps\n0,1\n1,2\n2,3\n3,9\n97,0\n98,5\n99,0\n100\n")
    found = summarised(find_trace(str(path), find_profile("none"))).down
    assert found is not None
    assert (found.p5_bps, found.median_bps, found.p95_bps) == (3_000_000, 9_000_000, 9_000_000)
    assert (found.outages, found.outage_s, found.longest_outage_s) == (2, 2.0, 1.0)


def test_a_saved_piece_reads_back(table: Path, tmp_path: Path) -> None:
    saved = tmp_path / "piece.csv"
    main([str(table), "--cut", "2..4.5", "--save", str(saved)])
    found = find_trace(str(saved), find_profile("none"))
    assert found.duration_ns == 2_500_000_000
    assert [(s.at_ns / 1e9, s.up.rate_bps) for s in found.steps] == [
        (0, 5_000_000),
        (1, 0),
        (1.5, 8_000_000),
    ]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_picture(table: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"drive.{kind}"
    main([str(table), "--plot", str(path)])
    first = path.read_bytes()
    assert len(first) > 2000
    if kind == "png":
        with Image.open(path) as image:
            assert image.size == (1500, 937)
    if kind == "svg":
        text = first.decode()
        for word in ("uplink, Mbit/s", "delay, ms", "loss, %", "1 outage, 0.5 s in all"):
            assert word in text
        main([str(table), "--plot", str(path)])
        assert path.read_bytes() == first


def test_a_generated_trace(capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate:seed=1", "--profile", "rate=10mbit"])
    out = capsys.readouterr().out
    assert "rate, mean        10 Mbit/s                     10 Mbit/s" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs TRACE"),
        (["/no/where"], "cannot read the trace /no/where"),
        (["generate:"], "the profile 'none' has no rate that could vary"),
        (["TABLE", "--cut", "3"], "--cut 3: write START..END in seconds"),
        (["TABLE", "--cut", "3..13"], "3..13 is no piece of it"),
        (["TABLE", "--plot", "x.gif"], "--plot x.gif: the picture's name ends with one of .svg"),
        (["TABLE", "--bin-ms", "0"], "--bin-ms 0: expected"),
        (["EMPTY", "--plot", "x.svg"], "the trace says nothing that could be drawn"),
    ],
)
def test_mistakes(arguments: list[str], words: str, table: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("second,up_mbps\n0,\n1,\n2\n")
    names = {"TABLE": str(table), "EMPTY": str(empty)}
    with pytest.raises(UsageError) as caught:
        main([names.get(word, word) for word in arguments])
    assert words in str(caught.value)


def test_a_place_that_cannot_be_written(table: Path) -> None:
    with pytest.raises(RecordError, match="cannot write /no/where"):
        main([str(table), "--save", "/no/where/x.csv"])
