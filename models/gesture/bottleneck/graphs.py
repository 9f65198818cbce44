"""Write the trained pair as two ONNX files, node by node, and check the result.

Batch norm is folded into the convolutions, as in the embedded model's own export.  The encoder
reads the boundary by its name and makes `code`; the decoder reads `code` and makes the boundary.
All other names begin with `encoder.` or `decoder.`, so none of the network's is used twice.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from export import IR_VERSION, OPSET, Graph  # noqa: E402  (the paths above must come first)
from pair import BOUNDARY, CODE, Decoder, Encoder  # noqa: E402

CODE_NAME = "code"
PARTS = ("encoder", "decoder")


def encoder_graph(encoder: Encoder, boundary: str) -> Any:
    """The ONNX model of a trained encoder."""
    from onnx import numpy_helper

    graph = _graph(encoder, "encoder")
    x = _relu(graph, _layer(graph, boundary, "encoder.mix"))
    x = _relu(graph, _layer(graph, x, "encoder.halve", stride=2))
    x = _layer(graph, x, "encoder.narrow")
    for name, value in (("encoder.low", 0.0), ("encoder.high", 1.0)):
        graph.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
    graph.add("Clip", [x, "encoder.low", "encoder.high"], CODE_NAME)
    return _model(graph, "encoder", (boundary, BOUNDARY), (CODE_NAME, CODE))


def decoder_graph(decoder: Decoder, boundary: str) -> Any:
    """The ONNX model of a trained decoder."""
    graph = _graph(decoder, "decoder")
    x = _relu(graph, _layer(graph, CODE_NAME, "decoder.widen"))
    y = _relu(graph, _layer(graph, x, "decoder.refine"))
    x = graph.add("Add", [x, y], "decoder.add")
    x = _layer(graph, x, "decoder.spread")
    x = graph.add("DepthToSpace", [x], "decoder.space", blocksize=2, mode="CRD")
    graph.add("Relu", [x], boundary)
    return _model(graph, "decoder", (CODE_NAME, CODE), (boundary, BOUNDARY))


def write_pair(
    encoder: Encoder, decoder: Decoder, folder: Path, boundary: str, examples: NDArray[np.float16]
) -> None:
    """Write both files; SystemExit where they differ from PyTorch on the examples (Nx32x16x16)."""
    import onnx
    import onnxruntime

    models = (encoder_graph(encoder, boundary), decoder_graph(decoder, boundary))
    for part, model in zip(PARTS, models, strict=True):
        onnx.save(model, str(folder / f"{part}.onnx"))
    encode, decode = (
        onnxruntime.InferenceSession(
            str(folder / f"{part}.onnx"), providers=["CPUExecutionProvider"]
        )
        for part in PARTS
    )
    worst = 0.0
    for example in examples.astype(np.float32)[:, None]:
        (code,) = encode.run([CODE_NAME], {boundary: example})
        (decoded,) = decode.run([boundary], {CODE_NAME: code})
        with torch.inference_mode():
            expected = encoder(torch.from_numpy(example))
            back = decoder(torch.from_numpy(code))
        worst = max(
            worst,
            float(np.abs(code - expected.numpy()).max()),
            float(np.abs(decoded - back.numpy()).max()),
        )
    print(f"largest difference between ONNX Runtime and PyTorch on {len(examples)}: {worst:.2e}")
    if not worst < 1e-4:
        raise SystemExit("the exported pair disagrees with the trained one")


def _graph(module: nn.Module, prefix: str) -> Graph:
    state = {
        f"{prefix}.{key}": value.detach().cpu().numpy()
        for key, value in module.state_dict().items()
    }
    return Graph(state)


def _layer(graph: Graph, source: str, name: str, stride: int = 1) -> str:
    return graph.conv(source, name, f"{name}.conv", f"{name}.norm", stride)


def _relu(graph: Graph, source: str) -> str:
    return graph.add("Relu", [source], f"{source}.relu")


def _model(
    graph: Graph,
    name: str,
    reads: tuple[str, tuple[int, ...]],
    makes: tuple[str, tuple[int, ...]],
) -> Any:
    from onnx import TensorProto, checker, helper, shape_inference

    source, target = (
        helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1, *shape])
        for tensor, shape in (reads, makes)
    )
    proto = helper.make_graph(graph.nodes, name, [source], [target], graph.weights)
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="splitbed models/gesture/bottleneck/train.py",
    )
    checker.check_model(model, full_check=True)
    return shape_inference.infer_shapes(model, strict_mode=True)
