"""Whether a frame's answer is the uncut model's, whatever kind of answer it is."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from experiments.box_metric import shared
from experiments.key_point_metric import WITHIN, distances


def is_alike(given: dict[str, Any], uncut: dict[str, Any]) -> bool | None:
    """Of two answers of a task, as JSON; None where the kind of answer knows no such thing.

    Classes: the same. Boxes: each one that is seen is in the other answer, too. Key points: all
    within 0.01. What came over the network and cannot be read is not alike.
    """
    if "label" in uncut and "label" in given:
        return bool(given["label"] == uncut["label"])
    for name, columns in (("boxes", 6), ("key_points", 3)):
        if name not in uncut or name not in given:
            continue
        try:
            rows = [msgspec.convert(one[name], list[list[float]]) for one in (given, uncut)]
            one, other = (np.array(found, np.float64).reshape(-1, columns) for found in rows)
        except (msgspec.ValidationError, ValueError):
            return False
        if name == "boxes":
            same, seen = shared(one, other)
            return same == seen
        return one.shape == other.shape and bool((distances(one, other) <= WITHIN).all())
    return None
