"""When a codec keeps a target: what is expected, what is counted, and the one picture aside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.answer_change import Change
from experiments.codec_judge import ClassJudge, OutputJudge, keeps
from experiments.preparation import PreparedModel, prepare_model
from splitbed.codec import Target
from splitbed.tensor import Array

MODEL = Path(__file__).resolve().parents[2] / "models" / "gesture" / "gesture.onnx"
TARGET = Target(1.0, 98.0)


@pytest.mark.parametrize(
    ("change", "changed", "net_lost", "kept"),
    [
        (Change(0.0, 0.0), 0, 0, True),
        (Change(2.0, 1.0), 0, 0, True),
        (Change(2.1, 0.0), 0, 0, False),  # nothing counted, and yet too much is to be expected
        (Change(0.0, 1.1), 0, 0, False),
        (Change(2.0, None), 0, 0, True),
        (Change(1.0, 0.5), 1, 1, True),  # one picture may be a close call
        (Change(1.0, 0.5), 2, 0, False),
        (Change(1.0, 0.5), 1, 2, False),
        (Change(1.0, -0.5), 0, -3, True),
    ],
)
def test_the_rule(change: Change, changed: int, net_lost: int, kept: bool) -> None:
    assert keeps(TARGET, change, changed, 48, net_lost, 48) is kept


def test_more_pictures_may_change_more() -> None:
    assert keeps(TARGET, Change(1.0, 0.5), 4, 200, 2, 200)
    assert not keeps(TARGET, Change(1.0, 0.5), 5, 200, 2, 200)
    assert not keeps(TARGET, Change(1.0, 0.5), 4, 200, 3, 200)


@pytest.fixture(scope="module")
def model() -> PreparedModel:
    return prepare_model(MODEL)


def scores(model: PreparedModel, best: int, by: float) -> dict[str, Array]:
    (spec,) = model.canonical.outputs
    values = np.zeros(spec.shape, np.float32)
    values.reshape(-1)[best] = by
    return {spec.name: values}


def test_classes_are_counted_and_expected(model: PreparedModel) -> None:
    labels = [*range(8), None]
    judge = ClassJudge(model, labels, TARGET)
    for place in range(9):
        judge.anchor(place, scores(model, place, 4.0))
    same = judge.judged((place, scores(model, place, 4.0)) for place in reversed(range(9)))
    assert (same.good, same.changed, same.net_lost, same.labelled) == (True, 0, 0, 8)
    assert same.expected_changed_pct == 0
    # Nothing changes, but every margin falls by three quarters: others would change.
    near = judge.judged((place, scores(model, place, 1.0)) for place in range(9))
    assert (near.good, near.changed, near.net_lost) == (False, 0, 0)
    assert near.expected_changed_pct > 10
    moved = judge.judged(
        (place, scores(model, 9 if place in (3, 8) else place, 4.0)) for place in range(9)
    )
    assert (moved.good, moved.changed, moved.net_lost) == (False, 2, 1)


def test_outputs_are_held_against_their_energy(model: PreparedModel) -> None:
    judge = OutputJudge(model, 2, 0.05)
    for place in range(2):
        judge.anchor(place, scores(model, 0, 2.0))
    found = judge.judged((place, scores(model, 0, 2.0 + 0.5 * place)) for place in range(2))
    assert found.nmse == pytest.approx(0.0625 / 2)
    assert found.good
    assert not judge.judged((place, scores(model, 0, 2.5)) for place in range(2)).good
    judge.close()
