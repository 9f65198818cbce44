"""Importers of other people's traces: mahimahi, UCC 5G, Lumos5G.

Each reads the rates of one direction and makes a trace of them for whatever direction is asked. A
throughput that somebody measured is taken for bits of IP packets per second.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from netem.trace_steps import FASTEST_BPS, LONGEST_NS, Way, lasting, made_of_rates
from netem.trace_text import TraceText, shown
from splitbed.errors import UsageError
from splitbed.link import Trace

BIN_NS: Final = 100_000_000
"""Length of the steps in which packet opportunities are counted.

Over mahimahi's four LTE traces such steps put the time of a 400 kB frame 0.5 to 0.9 % off at the
median and 2.5 to 3.7 % at the 95th percentile, at nine changes a second; 20 ms steps halve that for
forty changes, steps of a second are ten times as far off (`tests/benchmarks/bins.py`)."""

UCC_COLUMNS: Final = frozenset({"Timestamp", "DL_bitrate"})
LUMOS5G_COLUMNS: Final = frozenset({"run_num", "seq_num", "Throughput"})

_PACKET_BITS: Final = 1500 * 8
_MS: Final = 1_000_000
_S: Final = 1_000_000_000
_FASTEST_MBPS: Final = FASTEST_BPS / 1e6


def read_mahimahi(text: TraceText, name: str, way: Way, bin_ns: int = BIN_NS) -> Trace:
    """Packet opportunities of mahimahi's mm-link (R. Netravali et al., USENIX ATC 2015).

    A line is the millisecond at which one packet of 1500 bytes may pass; a millisecond that stands
    there several times lets several pass. The last line is the length, too: it is the instant 0 of
    the next round. A step of `bin_ns` without an opportunity has rate 0.
    """
    longest_ms, bin_ms = LONGEST_NS // _MS, max(1, bin_ns // _MS)
    packets: Counter[int] = Counter()
    last_ms = at_end = 0
    for number, row in text.rows():
        at_ms = _milliseconds(text, number, row, longest_ms)
        if at_ms < last_ms:
            raise text.error(number, f"time goes back from millisecond {last_ms} to {at_ms}")
        at_end = at_end + 1 if at_ms == last_ms else 1
        last_ms = at_ms
        packets[at_ms // bin_ms] += 1
    if not last_ms:
        raise UsageError(f"{text.where}: all packet opportunities are at 0 ms, so it has no length")
    packets[last_ms // bin_ms] -= at_end
    packets[0] += at_end
    count = max(1, round(last_ms / bin_ms))  # what is left at the end joins the last step
    if count in packets:
        packets[count - 1] += packets.pop(count)
    rates = (
        (index * bin_ms * _MS, packets[index] * _PACKET_BITS * 1000 // span_ms)
        for index in sorted({0, *packets, *(index + 1 for index in packets)})
        if index < count
        for span_ms in [last_ms - index * bin_ms if index == count - 1 else bin_ms]
    )
    rounds = -(-bin_ms // last_ms)  # a file of one line lasts a millisecond, and says a rate
    duration_ms = last_ms * rounds if count == 1 else last_ms
    source = f"{text.where} (mahimahi packet opportunities in steps of {bin_ms} ms)"
    return made_of_rates(name, source, rates, duration_ms * _MS, way)


def _milliseconds(text: TraceText, number: int, row: str, longest_ms: int) -> int:
    if row.isascii() and row.isdigit() and len(row) < 12 and int(row) <= longest_ms:
        return int(row)
    text.figure(number, "the millisecond", row, longest_ms)
    raise text.error(number, f"the millisecond '{shown(row)}' is not a whole number")


def read_ucc(text: TraceText, name: str, way: Way) -> Trace:
    """Drive and static tests of University College Cork (D. Raca et al., MMSys 2018 and 2020).

    `DL_bitrate` in kbit/s, about once a second. Rows of the same second are averaged, and a second
    without rows is as the one before. Rows whose `State` has no D were taken while nothing was
    downloaded: they say nothing of the link and are left out. The tests are downloads, so
    `UL_bitrate` is acknowledgements, no capacity, and is not read.
    """
    rates: list[tuple[int, int]] = []
    same: list[float] = []
    start: datetime | None = None
    last = -1
    idle = held = 0
    for number, row in _table(text):
        if "D" not in row.get("State", "D"):
            idle += 1
            continue
        word = row["Timestamp"]
        try:
            at = datetime.strptime(word, "%Y.%m.%d_%H.%M.%S")
        except ValueError:
            raise text.error(
                number, f"'{shown(word)}' is no time stamp like 2020.02.13_13.03.24"
            ) from None
        start = start or at
        second = int((at - start).total_seconds())
        if second < last:
            raise text.error(number, f"time goes back to {word}")
        kbps = text.figure(number, "DL_bitrate", row["DL_bitrate"], FASTEST_BPS / 1e3)
        if second == last:
            same.append(kbps)
        else:
            held += second - last - 1
            same = [kbps]
            rates.append((second * _S, 0))
        rates[-1] = (second * _S, round(1000 * sum(same) / len(same)))
        last = second
    if not rates:
        raise UsageError(f"{text.where} has no row in which something was downloaded")
    source = (
        f"{text.where} (UCC, DL_bitrate a second; {idle} rows left out in which nothing was "
        f"downloaded, {held} seconds without a row as the one before; UL_bitrate is no capacity)"
    )
    return made_of_rates(name, source, rates, (last + 1) * _S, way)


def read_lumos5g_table(text: TraceText, name: str, way: Way) -> Trace:
    """The table of Lumos5G 1.0 (A. Narayanan et al., IMC 2020): mmWave, walking and driving.

    `Throughput` in Mbit/s of TCP downlink, one row a second of `seq_num`; the runs of `run_num`
    follow one another. A second without a row is as the one before.
    """
    rates: list[tuple[int, int]] = []
    begin = first = last = 0
    run, runs = "", 0
    for number, row in _table(text):
        second = int(text.figure(number, "seq_num", row["seq_num"], LONGEST_NS / _S))
        if row["run_num"] != run or not runs:
            begin += last - first + 1 if runs else 0
            run, runs, first = row["run_num"], runs + 1, second
        elif second <= last:
            raise text.error(number, f"time goes back from second {last} to {second}")
        last = second
        mbps = text.figure(number, "Throughput", row["Throughput"], _FASTEST_MBPS)
        rates.append(((begin + second - first) * _S, round(mbps * 1e6)))
    if not rates:
        raise UsageError(f"{text.where} has no row below its header")
    source = f"{text.where} (Lumos5G table, runs one after the other: {runs})"
    return made_of_rates(name, source, rates, (begin + last - first + 1) * _S, way)


def read_lumos5g_text(text: TraceText, name: str, way: Way) -> Trace:
    """Rows of a second and Mbit/s, as Lumos5G and many studies of video streaming keep traces."""
    times: list[int] = []
    rates: list[tuple[int, int]] = []
    for number, row in text.rows():
        words = row.split()
        if len(words) != 2:
            raise text.error(number, f"'{shown(row)}' is not a second and Mbit/s")
        at_ns = round(text.figure(number, "the second", words[0], 1e10) * _S)
        if times and at_ns <= times[-1]:
            raise text.error(number, f"time goes back, or stands still, at second {words[0]}")
        times.append(at_ns)
        mbps = text.figure(number, "the rate", words[1], _FASTEST_MBPS)
        rates.append((at_ns - times[0], round(mbps * 1e6)))
    if len(times) < 2:
        raise UsageError(f"{text.where} has one row only, which does not say how long it holds")
    source = f"{text.where} (seconds and Mbit/s)"
    return made_of_rates(name, source, rates, lasting(times) - times[0], way)


def _table(text: TraceText) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows below a header, by column."""
    header: Sequence[str] = ()
    for number, row in text.rows():
        cells = split_cells(text, number, row)
        if not header:
            header = cells
        elif len(cells) < len(header):
            raise text.error(number, f"{len(cells)} columns, where the header has {len(header)}")
        else:
            yield number, dict(zip(header, cells, strict=False))


def split_cells(text: TraceText, number: int, row: str) -> list[str]:
    """The cells of one line of a CSV file."""
    try:
        return [cell.strip() for cell in next(csv.reader([row]))]
    except csv.Error as error:
        raise text.error(number, f"no line of a CSV file: {error}") from error
