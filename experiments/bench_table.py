"""The codec bench in a terminal of 80 columns, and as CSV."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Sequence
from typing import Any, Final, TextIO

import msgspec

from experiments.bench_report import Against, BenchReport, ComparedRow, CutReport, Pooled
from experiments.bench_rows import BreakEven, Row
from experiments.score import Terms
from experiments.statistics import Loss
from experiments.terminal import printable
from splitbed.percentile import Percentile

_WIDTH: Final = 80
_CODEC: Final = 18
_SIZES: Final = (9, 7, 6)
_TIMES: Final = (9, 8, 9, 8, 8, 8, 11)
_ERRORS: Final = (10, 10, 10, 9, 9, 10)
"""Widths of the columns after the codec's name, the spaces before them included."""


def page(report: BenchReport) -> str:
    """Everything: the cuts, the anchor, all cuts together, what was left out."""
    lines = _wrapped(
        f"{printable(report.model)}: {report.pictures} pictures, {report.labelled} with a label, "
        f"in {report.folds} folds; each is coded with a calibration from "
        f"{_numbers(report.calibration_pictures)} pictures of the other folds"
    )
    for cut in report.cuts:
        lines += ["", *_cut_lines(cut, report.terms)]
        lines += _more([row.row for row in cut.rows])
    if report.anchors:
        lines += ["", "the picture itself instead of features (@picture)"]
        lines += _answer_lines(
            [ComparedRow(row, None, None) for row in report.anchors], report.terms
        )
        lines += _more(report.anchors)
    if len(report.cuts) > 1 and report.pooled:
        lines += ["", *_pooled_lines(report.pooled, report.terms)]
    if report.cuts:
        lines += ["", *_verdicts(report)]
    for one in report.left_out:
        lines += _wrapped(f"left out: {one.codec} at {printable(one.cut)}: {printable(one.why)}")
    for note in report.notes:
        lines += _wrapped(printable(note))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _cut_lines(cut: CutReport, terms: Terms) -> list[str]:
    crossing = ", ".join(
        f"{spec.dtype} {'x'.join(map(str, spec.shape)) or 'scalar'}" for spec in cut.boundary
    )
    nbytes = sum(spec.nbytes for spec in cut.boundary)
    lines = textwrap.wrap(printable(cut.name), _WIDTH)
    lines += _wrapped(f"{crossing}: {nbytes:,} bytes, {cut.macs_pct:.1f} % of the MACs before it")
    for reason in cut.taken_for:
        what = "the fewest bytes"
        if reason.kind == "after a ReLU":
            what += " straight after a ReLU"
        elif reason.kind == "several tensors":
            what += " of several tensors"
        where = "within 5 points of" if reason.is_near else "nearest (not within 5 points) to"
        lines += _wrapped(f"taken for {what} {where} {reason.share_pct} % of the MACs")
    return [*lines, *_answer_lines(cut.rows, terms)]


def _answer_lines(rows: Sequence[ComparedRow], terms: Terms) -> list[str]:
    """Two lines a codec: figures, and their 95 % intervals below."""
    widths = [column.width for column in terms.columns]
    heads = ("bytes", "bit/el", "times", *(column.heading for column in terms.columns))
    lines = [_line("codec", heads, "JPEG", widths)]
    for compared in rows:
        row, cells = compared.row, compared.row.score.cells()
        figures = (
            f"{row.payload_bytes.value:,.0f}",
            f"{row.bits_per_element:.2f}",
            _three(row.factor),
            *(cell.figure for cell in cells),
        )
        against = compared.at_equal_loss or compared.at_equal_agreement
        last = "" if against is None else _three(against.factor)
        lines += _line(row.codec, figures, last, widths).split("\n")
        lines.append(
            f"{_sizes(row.payload_bytes):>{_CODEC + _SIZES[0]}}{'':{sum(_SIZES[1:])}}"
            + _cells([cell.interval for cell in cells], widths)
        )
    return lines


def _line(codec: str, cells: Sequence[str], last: str, widths: Sequence[int]) -> str:
    all_widths = (*_SIZES, *widths)
    last = f"{last:>{_WIDTH - _CODEC - sum(all_widths)}}"
    return f"{_named(codec)}{_cells(cells, all_widths)}{last}"


def _named(codec: str) -> str:
    """A name in its column, or on a line of its own above it."""
    name = printable(codec)
    return f"{name:<{_CODEC}}" if len(name) < _CODEC else f"{name}\n{'':{_CODEC}}"


def _more(rows: Sequence[Row]) -> list[str]:
    """Two tables below that of the answers: times, then errors and ideal lengths."""
    timed = ("enc ms", "p95", "dec ms", "p95", "MB/s", "MB/s", "pays <")
    lines = ["", f"{'codec':<{_CODEC}}{_cells(timed, _TIMES)}"]
    for row in rows:
        cells = (
            f"{row.encode.p50_ms.value:.3f}",
            f"{row.encode.p95_ms.value:.2f}",
            f"{row.decode.p50_ms.value:.3f}",
            f"{row.decode.p95_ms.value:.2f}",
            _three(row.encode.mbytes_per_s),
            _three(row.decode.mbytes_per_s),
            _rate(row.break_even),
        )
        lines += (_named(row.codec) + _cells(cells, _TIMES)).split("\n")
    heads = ("MSE", "nMSE", "max", "order-0", "channel", "session")
    lines += ["", f"{'codec':<{_CODEC}}{_cells(heads, _ERRORS)}"]
    for row in rows:
        error = row.error
        figures = (
            _small(error.mse),
            "" if error.nmse is None else _small(error.nmse),
            _small(error.max_abs),
            _bits(row.order0_bits),
            _bits(row.order0_channel_bits),
            "" if row.session_bytes is None else f"{row.session_bytes:,}",
        )
        lines += (_named(row.codec) + _cells(figures, _ERRORS)).split("\n")
    return lines


