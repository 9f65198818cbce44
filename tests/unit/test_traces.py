"""Traces as a person names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from netem.profiles import find_profile
from netem.traces import find_trace
from splitbed.errors import UsageError
from splitbed.link import Change, Step, Trace

NONE = find_profile("none")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """X.up, X.down, alone.up, a table of both directions, one of the uplink."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "X.up": "1\n",
        "X.down": "1\n1\n",
        "alone.up": "1\n",
        "plain": "1\n",
        "both.csv": "second,up_mbps,down_mbps\n0,1,2\n3\n",
        "up.csv": "second,up_mbps\n0,1\n3\n",
        "up=plain": "1\n1\n1\n",
    }.items():
        Path(name).write_text(text)
    return tmp_path


def rates(text: str) -> tuple[int | None, int | None]:
    """Bit/s of the only step, up and down, in units of one packet a millisecond or 1 Mbit/s."""
    (step,) = find_trace(text, NONE).steps
    return step.up.rate_bps, step.down.rate_bps


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "up", "down"),
    [
        ("plain", None, 12),
        ("up=plain", None, 36),  # a file of that name
        ("down=plain", None, 12),
        ("up=X.up", 12, None),
        ("up=X.up,down=X.down", 12, 24),
        ("down=X.up,up=X.down", 24, 12),
        ("X.up", 12, 24),
        ("./X.down", 12, 24),
        ("alone.up", 12, None),
        ("both.csv", 1, 2),
        ("up=both.csv", 1, None),
        ("up=both.csv,down=plain", 1, 12),
        ("up.csv", 1, None),
    ],
)
def test_written_forms(text: str, up: int | None, down: int | None) -> None:
    assert rates(text) == tuple(None if mbit is None else mbit * 1_000_000 for mbit in (up, down))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere", "cannot read the trace nowhere: No such file"),
        ("up=nowhere", "cannot read the trace nowhere: No such file"),
        ("up=plain,up=plain", "'up' stands there twice"),
        ("down=up.csv", "the trace up.csv says nothing of the downlink"),
        ("", "cannot read the trace"),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_trace(text, NONE)
    assert words in str(caught.value)


def test_names(folder: Path) -> None:
    assert find_trace("X.up", NONE).name == "X"
    assert find_trace("alone.up", NONE).name == "alone.up"
    assert find_trace(str(folder / "both.csv"), NONE).name == "both.csv"
    assert find_trace("up=X.up", NONE).name == "up=X.up"


@pytest.mark.usefixtures("folder")
def test_the_step_of_packet_opportunities() -> None:
    Path("two").write_text("1\n50\n")
    found = find_trace("up=two", NONE, bin_ns=10_000_000)
    assert [step.at_ns for step in found.steps] == [0, 10_000_000]


def test_a_trace_is_its_steps() -> None:
    one = Trace("a", (Step(0, Change(1000)),), 5, "x")
    assert one.digest == Trace("b", (Step(0, Change(1000)),), 5, "y").digest
    assert one.digest != Trace("a", (Step(0, Change(1001)),), 5, "x").digest
