"""Held-out accuracy of the gesture model, with NumPy and ONNX Runtime only.

python models/gesture/evaluate.py [--count N]
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    share, square = right / count, z * z / count
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / count + square / count / 4) / (1 + square)
    return middle - half, middle + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE / "gesture.onnx")
    parser.add_argument("--count", type=int, default=0, help="pictures to use (default: all)")
    args = parser.parse_args()
    sys.path.insert(0, str(HERE.parents[1]))

    import onnxruntime

    from experiments import gestures

    count = args.count or gestures.HELD_OUT_COUNT
    session = onnxruntime.InferenceSession(str(args.model), providers=["CPUExecutionProvider"])
    classes = len(gestures.CLASSES)
    table = np.zeros((classes, classes), np.int64)
    for index in range(count):
        picture, label = gestures.draw(gestures.HELD_OUT_SEED, index)
        tensor = ((picture.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
        (logits,) = session.run(["logits"], {"input": np.ascontiguousarray(tensor)})
        table[label, int(np.argmax(logits))] += 1

    print("class     pictures  recall  precision  most often taken for")
    for k, name in enumerate(gestures.CLASSES):
        shown, guessed = int(table[k].sum()), int(table[:, k].sum())
        wrong = table[k].copy()
        wrong[k] = 0
        other = int(np.argmax(wrong))
        mixed = f"{gestures.CLASSES[other]} ({wrong[other]})" if wrong[other] else "-"
        recall, precision = table[k, k] / max(shown, 1), table[k, k] / max(guessed, 1)
        print(f"{name:<9} {shown:8}  {recall:6.3f}  {precision:9.3f}  {mixed}")
    right = int(np.trace(table))
    low, high = wilson(right, count)
    print(
        f"held-out accuracy {right / count:.4f} ({right} of {count}), "
        f"95 % interval {low:.4f} to {high:.4f}"
    )


if __name__ == "__main__":
    main()
