"""Our own trace files: plain CSV with a header, read and written.

    second,up_mbps,down_mbps,up_delay_ms
    0,5.5,20,25
    1.5,0,,40
    60

`second` counts from any beginning; the other columns are any of COLUMNS, and an empty cell leaves
that to the profile. A last row with nothing but its second says where the trace ends; without it
the last row holds as long as the one before. Lines that begin with # are left out.
"""

from __future__ import annotations

import difflib
from typing import Any, Final

import msgspec

from netem.trace_importers import split_cells
from netem.trace_steps import FASTEST_BPS, lasting, made_of_steps
from netem.trace_text import TraceText, shown
from splitbed.errors import UsageError
from splitbed.link import Change, Step, Trace

_FIGURES: Final = {
    "mbps": ("rate_bps", 1e6, FASTEST_BPS / 1e6),
    "delay_ms": ("delay_ns", 1e6, 60_000.0),
    "loss_pct": ("loss_pct", None, 100.0),
}
"""Column without its direction: field of `Change`, what one of it is there (None: it is the same
number), and the largest."""

COLUMNS: Final = tuple(f"{way}_{figure}" for way in ("up", "down") for figure in _FIGURES)
_S: Final = 1_000_000_000


def read_table(text: TraceText, name: str) -> Trace:
    """A trace from its CSV."""
    header: list[str] = []
    steps: list[Step] = []
    end_ns = 0
    for number, row in text.rows():
        cells = split_cells(text, number, row)
        if not header:
            header = _checked(text, number, cells)
            continue
        if len(cells) > len(header):
            raise text.error(number, f"{len(cells)} cells, where the header has {len(header)}")
        given = dict(zip(header, cells, strict=False))
        at_ns = round(text.figure(number, "second", given.pop("second", ""), 1e6) * _S)
        if steps and at_ns <= steps[-1].at_ns:
            raise text.error(number, f"time goes back, or stands still, at second {cells[0]}")
        steps.append(
            Step(at_ns, _change(text, number, given, "up"), _change(text, number, given, "down"))
        )
        end_ns = 0 if any(given.values()) else at_ns
    if len(steps) < 2:
        raise UsageError(
            f"{text.where} does not say how long its row holds: add a last row with nothing but "
            "the second at which the trace ends"
        )
    start_ns = steps[0].at_ns
    if end_ns:
        steps.pop()
    else:
        end_ns = lasting([step.at_ns for step in steps])
    moved = (msgspec.structs.replace(step, at_ns=step.at_ns - start_ns) for step in steps)
    return made_of_steps(name, f"{text.where} (CSV)", moved, end_ns - start_ns)


def _checked(text: TraceText, number: int, header: list[str]) -> list[str]:
    for column in header:
        if column != "second" and column not in COLUMNS:
            close = difflib.get_close_matches(column, COLUMNS, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(COLUMNS)}"
            raise text.error(number, f"unknown column '{shown(column)}': {hint}")
    if len(set(header)) < len(header):
        raise text.error(number, "a column stands there twice")
    return header


def _change(text: TraceText, number: int, given: dict[str, str], way: str) -> Change:
    found: dict[str, Any] = {}
    for figure, (field, one, most) in _FIGURES.items():
        cell = given.get(f"{way}_{figure}", "")
        if cell:
            value = text.figure(number, f"{way}_{figure}", cell, most)
            found[field] = value if one is None else round(value * one)
    return Change(**found)


def written_table(trace: Trace) -> str:
    """The CSV of a trace; read again it has the same steps and duration."""
    used = [column for column in COLUMNS if any(_cell(step, column) for step in trace.steps)]
    lines = [f"# {' '.join(line.split())}" for line in (trace.name, trace.source) if line]
    lines.append(",".join(["second", *used]))
    for step in trace.steps:
        lines.append(",".join([_decimal(step.at_ns, 9), *(_cell(step, column) for column in used)]))
    lines.append(_decimal(trace.duration_ns, 9))
    return "\n".join(lines) + "\n"


def _cell(step: Step, column: str) -> str:
    way, _, figure = column.partition("_")
    field, one, _ = _FIGURES[figure]
    value = getattr(step.up if way == "up" else step.down, field)
    if value is None:
        return ""
    return f"{value!r}" if one is None else _decimal(value, 6)


def _decimal(value: int, places: int) -> str:
    """`value` / 10 ** `places`, exactly, with no more digits than it needs."""
    whole, rest = divmod(value, 10**places)
    return f"{whole}.{rest:0{places}}".rstrip("0").removesuffix(".")
