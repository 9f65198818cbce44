"""The networks by name, and the one way to build them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal, get_args

import onnx

from splitbed.errors import UsageError
from splitbed.tensor import Array
from splitbed.zoo import (
    alexnet,
    googlenet,
    inception,
    mobilenet,
    posenet,
    resnet,
    retinanet,
    ssd,
    vgg,
)
from splitbed.zoo.entries import ENTRIES, ZooEntry
from splitbed.zoo.naming import Naming, PyTorchNaming, SlimNaming
from splitbed.zoo.network import Network
from splitbed.zoo.weights import HollowWeights, RandomWeights, TrainedWeights, Weights

BatchNorm = Literal["folded", "kept"]
Invented = Literal["random", "hollow"]

_PYTORCH: Final = PyTorchNaming()
_SLIM: Final = SlimNaming()

_BUILDERS: Final[dict[str, tuple[Callable[[Network], None], Naming]]] = {
    "alexnet": (alexnet.paper, _PYTORCH),
    "alexnet_torchvision": (alexnet.torchvision, _PYTORCH),
    "vgg16": (vgg.vgg16, _PYTORCH),
    "resnet18": (partial(resnet.classifier, kind=resnet.RESNET18), _PYTORCH),
    "resnet50": (partial(resnet.classifier, kind=resnet.RESNET50), _PYTORCH),
    "resnet152": (partial(resnet.classifier, kind=resnet.RESNET152), _PYTORCH),
    "resnext50_32x4d": (partial(resnet.classifier, kind=resnet.RESNEXT50_32X4D), _PYTORCH),
    "resnext101_32x8d": (partial(resnet.classifier, kind=resnet.RESNEXT101_32X8D), _PYTORCH),
    "mobilenet_v1": (mobilenet.v1, _SLIM),
    "mobilenet_v2": (mobilenet.v2, _PYTORCH),
    "googlenet": (googlenet.torchvision, _PYTORCH),
    "googlenet_2014": (googlenet.paper, _PYTORCH),
    "inception_v3": (inception.inception_v3, _PYTORCH),
    "posenet_mobilenet_v1_100": (posenet.mobilenet_v1_100, _SLIM),
    "posenet_mobilenet_v1_100_stride16": (
        partial(posenet.mobilenet_v1_100, output_stride=16),
        _SLIM,
    ),
    "ssd300_resnet50": (ssd.ssd300_resnet50, _PYTORCH),
    "retinanet_resnet50_fpn": (retinanet.retinanet_resnet50_fpn, _PYTORCH),
}

NAMES: Final = tuple(_BUILDERS)
"""Every network of the zoo."""


def entry(name: str) -> ZooEntry:
    """The facts about a network; UsageError, with names near it, where there is none."""
    if name not in ENTRIES:
        close = difflib.get_close_matches(name, NAMES, 3)
        hint = f"near it are {', '.join(close)}" if close else f"there are {', '.join(NAMES)}"
        raise UsageError(f"the zoo has no network '{name}': {hint}")
    return ENTRIES[name]


def build(
    name: str,
    *,
    batch: int = 1,
    seed: int = 0,
    batch_norm: BatchNorm = "folded",
    weights: Invented | Mapping[str, Array] = "random",
) -> onnx.ModelProto:
    """A network as an ONNX model with fixed shapes: float32, N x C x H x W, opset 17.

    `batch_norm`: `folded` merges every batch norm into its convolution, which rounds a little;
    `kept` leaves it a node.

    `weights`: `random` draws them from `seed` so that signals neither die out nor blow up; the same
    seed gives the same bytes. `hollow` leaves tensors of more than 4096 elements without data: such
    a model can be listed, cut on paper and counted, not run. A mapping gives trained arrays by the
    framework's own names (torchvision's `state_dict`, or slim's variables in ONNX's axis order);
    auxiliary heads and `num_batches_tracked` in it are passed over. Initialisers carry the same
    names; a folded convolution has a bias besides.

    Raises UsageError for an unknown name, a wrong choice, and for arrays that are missing,
    misshapen or too many.
    """
    facts = entry(name)
    if batch < 1:
        raise UsageError(f"a batch of {batch} cannot be built: give 1 or more")
    if batch_norm not in get_args(BatchNorm):
        raise UsageError(f"batch norm can be folded or kept, not '{batch_norm}'")
    metadata = {"zoo": facts.name, "batch_norm": batch_norm}
    source: Weights
    if isinstance(weights, Mapping):
        source = TrainedWeights(weights)
        metadata["weights"] = "trained"
    elif weights in get_args(Invented):
        source = RandomWeights(seed) if weights == "random" else HollowWeights(seed)
        metadata |= {"weights": weights, "seed": str(seed)}
    else:
        raise UsageError(f"weights can be random, hollow or a mapping of arrays, not '{weights}'")
    builder, naming = _BUILDERS[name]
    network = Network(source, naming, batch=batch, fold=batch_norm == "folded")
    builder(network)
    return network.finish(name, metadata)
