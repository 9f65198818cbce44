"""The description of a task, as it stands in TOML beside a model or in the catalogue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from splitbed.errors import TaskError
from splitbed.task.boxes import COLUMNS as BOX_COLUMNS
from splitbed.task.boxes import BoxesSpec
from splitbed.task.key_points import COLUMNS as POINT_COLUMNS
from splitbed.task.key_points import KeyPointsSpec
from splitbed.tensor import TensorSpec, canonical_json

PICTURE_CUT: Final = "@picture"
"""The boundary before normalisation: the picture at the model's size, uint8 RGB."""

RESULT_CUT: Final = "@result"
"""The boundary after the task's label rule: what the network needs of a finished inference."""

Side = Annotated[int, Meta(ge=1, le=16384)]


class TaskSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a picture becomes the model's input, and the model's output an answer.

    Values of `mean` and `std` are on the scale of the pixels, 0..255: input = (p - mean) / std.
    """

    input: str = ""
    """The graph input that takes the picture; "" for a model with one input."""
    size: tuple[Side, Side] | None = None
    """Height and width of the input; taken from the model where it states them."""
    resize: Literal["squash", "shorter", "letterbox"] = "squash"
    """`squash`: the whole picture to `size`; `shorter`: the shorter side to `shorter`, then the
    centre; `letterbox`: the whole picture within `size`, its shape kept, the rest `fill`."""
    shorter: Side | None = None
    """For `shorter`: length of the shorter side before cropping; the size's shorter side if left
    out."""
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    fill: Annotated[int, Meta(ge=0, le=255)] = 0
    """Grey value around a letterboxed picture."""
    colour: Literal["RGB", "BGR", "Y"] = "RGB"
    """Channel order; `Y` is the luma of ITU-R BT.601, one channel."""
    mean: tuple[float, ...] = (0.0,)
    """One value, or one for each channel in the order of `colour`."""
    std: tuple[float, ...] = (1.0,)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    output: Literal["argmax", "boxes", "key_points", "raw"] = "argmax"
    """`argmax`: the answer is a class; `boxes`, `key_points`: what the table of that name makes of
    the output tensors; `raw`: the answer is the output tensors themselves."""
    scores: str = ""
    """For `argmax`: the graph output that holds the scores; "" for a model with one output."""
    label_offset: int = 0
    """Index of class 0 among the scores (1 where index 0 means background)."""
    top: Annotated[int, Meta(ge=1, le=100)] = 5
    """How many classes an answer lists, best first."""
    boxes: BoxesSpec | None = None
    """For `boxes`, and only there."""
    key_points: KeyPointsSpec | None = None
    """For `key_points`, and only there."""

    def __post_init__(self) -> None:
        for kind, table in (("boxes", self.boxes), ("key_points", self.key_points)):
            if (self.output == kind) != (table is not None):
                raise TaskError(
                    f'task: output = "{kind}" and a table [task.{kind}] belong together: give '
                    "both or neither"
                )
        channels = 1 if self.colour == "Y" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise TaskError(
                    f"task: {name} has {len(values)} values where {self.colour} has {channels}"
                )
            if not all(map(math.isfinite, values)):
                raise TaskError(f"task: {name} must be finite")
        if 0.0 in self.std:
            raise TaskError("task: std must not be zero")

    def fitted(self, inputs: Sequence[TensorSpec]) -> TaskSpec:
        """This task with `input` and `size` filled in from the model's inputs.

        Raises TaskError where the description and the model contradict each other.
        """
        names = [spec.name for spec in inputs]
        name = self.input or (names[0] if len(names) == 1 else "")
        if name not in names:
            raise TaskError(
                f"task: input '{name}' is none of the model's inputs ({', '.join(names)}); name "
                "the one that takes the picture with input = "
            )
        others = [other for other in names if other != name]
        if others:
            raise TaskError(
                f"task: the model also needs {', '.join(others)}, which no picture gives: export "
                "it with constants in their place"
            )
        shape = inputs[names.index(name)].shape
        channels = 1 if self.colour == "Y" else 3
        axes = (1, 2, 3) if self.layout == "NCHW" else (3, 1, 2)
        if len(shape) != 4 or shape[0] != 1 or shape[axes[0]] != channels:
            raise TaskError(
                f"task: a {self.layout} picture with {channels} channels does not fit input "
                f"'{name}' of shape {'x'.join(map(str, shape))}"
            )
        size = (shape[axes[1]], shape[axes[2]])
        if self.size is not None and self.size != size:
            raise TaskError(f"task: size {self.size} where the model's input has {size}")
        return msgspec.structs.replace(self, input=name, size=size)


def shapes_to_bind(
    task: TaskSpec | None, given: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Input shapes to bind: those given, else the one that follows from the task's size.

    The name "" stands for the only input of a model (`splitbed.graph.canonicalise`).
    """
    if given or task is None or task.size is None:
        return dict(given)
    channels = 1 if task.colour == "Y" else 3
    shape = (channels, *task.size) if task.layout == "NCHW" else (*task.size, channels)
    return {task.input: (1, *shape)}


def picture_spec(task: TaskSpec) -> TensorSpec:
    """The `@picture` boundary of a fitted task: height x width x 3, uint8, RGB."""
    if task.size is None:
        raise TaskError("task: size is not known; give size = [height, width]")
    return TensorSpec(PICTURE_CUT, "uint8", (*task.size, 3))


def result_boundary(task: TaskSpec, outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The `@result` boundary: the `top` labels as int32; for `raw`, the outputs themselves.

    For `boxes`, float32 rows of class, score, left, top, right, bottom, as many as an answer may
    have; for `key_points`, of x, y, score, one for each key point.
    """
    if task.output == "raw":
        return tuple(outputs)
    if task.boxes is not None:
        return (TensorSpec(RESULT_CUT, "float32", (task.boxes.most, BOX_COLUMNS)),)
    if task.key_points is not None:
        shapes = {output.name: output.shape for output in outputs}
        count = shapes.get(task.key_points.heat_maps, (0, 0, 0))[-3]
        return (TensorSpec(RESULT_CUT, "float32", (count, POINT_COLUMNS)),)
    return (TensorSpec(RESULT_CUT, "int32", (task.top,)),)


def task_json(task: TaskSpec) -> str:
    """Canonical JSON, as it travels in a SessionSpec."""
    return canonical_json(task).decode()


def task_from_json(text: str) -> TaskSpec:
    """A task that came over the wire; TaskError for anything else."""
    try:
        return msgspec.json.decode(text, type=TaskSpec)
    except msgspec.MsgspecError as error:
        raise TaskError(f"the task description cannot be read: {error}") from error
