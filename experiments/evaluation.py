"""Accuracy of a cut and a codec on many pictures, without a link.

A frame's answer does not depend on the link, so accuracy need not wait for it: the head, the codec
and the tail are the very ones that the two nodes run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from experiments.cut_runner import CutRunner
from experiments.learned import coded_cut
from experiments.preparation import PreparedCut, PreparedModel
from experiments.quantising import CodedCut
from experiments.statistics import PairedLoss, Share, paired_loss, share
from splitbed.codec import PlannedCodec
from splitbed.engine import Engine
from splitbed.errors import RecordError
from splitbed.progress import Progress
from splitbed.task import read_picture

FILE: Final = "evaluation.json"


class Evaluation(msgspec.Struct, frozen=True):
    """What coding at a cut costs in answers, against the uncut model on the same pictures."""

    pictures: int
    payload_bytes: float
    """Median."""
    accuracy: Share
    anchor_accuracy: Share
    loss: PairedLoss
    agreement: Share


class LabelledPicture(msgspec.Struct, frozen=True):
    """A picture, its class, and what the uncut model says of it."""

    path: Path
    label: int
    answer: dict[str, Any]


def evaluate(
    model: PreparedModel,
    cut: PreparedCut,
    planned: PlannedCodec,
    pictures: Sequence[LabelledPicture],
) -> Evaluation:
    """Run every picture through head, codec and tail in this process.

    `cut` is the plain one: a learned codec is put into its parts here.
    """
    cut = coded_cut(model, cut, planned.codec)
    coded = CodedCut(cut, planned.codecs, Engine)
    runner = CutRunner(model, cut, coded=coded)
    right: list[bool] = []
    anchor: list[bool] = []
    same = 0
    sizes: list[int] = []
    progress = Progress(f"accuracy at {cut.cut.name} {planned.codec}", len(pictures))
    for number, item in enumerate(pictures, 1):
        picture = model.preprocessor.picture(read_picture(item.path))
        payloads = coded.encoded(runner.boundary(picture))
        sizes.append(sum(map(len, payloads)))
        answer = runner.answer(coded.decoded(payloads))
        right.append(answer["label"] == item.label)
        anchor.append(item.answer["label"] == item.label)
        same += answer["label"] == item.answer["label"]
        progress.update(number)
    progress.close()
    count = len(pictures)
    return Evaluation(
        pictures=count,
        payload_bytes=median(sizes),
        accuracy=share(sum(right), count),
        anchor_accuracy=share(sum(anchor), count),
        loss=paired_loss(anchor, right),
        agreement=share(same, count),
    )


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Keep it beside a run's rows."""
    try:
        (folder / FILE).write_bytes(msgspec.json.encode(evaluation))
    except OSError as error:
        raise RecordError(f"cannot write {folder / FILE}: {error.strerror}") from error


def read_evaluation(folder: Path) -> Evaluation | None:
    """What was kept beside a run's rows, None where nothing was."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Evaluation)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise RecordError(f"cannot read {folder / FILE}: {error}") from error
