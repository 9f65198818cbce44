"""Recorded traces: read as their sources say, and replayed."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.trace_summary import summarised
from netem.profiles import find_profile
from netem.trace_csv import written_table
from netem.trace_files import read_trace
from netem.traces import find_trace
from splitbed.link import Trace

NONE = find_profile("none")


@pytest.fixture
def traces(data: Path) -> Path:
    folder = data / "traces"
    if not folder.is_dir():
        pytest.skip(f"no recorded traces at {folder}")
    return folder


def found(path: Path) -> Trace:
    return find_trace(str(path), NONE)


@pytest.mark.parametrize(
    ("name", "seconds", "up_mbps", "down_mbps"),
    [
        ("ATT-LTE-driving-2016", 120.002, 1.91, 4.56),
        ("Verizon-LTE-short", 140.0, 5.95, 5.03),
    ],
)
def test_mahimahi(
    traces: Path, name: str, seconds: float, up_mbps: float, down_mbps: float
) -> None:
    trace = found(traces / "mahimahi" / f"{name}.up")
    assert trace.steps == found(traces / "mahimahi" / f"{name}.down").steps
    summary = summarised(trace)
    assert summary.duration_s == seconds
    assert summary.up is not None
    assert summary.down is not None
    assert summary.up.mean_bps == pytest.approx(up_mbps * 1e6, rel=0.002)
    assert summary.down.mean_bps == pytest.approx(down_mbps * 1e6, rel=0.002)


@pytest.mark.parametrize(
    ("name", "seconds", "mbps"),
    [
        ("driving_B_2020.02.13_13.03.24", 2667, 7.56),
        ("driving_B_2020.02.14_07.29.00", 2271, 32.6),
        ("static_B_2020.01.16_10.43.34", 3679, 73.4),
        ("static_B_2020.02.13_13.57.29", 3498, 47.0),
    ],
)
def test_ucc(traces: Path, name: str, seconds: int, mbps: float) -> None:
    summary = summarised(found(traces / "ucc_5g" / f"{name}.csv"))
    assert summary.duration_s == seconds
    assert summary.up is None, "its uplink is acknowledgements"
    assert summary.down is not None
    assert summary.down.mean_bps == pytest.approx(mbps * 1e6, rel=0.002)


def test_every_recorded_trace_survives_our_own_file(traces: Path) -> None:
    paths = [*(traces / "mahimahi").glob("*.up"), *(traces / "ucc_5g").glob("*.csv")]
    assert len(paths) == 6
    for path in paths:
        trace = found(path)
        again = read_trace(written_table(trace))
        assert again.digest == trace.digest
