"""The zoo's networks against torchvision's own, with the same weights and the same picture."""

from __future__ import annotations

import io
import warnings
from typing import Any, Final

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from splitbed import zoo
from splitbed.engine import Engine
from splitbed.tensor import Array

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed")
    models: Any = pytest.importorskip(
        "torchvision.models",
        reason="torchvision is not installed: pip install 'splitbed[torchvision]'",
    )

pytestmark = [
    pytest.mark.slow,
    # torchvision and PyTorch's older exporter warn of their own future.
    pytest.mark.filterwarnings("ignore"),
]

CLASSIFIERS: Final = {
    "alexnet_torchvision": "alexnet",
    "vgg16": "vgg16",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "resnet152": "resnet152",
    "resnext50_32x4d": "resnext50_32x4d",
    "resnext101_32x8d": "resnext101_32x8d",
    "mobilenet_v2": "mobilenet_v2",
    "googlenet": "googlenet",
    "inception_v3": "inception_v3",
}
"""Each network of the zoo, and what torchvision calls it."""

WITH_AUXILIARIES: Final = ("googlenet", "inception_v3")
FOLDED_BY_EXPORTER: Final = {"Identity", "Constant"}
LEFT_OUT: Final = "/avgpool/AveragePool"
"""A pooling of 6x6 to 6x6 or 7x7 to 7x7 in AlexNet and VGG-16."""


def classifier(name: str) -> Any:
    # Their own initialisation takes a minute and is overwritten here anyhow.
    options = {"init_weights": False} if name in WITH_AUXILIARIES else {}
    return getattr(models, CLASSIFIERS[name])(weights=None, **options).eval()


def retinanet() -> Any:
    """torchvision's trunk, pyramid and heads, without what resizes pictures and decodes boxes."""

    class Raw(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            whole = models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
            self.backbone, self.head = whole.backbone, whole.head

        def forward(self, pictures: Any) -> list[Any]:
            outputs = self.head(list(self.backbone(pictures).values()))
            return [outputs["cls_logits"], outputs["bbox_regression"]]

    network = Raw().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # As torchvision itself does when it loads this network's trained weights.
            module.eps = 0.0
    return network


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


def load(network: Any, name: str) -> dict[str, Array]:
    """Give the torchvision network invented weights; its whole state, as a checkpoint has it."""
    missing, unexpected = network.load_state_dict(invented(name), strict=False)
    assert not unexpected
    assert all(
        key.endswith("num_batches_tracked") or key.startswith(("aux", "Aux")) for key in missing
    )
    return {key: value.numpy() for key, value in network.state_dict().items()}


def assert_same_outputs(network: Any, name: str, state: dict[str, Array]) -> None:
    shape = zoo.entry(name).input.shape
    picture: NDArray[np.float32] = np.random.default_rng(3).standard_normal(shape, np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(picture))
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


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_gives_what_torchvision_gives(name: str) -> None:
    network = classifier(name)
    assert_same_outputs(network, name, load(network, name))


def test_retinanet_gives_what_torchvision_gives() -> None:
    network = retinanet()
    name = "retinanet_resnet50_fpn"
    assert_same_outputs(network, name, load(network, name))


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "resnext101_32x8d"])
def test_nodes_are_called_and_ordered_as_by_pytorch_s_exporter(name: str) -> None:
    network = classifier(name)
    network.aux_logits = False
    file = io.BytesIO()
    shape = zoo.entry(name).input.shape
    torch.onnx.export(network, torch.zeros(shape), file, dynamo=False, opset_version=17)
    exported = [
        (node.name, node.op_type)
        for node in onnx.load_from_string(file.getvalue()).graph.node
        if node.op_type not in FOLDED_BY_EXPORTER and node.name != LEFT_OUT
    ]
    built = zoo.build(name, weights="hollow").graph.node
    assert [(node.name, node.op_type) for node in built] == exported
