"""AlexNet: the network of 2012, and the slimmer one that torchvision has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from splitbed.zoo.network import Network, Value


class _Layer(NamedTuple):
    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    local_norm: bool = False
    pool: bool = False


# Krizhevsky et al. 2012, section 3.5. The input is 227x227: with the 224x224 that the paper states,
# its own map sizes do not come out. Normalisation comes before pooling.
_PAPER: Final = (
    _Layer(96, 11, stride=4, local_norm=True, pool=True),
    _Layer(256, 5, padding=2, groups=2, local_norm=True, pool=True),
    _Layer(384, 3, padding=1),
    _Layer(384, 3, padding=1, groups=2),
    _Layer(256, 3, padding=1, groups=2, pool=True),
)
# Krizhevsky 2014, "One weird trick", as torchvision has it.
_TORCHVISION: Final = (
    _Layer(64, 11, stride=4, padding=2, pool=True),
    _Layer(192, 5, padding=2, pool=True),
    _Layer(384, 3, padding=1),
    _Layer(256, 3, padding=1),
    _Layer(256, 3, padding=1, pool=True),
)


def paper(net: Network) -> None:
    """The network of 2012, with Caffe's names (conv1, norm1, pool1, ..., fc8)."""
    x = net.input("input", (3, 227, 227))
    for number, layer in enumerate(_PAPER, 1):
        x = _conv(net, x, f"conv{number}", f"relu{number}", layer)
        if layer.local_norm:
            # The paper's k = 2, n = 5, alpha = 1e-4; its alpha is not divided by n, ONNX's is.
            x = net.local_norm(x, f"norm{number}", alpha=5e-4, bias=2.0)
        if layer.pool:
            x = net.max_pool(x, f"pool{number}", 3, 2)
    fully_connected(net, x, ("fc6", "relu6", "fc7", "relu7", "fc8"))


def torchvision(net: Network) -> None:
    """The network of torchvision; its last pooling, 6x6 to 6x6, does nothing and is left out."""
    x = net.input("input", (3, 224, 224))
    index = 0
    for layer in _TORCHVISION:
        x = _conv(net, x, f"features.{index}", f"features.{index + 1}", layer)
        index += 2
        if layer.pool:
            x = net.max_pool(x, f"features.{index}", 3, 2)
            index += 1
    fully_connected(net, x, [f"classifier.{index}" for index in (1, 2, 4, 5, 6)])


def fully_connected(net: Network, x: Value, paths: Sequence[str]) -> None:
    """The three fully connected layers that AlexNet and VGG end with, ReLUs in between."""
    x = net.flatten(x)
    for linear, relu in (paths[:2], paths[2:4]):
        x = net.relu(net.linear(x, linear, 4096), relu)
    net.output(net.linear(x, paths[4], 1000), "logits")


def _conv(net: Network, x: Value, path: str, relu: str, layer: _Layer) -> Value:
    y = net.conv(
        x,
        path,
        layer.channels,
        layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
        bias=True,
    )
    return net.relu(y, relu)
