"""Profiles that come from recorded data have the figures of those data."""

from __future__ import annotations

import csv
import statistics
import zipfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from netem.profiles import find_profile

MBIT = 1_000_000
MS = 1_000_000
SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def percentile(values: list[float], pct: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[pct - 1]


@pytest.fixture(scope="module")
def traces(data: Path) -> Path:
    if not (data / "traces").is_dir():
        pytest.skip(f"no traces at {data / 'traces'}")
    return data / "traces"


@pytest.fixture(scope="module")
def speed_tests(traces: Path) -> dict[str, list[float]]:
    """Columns F (Mbit/s down), G (Mbit/s up) and H (ping in ms) of the three days' sheets."""
    found: dict[str, list[float]] = {"F": [], "G": [], "H": []}
    with zipfile.ZipFile(traces / "glasgow_5g_2025" / "Glasgow5GDataSet.xlsx") as book:
        for day in (1, 2, 3):
            sheet = ElementTree.fromstring(book.read(f"xl/worksheets/sheet{day}.xml"))
            for cell in sheet.iter(f"{SHEET}c"):
                column, row = cell.attrib["r"][0], int(cell.attrib["r"][1:])
                value = cell.findtext(f"{SHEET}v")
                if column in found and row > 1 and value is not None:
                    found[column].append(float(value))
    assert [len(column) for column in found.values()] == [720] * 3
    return found


@pytest.mark.parametrize(
    ("name", "rate_pct", "ping_pct"), [("5g-glasgow", 50, 50), ("5g-glasgow-bad", 5, 95)]
)
def test_glasgow(
    speed_tests: dict[str, list[float]], name: str, rate_pct: int, ping_pct: int
) -> None:
    profile = find_profile(name)
    for direction, column in ((profile.down, "F"), (profile.up, "G")):
        wanted = percentile(speed_tests[column], rate_pct) * MBIT
        assert direction.payload_bps == pytest.approx(wanted, rel=0.002)
        half_ping_ns = percentile(speed_tests["H"], ping_pct) / 2 * MS
        assert direction.delay_ns == pytest.approx(half_ping_ns, rel=0.003)


def opportunities_ms(traces: Path, name: str) -> list[int]:
    return [int(line) for line in (traces / "mahimahi" / name).read_text().split()]


@pytest.mark.parametrize(
    ("name", "file"),
    [("lte-verizon", "Verizon-LTE-short"), ("lte-att-driving", "ATT-LTE-driving-2016")],
)
def test_mahimahi_means(traces: Path, name: str, file: str) -> None:
    profile = find_profile(name)
    for direction, way in ((profile.up, "up"), (profile.down, "down")):
        times = opportunities_ms(traces, f"{file}.{way}")
        assert direction.rate_bps == pytest.approx(len(times) * 1500 * 8e3 / times[-1], rel=0.002)


@pytest.mark.parametrize("name", ["cell-edge", "cell-edge-lossless"])
def test_cell_edge_has_the_worse_seconds_of_a_drive(traces: Path, name: str) -> None:
    profile = find_profile(name)
    for direction, way in ((profile.up, "up"), (profile.down, "down")):
        times = opportunities_ms(traces, f"ATT-LTE-driving-2016.{way}")
        seconds = Counter(time // 1000 for time in times)
        packets = [float(seconds[second]) for second in range(times[-1] // 1000)]
        assert direction.rate_bps == pytest.approx(percentile(packets, 25) * 12_000, rel=0.002)


def test_drive_over_5g(traces: Path) -> None:
    rates_kbps: list[float] = []
    pings_ms: list[float] = []
    for path in sorted((traces / "ucc_5g").glob("driving_*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["NetworkMode"] == "5G":
                    if row["State"] == "D":
                        rates_kbps.append(float(row["DL_bitrate"]))
                    if row["PINGAVG"].replace(".", "").isdigit():
                        pings_ms.append(float(row["PINGAVG"]))
    profile = find_profile("5g-driving")
    assert profile.down.rate_bps == pytest.approx(percentile(rates_kbps, 50) * 1000, rel=0.002)
    assert profile.rtt_ns == pytest.approx(percentile(pings_ms, 50) * MS, rel=0.003)
