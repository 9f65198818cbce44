"""Write a trained gesture network as ONNX, node by node, and check the result.

    python models/gesture/export.py --state STATE.pt --out models/gesture/gesture.onnx

The graph is built by hand rather than traced, so that names stay the same from one training to
the next: a tensor at a stage boundary is called like its stage.  Batch norm is folded into the
convolutions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from experiments import gestures  # noqa: E402  (the two paths above must come first)

OPSET = 17
IR_VERSION = 8
STAGES = ("stem", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "logits")

State = dict[str, NDArray[np.float32]]


class Graph:
    """Collects the nodes and weights of the network in order."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node that carries the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def weight(self, name: str, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        array = np.ascontiguousarray(values, np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, source: str, output: str, weight: str, norm: str, stride: int) -> str:
        """A convolution with the batch norm that follows it folded in."""
        kernel = self.state[f"{weight}.weight"].astype(np.float64)
        variance = self.state[f"{norm}.running_var"].astype(np.float64)
        factor = self.state[f"{norm}.weight"] / np.sqrt(variance + 1e-5)
        bias = self.state[f"{norm}.bias"] - self.state[f"{norm}.running_mean"] * factor
        side = kernel.shape[2]
        inputs = [
            source,
            self.weight(f"{output}.weight", kernel * factor[:, None, None, None]),
            self.weight(f"{output}.bias", bias),
        ]
        return self.add(
            "Conv",
            inputs,
            output,
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[side // 2] * 4,
        )

    def block(self, source: str, name: str, output: str) -> str:
        """A basic residual block."""
        halves = name.endswith(".0") and not name.startswith("layer1")
        stride = 2 if halves else 1
        y = self.conv(source, f"{name}.conv1", f"{name}.conv1", f"{name}.bn1", stride)
        y = self.add("Relu", [y], f"{name}.relu1")
        y = self.conv(y, f"{name}.conv2", f"{name}.conv2", f"{name}.bn2", 1)
        short = source
        if f"{name}.down.0.weight" in self.state:
            short = self.conv(source, f"{name}.down", f"{name}.down.0", f"{name}.down.1", stride)
        y = self.add("Add", [y, short], f"{name}.add")
        return self.add("Relu", [y], output)


def build(state: State, notes: dict[str, str]) -> Any:
    """The ONNX model of a state dict; ``notes`` becomes its metadata."""
    from onnx import TensorProto, checker, helper, shape_inference

    graph = Graph(state)
    x = graph.conv("input", "stem.conv", "stem", "stem_bn", 2)
    x = graph.add("Relu", [x], "stem")
    x = graph.add("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        count = sum(key.startswith(f"{layer}.") and key.endswith(".conv1.weight") for key in state)
        for i in range(count):
            name = f"{layer}.{i}"
            x = graph.block(x, name, layer if i == count - 1 else name)
    x = graph.add("GlobalAveragePool", [x], "avgpool")
    x = graph.add("Flatten", [x], "flatten", axis=1)
    weights = [graph.weight(f"fc.{part}", state[f"fc.{part}"]) for part in ("weight", "bias")]
    graph.add("Gemm", [x, *weights], "logits", transB=1)

    size = [1, 3, gestures.SIZE, gestures.SIZE]
    proto = helper.make_graph(
        graph.nodes,
        "gesture",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(gestures.CLASSES)])],
        graph.weights,
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="splitbed models/gesture/export.py",
    )
    helper.set_model_props(model, notes)
    checker.check_model(model, full_check=True)
    return shape_inference.infer_shapes(model, strict_mode=True)


def notes(seed: int, train_count: int) -> dict[str, str]:
    """What the model file says about its own origin."""
    return {
        "training_data": "synthetic pictures rendered by experiments/gestures.py; no photographs",
        "generator_version": str(gestures.GENERATOR_VERSION),
        "train_seed": str(gestures.TRAIN_SEED),
        "train_count": str(train_count),
        "held_out_seed": str(gestures.HELD_OUT_SEED),
        "training_run_seed": str(seed),
        "preprocessing": "RGB, (p - 127.5) / 127.5, NCHW",
        "classes": ",".join(gestures.CLASSES),
        "licence": "BSD-3-Clause",
    }


def export(model: Any, out: Path, facts: dict[str, str], pictures: NDArray[np.uint8]) -> float:
    """Write ``model`` and compare it with PyTorch on ``pictures`` (uint8 Nx128x128x3).

    Returns the largest absolute difference of the logits.
    """
    import onnx
    import onnxruntime
    import torch

    state = {key: value.detach().cpu().numpy() for key, value in model.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(build(state, facts), str(out))
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    worst = 0.0
    for picture in pictures:
        tensor = np.ascontiguousarray(
            ((picture.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
        )
        with torch.inference_mode():
            expected = model(torch.from_numpy(tensor)).numpy()
        (got,) = session.run(["logits"], {"input": tensor})
        worst = max(worst, float(np.abs(got - expected).max()))
    print(f"largest difference between ONNX Runtime and PyTorch on {len(pictures)}: {worst:.2e}")
    if not worst < 1e-4:
        raise SystemExit("the exported model disagrees with the trained one")
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="file that train.py saved")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    args = parser.parse_args()

    import torch
    from network import GestureNet

    saved = torch.load(args.state, weights_only=True)
    model = GestureNet().eval()
    model.load_state_dict(saved["state"])
    pictures = np.stack([gestures.draw(gestures.HELD_OUT_SEED, i)[0] for i in range(40)])
    export(model, args.out, notes(saved["seed"], saved["train_count"]), pictures)


if __name__ == "__main__":
    main()
