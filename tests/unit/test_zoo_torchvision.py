"""The zoo's networks against torchvision's own, with the same weights and the same picture."""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from splitbed import zoo
from splitbed.engine import Engine
from splitbed.task.catalogue import find_task
from splitbed.tensor import Array

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip(
        "torchvision",
        reason="torchvision is not installed: pip install '.[torchvision]'",
    )

pytestmark = [
    pytest.mark.slow,
    # torchvision and PyTorch's older exporter warn of their own future.
    pytest.mark.filterwarnings("ignore"),
]

FOLDED_BY_EXPORTER: Final = {"Identity", "Constant"}
LEFT_OUT: Final = "/avgpool/AveragePool"
"""A pooling of 6x6 to 6x6 or 7x7 to 7x7 in AlexNet and VGG-16."""


def recipe() -> Any:
    """models/torchvision/export.py, which lies in no package."""
    path = Path(__file__).parents[2] / "models" / "torchvision" / "export.py"
    spec = importlib.util.spec_from_file_location("torchvision_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPE: Final = recipe()


def network(name: str) -> Any:
    """The torchvision network; here, what it is fed is what its first layer sees."""
    made = RECIPE.network(name, None)
    made.transform_input = False
    return made


def invented(name: str) -> dict[str, Any]:
    """The zoo's own random numbers for every parameter, batch norms' statistics included.

    torchvision's initial ones would prove little: batch norms that do nothing, and signals that
    die out on their way, so that only the last layer counts.
    """
    model = zoo.build(name, batch_norm="kept", seed=5)
    return {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
    }


def load(made: Any, name: str) -> dict[str, Array]:
    """Give the torchvision network invented weights; its whole state, as a checkpoint has it."""
    missing, unexpected = made.load_state_dict(invented(name), strict=False)
    assert not unexpected
    assert all(
        key.endswith("num_batches_tracked") or key.startswith(("aux", "Aux")) for key in missing
    )
    arrays: dict[str, Array] = RECIPE.arrays(made)
    return arrays


def assert_same_outputs(made: Any, name: str, state: dict[str, Array]) -> None:
    shape = zoo.entry(name).input.shape
    picture: NDArray[np.float32] = np.random.default_rng(3).standard_normal(shape, np.float32)
    with torch.no_grad():
        wanted = made(torch.from_numpy(picture))
    outputs = [wanted] if torch.is_tensor(wanted) else list(wanted)
    model = zoo.build(name, weights=state)
    got = Engine(model.SerializeToString(), provider="cpu", threads=2).run({"input": picture})
    assert len(got) == len(outputs)
    for one, other in zip(got, outputs, strict=True):
        reference = other.numpy().astype(np.float64)
        difference = np.abs(one.astype(np.float64) - reference).max() / np.abs(reference).max()
        print(f"{name}: {difference:.1e} of the largest of {reference.size} values")
        assert one.shape == reference.shape
        assert difference < 1e-4


@pytest.mark.parametrize("name", RECIPE.NETWORKS)
def test_outputs_are_torchvision_s(name: str) -> None:
    made = network(name)
    assert_same_outputs(made, name, load(made, name))


@pytest.mark.parametrize("name", [n for n in RECIPE.NETWORKS if n != RECIPE.DETECTOR])
def test_nodes_are_called_and_ordered_as_by_pytorch_s_exporter(name: str) -> None:
    made = network(name)
    made.aux_logits = False
    file = io.BytesIO()
    shape = zoo.entry(name).input.shape
    torch.onnx.export(made, torch.zeros(shape), file, dynamo=False, opset_version=17)
    exported = [
        (node.name, node.op_type)
        for node in onnx.load_from_string(file.getvalue()).graph.node
        if node.op_type not in FOLDED_BY_EXPORTER and node.name != LEFT_OUT
    ]
    built = zoo.build(name, weights="hollow").graph.node
    assert [(node.name, node.op_type) for node in built] == exported


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v2"])
def test_the_recipe_writes_a_model_and_how_to_feed_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the pixels on: GoogLeNet converts its input in torchvision, and not in the graph."""
    out = tmp_path / "model.onnx"
    RECIPE.main([name, "-o", str(out), "--untrained"])
    assert "differ by" in capsys.readouterr().out
    onnx.checker.check_model(onnx.load(str(out)))
    task = find_task(out)
    assert task.shorter in (232, 256)
    assert task.mean == ((127.5,) if name == "googlenet" else (123.675, 116.28, 103.53))
