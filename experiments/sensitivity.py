"""Asking a tail how far its answer moves when what crosses is disturbed.

By differences, not by derivatives: any model can be asked, and a disturbance is as large as a
quantiser's error is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from experiments.answer_metric import AnswerMetric, answer_metric
from experiments.pictures import evenly
from splitbed.codec.layout import from_planes, planes_shape, wavefronts
from splitbed.codec.sensitivity import MOST_CHANNELS, Taps, TensorSensitivity, feedback_of
from splitbed.progress import Progress
from splitbed.task import TaskSpec
from splitbed.tensor import Array, TensorSpec

FRAMES: Final = 16
"""That the tail is asked about, at most."""
BUDGET_S: Final = 120.0
"""For one tensor; fewer frames are asked about where the tail is slow, and two at least."""
_MOST_BUDGETS: Final = 5.0
"""That two frames may take: a tail that is slower still is not asked."""
_DISTURBED: Final = 0.3
"""Of the tensor's standard deviation."""

Tail = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Floats = NDArray[np.float64]

FILTERS: Final[tuple[Taps, ...]] = (
    (0.0, 0.0, 0.0, 0.0),
    (0.15, 0.15, 0.0, 0.0),
    (0.3, 0.3, 0.0, 0.0),
    (0.2, 0.2, 0.04, 0.0),
    (0.4, 0.4, 0.16, 0.0),
    (0.6, 0.6, 0.36, 0.0),
    (0.35, 0.25, 0.05, 0.15),
    (0.45, 0.45, 0.0, 0.0),
)
"""What neighbours' errors may ask for: W, N, NW, NE. Of them the one is taken whose noise moves the
answer least; a filter of all channels alike, since each one's own would take as many trials."""
_DRAWS: Final = 2
"""Noises of each frame that filters are tried with."""
_RUNS_BY_PLACE: Final = _DRAWS * len(FILTERS)


def measure_sensitivity(
    tail: Tail,
    spec: TensorSpec,
    boundaries: Sequence[Mapping[str, Array]],
    task: TaskSpec,
    budget_s: float = BUDGET_S,
) -> TensorSensitivity | None:
    """Of one boundary tensor, from what crossed for some frames; None where there is none to have:
    no floating-point numbers, more than MOST_CHANNELS channels, answers that are not finite, or a
    tail for which even two frames take five times the budget.

    Runs the tail a few hundred times, and once for each channel and frame. A tensor that never
    changes is not asked about: no error of it moves anything.
    """
    channels, height, width = planes_shape(spec.shape)
    if not spec.is_float or channels > MOST_CHANNELS or not height or not boundaries:
        return None
    some = [boundaries[i] for i in evenly(len(boundaries), FRAMES)]
    size = float(np.std(np.stack([b[spec.name].astype(np.float64) for b in some]))) * _DISTURBED
    if not size > 0:
        return TensorSensitivity.of(np.zeros((channels, channels)), FILTERS[0])
    about = _answers(tail, some, f"the tail's answers to {spec.name}", channels, budget_s)
    if not about:
        return None
    some = some[: len(about)]
    frames = len(some)
    answers = answer_metric(task, about)
    draw = np.random.default_rng(0)
    gram = np.zeros((channels, channels))
    progress = Progress(f"the tail's answers to {spec.name}", frames * channels)
    for number, (boundary, still) in enumerate(zip(some, about, strict=True)):
        pattern = (draw.choice([-1.0, 1.0], (height, width)) * size).astype(spec.dtype)
        moved = []
        for channel in range(channels):
            field = np.zeros((channels, height, width), spec.dtype)
            field[channel] = pattern
            moved.append(_moved(tail, answers, boundary, still, spec, field) / size)
            progress.update(number * channels + channel + 1)
        found = np.stack(moved)
        gram += found @ found.T
    progress.close()
    gram /= frames * height * width
    if not np.isfinite(gram.astype(np.float32)).all():
        return None
    taps = FILTERS[0]
    if height * width > 1:
        taps = _taps(tail, answers, some, about, spec, gram, size)
    return TensorSensitivity.of(gram, taps)


def _answers(
    tail: Tail, some: Sequence[Mapping[str, Array]], what: str, channels: int, budget_s: float
) -> list[Mapping[str, Array]]:
    """Of frames that nothing disturbed: of as many as can be asked about, two at least or none."""
    progress = Progress(what, len(some))
    before, found = time.monotonic(), []
    for number, boundary in enumerate(some, 1):
        found.append(tail(boundary))
        progress.update(number)
        run_s = (time.monotonic() - before) / number
        frame_s = max(run_s * (channels + _RUNS_BY_PLACE), 1e-9)
        if number == 2 and 2 * frame_s > _MOST_BUDGETS * budget_s:
            found.clear()
        if not found or number >= max(2, budget_s / frame_s):
            break
    progress.close()
    return found


def _moved(
    tail: Tail,
    answers: AnswerMetric,
    boundary: Mapping[str, Array],
    still: Mapping[str, Array],
    spec: TensorSpec,
    field: Array,
) -> Floats:
    disturbed: Any = boundary[spec.name]
    disturbed = disturbed + from_planes(field, spec.shape)
    outputs = tail({**boundary, spec.name: disturbed.astype(spec.dtype)})
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # told by who asked
        return answers.moved(outputs, still)


def _taps(
    tail: Tail,
    answers: AnswerMetric,
    some: Sequence[Mapping[str, Array]],
    about: Sequence[Mapping[str, Array]],
    spec: TensorSpec,
    gram: Floats,
    size: float,
) -> Taps:
    """The filter of FILTERS whose noise moves the answers least: the same noise for all."""
    channels, height, width = planes_shape(spec.shape)
    passed = feedback_of(gram).passed
    back = np.linalg.inv(np.eye(channels) + passed.T)
    moved = dict.fromkeys(FILTERS, 0.0)
    progress = Progress(f"the tail's answers to {spec.name}, by place", len(some))
    for number, (boundary, still) in enumerate(zip(some, about, strict=True)):
        for draw in range(_DRAWS):
            signs = np.random.default_rng((number, draw)).choice(
                [-1.0, 1.0], (height * width, channels)
            )
            rounding = (signs @ back.T).reshape(height, width, channels)
            for taps in FILTERS:
                field = np.moveaxis(_filtered(rounding, taps), 2, 0) * size
                vector = _moved(tail, answers, boundary, still, spec, field.astype(spec.dtype))
                moved[taps] += float(vector @ vector)
        progress.update(number + 1)
    progress.close()
    return min(moved, key=lambda taps: moved[taps])


def _filtered(noise: Floats, taps: Taps) -> Floats:
    """What comes of rounding errors [height, width, channels] when each place hands its own on."""
    height, width, channels = noise.shape
    found = np.zeros((height + 1, width + 2, channels))
    for y, x in wavefronts(height, width):
        beside = (found[y + 1, x], found[y, x + 1], found[y, x], found[y, x + 2])
        handed = sum(tap * error for tap, error in zip(taps, beside, strict=True))
        found[y + 1, x + 1] = noise[y, x] - handed
    return found[1:, 1:-1]
