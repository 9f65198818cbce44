"""The table, the CSV and the plot of a sweep of the network."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import msgspec
import pytest

from experiments.network_sweep import Configuration, Sweep, SweptLink
from experiments.run_facts import CertifiedLink
from experiments.run_options import RunOptions
from experiments.statistics import Percentile, share
from experiments.summary import Summary
from experiments.sweep_figures import show
from tests.unit.test_verdict import loss, summary

POINTS = (("@result", "raw"), ("@picture", "jpeg:90"), ("layer3", "quantize:4+zstd:3"))
LINKS = (
    SweptLink("rate=10mbit,delay=5ms", "10mbit", "5ms"),
    SweptLink("rate=1mbit,delay=5ms", "1mbit", "5ms"),
    SweptLink("rate=10mbit,delay=5ms,loss=1%", "10mbit", "5ms", "1%"),
    SweptLink("rate=1mbit,delay=5ms,loss=1%", "1mbit", "5ms", "1%"),
    SweptLink("up=5mbit,down=50mbit,delay=20ms"),
)
TIMES_MS = {  # by link: of each point
    0: (20.0, 15.0, 10.0),
    1: (10.0, 1600.0, 30.0),
    2: (10.0, 15.0, 10.1),  # 1 ms either way: too close for these frames to tell
    4: (10.0, None, 30.0),
}


def sweep_of(out: Path, points: tuple[tuple[str, str], ...] = POINTS) -> Sweep:
    options = RunOptions(model=Path("net.onnx"), cut="", images=Path("pictures"), out=out)
    return Sweep(options, (), points, LINKS)


def results() -> dict[Configuration, Summary]:
    found = {}
    for at, times in TIMES_MS.items():
        for (cut, codec), ms in zip(POINTS, times, strict=True):
            if ms is None:
                continue
            run = summary(
                cut, ms, run_id=f"{at} {cut}", codec=codec, loss=loss(0.5), accuracy=share(9, 10),
                request_bytes=1234.0, certified=CertifiedLink(9.6, 9.5, 10.2),
            )  # fmt: skip
            run.total_ms["p95"] = Percentile(1.5 * ms, None, None)
            found[Configuration(cut, codec, LINKS[at].text)] = run
    return found


def shown(
    capsys: pytest.CaptureFixture[str], out: Path, found: dict[Configuration, Summary]
) -> str:
    sweep = sweep_of(out)
    show(sweep, found, {c: "the edge went away" for c in sweep.configurations if c not in found})
    return capsys.readouterr().out


def row(text: str, link: str) -> str:
    (line,) = (line for line in text.splitlines() if re.match(f"{re.escape(link)}  ", line))
    return " ".join(line.removeprefix(link).split())


def test_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = shown(capsys, tmp_path, results())
    assert row(text, "link") == "A p50 p95 B p50 p95 C p50 p95 split"
    assert row(text, "10mbit 5ms") == "20.0 30.0 15.0 22.5 10.0* 15.0 helps"
    assert row(text, "1mbit 5ms") == "10.0* 15.0 1600 2400 30.0 45.0 no"
    assert row(text, "10mbit 5ms 1%") == "10.0* 15.0 15.0 22.5 10.1 15.1 ?"
    assert row(text, "1mbit 5ms 1%") == "- - - - - - -"
    assert row(text, LINKS[4].text) == "10.0* 15.0 - - 30.0 45.0 no"
    assert "C  layer3 quantize:4+zstd:3: 1,234 bytes up, +0.5 points of accuracy lost" in text


def test_a_point_that_loses_too_much_is_not_marked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = results()
    for one, run in found.items():
        if one.cut == "layer3":
            found[one] = msgspec.structs.replace(run, loss=loss(3.0))
    text = shown(capsys, tmp_path, found)
    assert row(text, "10mbit 5ms") == "20.0 30.0 15.0* 22.5 10.0 15.0 ?"
    assert "C  layer3 quantize:4+zstd:3: 1,234 bytes up, +3.0 points" in text


def test_many_points_fit_80_columns(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    points = (*POINTS, *((f"layer{n}", "cast+zstd:3") for n in range(27)))
    found = results()
    show(sweep_of(tmp_path, points), found, {})
    text = capsys.readouterr().out
    table = text[: text.index("ms end to end")].splitlines()
    assert max(map(len, table)) <= 80
    assert sum(line.startswith("link") for line in table) == 8
    assert "\nZ  layer22 cast+zstd:3\nA1  layer23 cast+zstd:3\n" in text


def test_the_csv_has_every_configuration_with_all_figures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shown(capsys, tmp_path, results())
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    first = rows[2]
    assert (first["link"], first["cut"], first["codec"]) == (LINKS[0].text, *POINTS[2])
    assert (first["up_rate_bps"], first["down_delay_ms"]) == ("10000000", "5.0")
    assert (first["p50_ms"], first["p50_low_ms"], first["p95_ms"]) == ("10.0", "9.0", "15.0")
    assert (first["points_lost"], first["accuracy_pct"], first["agreement_pct"]) == (
        "0.5",
        "90.0",
        "",
    )
    assert (first["request_bytes"], first["head_p50_ms"]) == ("1234.0", "1.0")
    assert (first["certified_up_goodput_mbps"], first["certified_rtt_ms"]) == ("9.6", "10.2")
    assert (first["backend"], first["fastest"], first["splitting_helps"]) == (
        "relay",
        "True",
        "True",
    )
    assert rows[0]["fastest"] == "False"
    assert (rows[9]["up_loss_pct"], rows[9]["missing"]) == ("1.0", "the edge went away")
    assert rows[9]["p50_ms"] == ""
    asymmetric = rows[-1]
    assert (asymmetric["up_rate_bps"], asymmetric["down_rate_bps"]) == ("5000000", "50000000")


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_the_plot(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plt, "close", drawn.append)
    shown(capsys, tmp_path, results())
    found = texts(tmp_path / "sweep.svg")
    # Beside each row of panels, where there is something to name.
    assert [found.count(" ".join(point)) for point in POINTS] == [3, 2, 3]
    assert LINKS[4].text in found
    plain, lossy, whole = (
        {line.get_color(): line for line in axes.get_lines()[::-1]} for axes in drawn[0].axes
    )
    device, _, split = dict.fromkeys(line.get_color() for line in drawn[0].axes[0].get_lines())
    assert drawn[0].axes[1].get_title(loc="left") == "delay 5ms one way, 1% lost"
    assert list(plain[split].get_xdata()) == [1.0, 10.0]
    assert list(plain[split].get_ydata()) == [30.0, 10.0]
    assert math.isnan(lossy[device].get_ydata()[0])
    assert lossy[device].get_ydata()[1] == 10.0
    assert whole[device].get_linestyle() == "None"
    filled = [line for line in drawn[0].axes[0].get_lines() if line.get_mfc() != "white"]
    fastest = sorted((line.get_xdata()[0], line.get_color()) for line in filled)
    assert fastest == [(1.0, device), (10.0, split)]
    monkeypatch.undo()
    plt.close(drawn[0])


def test_the_same_figures_make_the_same_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = []
    for _ in range(2):
        shown(capsys, tmp_path, results())
        made.append([(tmp_path / name).read_bytes() for name in ("sweep.csv", "sweep.svg")])
    assert made[0] == made[1]


def test_whole_links_alone_make_a_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sweep = msgspec.structs.replace(sweep_of(tmp_path), links=LINKS[4:])
    show(sweep, results(), {})
    assert "10.0*" in capsys.readouterr().out
    assert LINKS[4].text in texts(tmp_path / "sweep.svg")
