"""Small models whose answers are boxes, key points, or tensors, with their descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.models import info, model, node, saved, weights

SIDE: Final = 32
"""Height and width of their inputs; they work at a stride of 8."""
CLASSES: Final = 3

_PICTURE: Final = "[task]\nmean = [127.5]\nstd = [127.5]\n"


def detector(folder: Path) -> Path:
    """Two branches, for scores and distances, from one feature map; letterboxed pictures."""
    path = _network(
        folder / "detector.onnx",
        {"scores": (CLASSES, (1, 16, CLASSES)), "distances": (16, (1, 16, 16))},
        logits=True,
    )
    path.with_suffix(".toml").write_text(
        f'{_PICTURE}resize = "letterbox"\noutput = "boxes"\n[task.boxes]\nstrides = [8]\n'
        'bins = 4\nscores = ["scores"]\ndistances = ["distances"]\nlogits = true\n'
    )
    return path


def pose(folder: Path) -> Path:
    """Heat maps and offsets of five key points."""
    path = _network(folder / "pose.onnx", {"heat": (5, (1, 5, 4, 4)), "short": (10, (1, 10, 4, 4))})
    path.with_suffix(".toml").write_text(
        f'{_PICTURE}output = "key_points"\n[task.key_points]\nheat_maps = "heat"\n'
        'offsets = "short"\nstride = 8\n'
    )
    return path


def upscaler(folder: Path) -> Path:
    """Nothing but tensors."""
    path = _network(folder / "upscaler.onnx", {"y": (4, (1, 4, 4, 4))})
    path.with_suffix(".toml").write_text(f'{_PICTURE}output = "raw"\n')
    return path


def _network(
    path: Path, outputs: dict[str, tuple[int, tuple[int, ...]]], logits: bool = False
) -> Path:
    rng = np.random.default_rng(3)
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1"], ["c1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
    ]
    arrays: dict[str, NDArray[np.generic]] = {
        "w0": rng.normal(0, 0.3, (8, 3, 4, 4)).astype(np.float32),
        "w1": rng.normal(0, 0.4, (16, 8, 2, 2)).astype(np.float32),
    }
    for name, (channels, shape) in outputs.items():
        arrays[f"w_{name}"] = rng.normal(0, 0.6, (channels, 16, 1, 1)).astype(np.float32)
        arrays[f"v_{name}"] = rng.normal(0, 0.4, (channels, channels, 1, 1)).astype(np.float32)
        nodes.append(node("Conv", ["r1", f"w_{name}"], [f"a_{name}"], kernel_shape=[1, 1]))
        nodes.append(node("Relu", [f"a_{name}"], [f"b_{name}"]))
        last = f"h_{name}" if logits else name
        nodes.append(node("Conv", [f"b_{name}", f"v_{name}"], [last], kernel_shape=[1, 1]))
        if logits:
            arrays[f"s_{name}"] = np.array([1, channels, 16], np.int64)
            nodes.append(node("Reshape", [last, f"s_{name}"], [f"f_{name}"]))
            nodes.append(node("Transpose", [f"f_{name}"], [name], perm=[0, 2, 1]))
        assert len(shape) > 2
    made = model(
        nodes,
        [info("x", [1, 3, SIDE, SIDE])],
        [info(name, shape) for name, (_, shape) in outputs.items()],
        weights(**arrays),
    )
    return saved(made, path)
