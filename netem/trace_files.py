"""Trace files: which format a text is in is seen from its first row, never from its name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from netem.trace_csv import COLUMNS, read_table
from netem.trace_importers import (
    BIN_NS,
    LUMOS5G_COLUMNS,
    UCC_COLUMNS,
    read_lumos5g_table,
    read_lumos5g_text,
    read_mahimahi,
    read_ucc,
    split_cells,
)
from netem.trace_steps import Way
from netem.trace_text import TraceText, shown
from splitbed.errors import UsageError
from splitbed.link import Trace

LARGEST_BYTES: Final = 64 << 20
"""A minute of packet opportunities at 1 Gbit/s is 35 MB."""
KNOWN: Final = (
    "mahimahi packet opportunities (a millisecond a line), the CSV files of UCC 5G and Lumos5G, "
    f"rows of a second and Mbit/s, or a CSV with second and any of {', '.join(COLUMNS)}"
)


def read_trace(
    text: str, where: str = "the trace", way: Way = "down", bin_ns: int = BIN_NS, name: str = ""
) -> Trace:
    """The trace in the text of a file.

    `way` is the direction for which formats of one direction are meant; `where` names the text in
    errors, `name` the trace. `bin_ns` is the step of packet opportunities, in whole milliseconds.
    Raises UsageError, with the number of the line where there is one.
    """
    rows = TraceText(text, where)
    name = name or where
    number, first = next(rows.rows(), (0, ""))
    if not number:
        raise UsageError(f"{where} is empty")
    cells = split_cells(rows, number, first)
    if "second" in cells:
        return read_table(rows, name)
    if set(cells) >= UCC_COLUMNS:
        return read_ucc(rows, name, way)
    if set(cells) >= LUMOS5G_COLUMNS:
        return read_lumos5g_table(rows, name, way)
    if len(first.split()) == 2 and "," not in first:
        return read_lumos5g_text(rows, name, way)
    if first.lstrip("+-").isdigit():
        return read_mahimahi(rows, name, way, bin_ns)
    raise UsageError(
        f"{where}, line {number}: '{shown(first)}' begins none of the traces known: {KNOWN}"
    )


def load_trace(path: Path, way: Way = "down", bin_ns: int = BIN_NS) -> Trace:
    """The trace in a file. Raises UsageError where it cannot be read, or is none."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the trace {path}: {error.strerror}") from error
    if len(content) > LARGEST_BYTES:
        raise UsageError(
            f"the trace {path} is larger than {LARGEST_BYTES >> 20} MiB, the most that is read"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the trace {path} is not a text file in UTF-8") from error
    if "\0" in text:
        raise UsageError(f"the trace {path} is not a text file")
    return read_trace(text, str(path), way, bin_ns, path.name)
