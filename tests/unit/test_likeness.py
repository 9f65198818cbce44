"""Whether an answer is the uncut model's."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.likeness import is_alike

BOX = [2, 0.9, 0.1, 0.1, 0.5, 0.5]
POINT = [0.5, 0.25, 0.8]


@pytest.mark.parametrize(
    ("given", "uncut", "wanted"),
    [
        ({"label": 3, "score": 0.1}, {"label": 3, "score": 0.9}, True),
        ({"label": 3}, {"label": 4}, False),
        ({"boxes": [BOX]}, {"boxes": [BOX]}, True),
        ({"boxes": []}, {"boxes": []}, True),
        ({"boxes": [BOX]}, {"boxes": []}, False),
        ({"boxes": []}, {"boxes": [BOX]}, False),
        ({"boxes": [[1, *BOX[1:]]]}, {"boxes": [BOX]}, False),
        ({"boxes": [[2, 0.2, *BOX[2:]]]}, {"boxes": [BOX]}, True),
        ({"key_points": [[0.509, 0.25, 0.1]]}, {"key_points": [POINT]}, True),
        ({"key_points": [[0.511, 0.25, 0.8]]}, {"key_points": [POINT]}, False),
        ({"key_points": [[0.9, 0.9, 0.8]]}, {"key_points": [[0.5, 0.25, 0.4]]}, True),
        ({"key_points": []}, {"key_points": [POINT]}, False),
        ({"outputs": {}}, {"outputs": {}}, None),
        ({"boxes": "no boxes"}, {"boxes": [BOX]}, False),
        ({"boxes": [[1, 2]]}, {"boxes": [BOX]}, False),
        ({"boxes": [BOX, [1]]}, {"boxes": [BOX]}, False),
        ({"key_points": [["a"]]}, {"key_points": [POINT]}, False),
    ],
)
def test_alike(given: dict[str, Any], uncut: dict[str, Any], wanted: bool | None) -> None:
    assert is_alike(given, uncut) is wanted