def _cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _pooled_lines(pooled: Sequence[Pooled], terms: Terms) -> list[str]:
    paired = "; the loss is paired by picture" if terms.point else ""
    lines = [
        f"all {pooled[0].cuts} cuts together{paired}",
        f"{'codec':<{_CODEC}}{'bit/el':>9}{'factor':>16}{'loss':>8}{'95 %':>16}{'as uncut':>12}",
    ]
    for one in pooled:
        loss = one.score.loss
        factors = f"{_three(one.least_factor)}..{_three(one.most_factor)}"
        text = (
            f"{_named(one.codec)}{'to ' + format(one.most_bits_per_element, '.2f'):>9}"
            f"{factors:>16}{'' if loss is None else format(loss.points, '+.2f'):>8}"
            f"{_loss(loss):>16}{one.score.agreement_pct:>10.1f} %"
        )
        lines += text.split("\n")
    return lines


def _verdicts(report: BenchReport) -> list[str]:
    """A sentence a cut: what is usable there, and whether it is less than the picture."""
    terms = report.terms
    loses = ""
    if report.labelled:
        loses = f"loses at most {report.most_loss_points:g} {terms.point} and "
    lines = _wrapped(
        f"The smallest codec that {loses}{terms.agrees.format(report.least_agreement_pct)}, "
        "against the picture:"
    )
    for cut in report.cuts:
        rows = {one.row.codec: one for one in cut.rows}
        text = f"{printable(cut.name)}: none of these does"
        if cut.smallest is not None:
            best = rows[cut.smallest]
            text = f"{printable(cut.name)}: {_coded(best.row)}"
            text += "".join(f"; {side}" for side in _sides(best))
        if cut.smallest_tiles is not None:
            text += f"; of tiles {cut.smallest_tiles}, {_bytes(rows[cut.smallest_tiles].row)}"
        lines += _wrapped(text, "  ")
        if terms.kind == "key points":
            text = "all of them within 0.01: "
            same = None if cut.smallest_same is None else rows[cut.smallest_same].row
            lines += _wrapped(text + ("none of these" if same is None else _coded(same)), "    ")
    anchor = next((row for row in report.anchors if row.codec == report.smallest_anchor), None)
    if anchor is not None:
        lines += _wrapped(f"@picture: {anchor.codec}, {_bytes(anchor)}", "  ")
    return lines


def _coded(row: Row) -> str:
    return (
        f"{row.codec}, {_bytes(row)}, {row.bits_per_element:.2f} bit an element, "
        f"{_three(row.factor)} times smaller than raw"
    )


def _sides(row: ComparedRow) -> list[str]:
    """The row against the picture, one sentence where loss and agreement name the same one."""
    loss, agreement = row.at_equal_loss, row.at_equal_agreement
    if loss is not None and agreement is not None and loss.anchor == agreement.anchor:
        return [_side(loss, "loses no more, agrees no less")]
    found = [(loss, "loses no more"), (agreement, "agrees no less")]
    return [_side(against, what) for against, what in found if against is not None]


def _side(against: Against, what: str) -> str:
    text = f"{against.anchor} {what} and takes {against.payload_bytes:,.0f} bytes, "
    if against.factor >= 1:
        return text + f"{_three(against.factor)} times as many"
    return text + f"{_three(against.factor)} of them: coding the cut loses"


def _bytes(row: Row) -> str:
    return f"{row.payload_bytes.value:,.0f} bytes"


def write_csv(report: BenchReport, out: TextIO) -> None:
    """A line for each cut and codec and for each anchor, all figures flat."""
    rows = []
    for cut in report.cuts:
        for compared in cut.rows:
            found = _flat(msgspec.to_builtins(compared.row))
            for name in ("at_equal_loss", "at_equal_agreement"):
                against = getattr(compared, name)
                if against is not None:
                    found |= _flat({name: msgspec.to_builtins(against)})
            rows.append({"macs_pct": cut.macs_pct} | found)
    rows += [_flat(msgspec.to_builtins(row)) for row in report.anchors]
    fields = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _flat(value: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Structures in structures as `outer_inner`."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            found |= _flat(item, f"{above}{name}_")
        elif isinstance(item, (list, tuple)):
            found[f"{above}{name}"] = " ".join(map(str, item))
        else:
            found[f"{above}{name}"] = item
    return found


def _wrapped(text: str, indent: str = "") -> list[str]:
    # Names of tensors are long: they may be broken anywhere, but never at a hyphen.
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  " if indent else "",
        break_on_hyphens=False,
    )


def _numbers(values: Sequence[int]) -> str:
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least} or {most}"


def _sizes(size: Percentile) -> str:
    low, high = ("-" if end is None else f"{end:,.0f}" for end in (size.low, size.high))
    return f"{low}..{high}"


def _loss(loss: Loss | None) -> str:
    return "" if loss is None else f"{loss.low:+.1f}..{loss.high:+.1f}"


def _three(value: float) -> str:
    """Three digits, and no exponent."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _rate(found: BreakEven) -> str:
    """Mbit/s; a dash where it never pays."""
    if found.rate_bps is None:
        return "-" if found.pays == "never" else "always"
    return f"{'>' if found.pays == 'above' else ''}{_three(found.rate_bps / 1e6)}"
