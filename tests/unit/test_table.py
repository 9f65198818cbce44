"""Figures in a terminal: names are no markup, lines stay within their columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from experiments.commands import codecs
from experiments.summary import Summary, summarise
from experiments.table import print_comparison, print_run
from tests.unit import queues


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    return summarise(queues.run(tmp_path, queues.rows(60, 80), kind="closed", window=4))


def text_of(printer: Any, found: Any, width: int = 80) -> str:
    file = io.StringIO()
    printer(found, Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("cut", ["a[/bold]b", "add[0]", "[red]x", "a\x1b[31mb"])
def test_a_name_is_no_markup(summary: Summary, cut: str) -> None:
    named = msgspec.structs.replace(summary, cut=cut, link=f"file.toml:{cut}")
    shown = cut.replace("\x1b", "\\x1b")
    found = text_of(print_run, named)
    assert f"cut at {shown}, coded" in found
    assert f"over file.toml:{shown} (" in " ".join(found.split())
    assert shown in text_of(print_comparison, [named, summary])


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_fact_that_needs_two_lines_hangs_below_its_first(summary: Summary, width: int) -> None:
    long = msgspec.structs.replace(
        summary, complete=False, outcome="stopped " + "for a reason that takes many words " * 4
    )
    lines = text_of(print_run, long, width).splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("INCOMPLETE"))
    after = lines[first + 1]
    assert after[:17].isspace()
    assert after[17].strip()
    assert all(line == line.rstrip() for line in lines)


def test_frames_in_flight_are_told(summary: Summary) -> None:
    assert "load             4 frames in flight\n" in text_of(print_run, summary)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_codecs_fit_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert codecs.main([]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if "stage, lossy" not in line]
    assert columns // 2 <= max(map(len, lines)) <= min(columns, 100)
    assert "\n    `ans:channel`: a table for each channel" in out
