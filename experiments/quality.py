"""How good the answers of a run's frames are: accuracy, agreement, difference of outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from experiments.likeness import is_alike
from experiments.statistics import paired_loss, share
from splitbed.record import FrameRecord, RunManifest


def quality(rows: Sequence[FrameRecord], manifest: RunManifest) -> dict[str, Any]:
    """The figures of a Summary that need answers; None where there is nothing to compare with."""
    reference = manifest.reference or {}
    answers: dict[str, Any] = reference.get("answers", {})
    labels: dict[str, int] = reference.get("labels", {})
    # A picture that was measured several times counts once: its answer is always the same.
    by_picture = {row.source: row.result for row in rows if row.result is not None}
    found: dict[str, Any] = dict.fromkeys(
        (
            *("accuracy", "anchor_accuracy", "loss", "agreement"),
            *("max_difference", "rms_difference_pct"),
        )
    )
    classified = {p: r["label"] for p, r in by_picture.items() if "label" in r}
    compared = {p: answers[p]["label"] for p in classified if "label" in answers.get(p, {})}
    alike = [is_alike(r, answers[p]) for p, r in by_picture.items() if p in answers]
    told = [same for same in alike if same is not None]
    if told:
        found["agreement"] = share(sum(told), len(told))
    labelled = [p for p in classified if p in labels]
    if labelled:
        right = [classified[p] == labels[p] for p in labelled]
        found["accuracy"] = share(sum(right), len(right))
        if all(p in compared for p in labelled):
            anchor = [compared[p] == labels[p] for p in labelled]
            found["anchor_accuracy"] = share(sum(anchor), len(anchor))
            found["loss"] = paired_loss(anchor, right)
    compared_outputs = [r["agreement"] for r in by_picture.values() if "agreement" in r]
    for name, key in (("max_difference", "max_abs"), ("rms_difference_pct", "nmse")):
        values = [item[key] for item in compared_outputs]
        if values:
            found[name] = math.inf if None in values else max(values)
    if found["rms_difference_pct"] is not None:
        found["rms_difference_pct"] = 100 * math.sqrt(found["rms_difference_pct"])
    return found
