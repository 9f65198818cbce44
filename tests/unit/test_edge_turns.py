"""What a run says of the turns of tails on the edge that it starts, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.commands import run
from experiments.run_facts import turns_text
from experiments.table import facts
from experiments.verdict import decide_by_link
from splitbed.errors import UsageError
from tests.unit.test_summary import MANIFEST, THREE, summed

RUN = ("gesture", "--cut", "layer3")
TOLD = {"tails": 2, "batch": 1, "batch_wait_ms": 2.0}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--edge", "a:1", "--tails", "2"),
            r"^--tails 2 is for an edge .* \(`python -m edge_node --tails`\)$",
        ),
        (("--edge", "a:1", "--batch", "1"), "^--batch 1 is for an edge that is started here"),
        (("--edge", "a:1", "--batch-wait-ms", "0.5"), "^--batch-wait-ms 0.5 is for an edge"),
        (("--batch-wait-ms", "5"), "^--batch-wait-ms 5 is how long .* tails run one by one: say"),
        (("--batch-wait-ms", "5", "--batch", "1"), "^--batch-wait-ms 5 is how long"),
        (("--batch", "0"), "^--batch 0: "),
        (("--batch", "65"), "^--batch 65: "),
        (("--tails", "257"), "^--tails 257: "),
    ],
)
def test_a_mistake_is_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run.main([*RUN, *arguments])


def test_every_flag_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--tails TAILS tails that run at once, 0: as many as cores allow" in told
    assert "--batch BATCH frames of equal tails in one run, at most" in told
    assert "--batch-wait-ms MS how long a batch waits to be full" in told


@pytest.mark.parametrize(
    ("asked", "told", "text"),
    [
        ({}, {}, ""),  # an older run
        ({"tails": None, "batch": None, "batch_wait_ms": None}, TOLD, ""),
        ({"tails": 0, "batch": 1}, TOLD, ""),
        ({"tails": 1}, TOLD, "1 tail at once"),
        ({"batch": 8}, TOLD, "up to 8 in a batch within 2 ms"),
        (
            {"tails": 3, "batch": 8, "batch_wait_ms": 0.5},
            TOLD,
            "3 tails at once, up to 8 in a batch within 0.5 ms",
        ),
        ({"edge": "a:1"}, {}, ""),  # an edge that told nothing of it
        ({"edge": "a:1"}, {"tails": 2, "batch": 4}, "2 tails at once, up to 4 in a batch"),
        (
            {"edge": "a:1"},
            {"tails": 2, "batch": 4, "batch_wait_ms": 7},
            "2 tails at once, up to 4 in a batch within 7 ms",
        ),
    ],
)
def test_turns_in_words(asked: dict[str, Any], told: dict[str, Any], text: str) -> None:
    assert turns_text(asked, told) == text


def test_runs_with_other_turns_are_not_compared(tmp_path: Path) -> None:
    older = MANIFEST.config
    assert "batch" not in older
    configs = (
        older,
        older | {"tails": None, "batch": None, "batch_wait_ms": None},
        older | {"batch": 8},
        older | {"batch": 8, "batch_wait_ms": 2.0},
        older | {"batch": 8, "batch_wait_ms": 9.0},
        older | {"tails": 1},
    )
    runs = [summed(tmp_path / str(n), THREE, config=c) for n, c in enumerate(configs)]
    assert runs[0].setting == runs[1].setting
    assert runs[2].setting == runs[3].setting
    assert len({found.setting for found in runs}) == 4
    assert len(decide_by_link(runs)) == 4
    assert "edge turns" not in dict(facts(runs[0]))
    assert dict(facts(runs[2]))["edge turns"] == "up to 8 in a batch within 2 ms"
