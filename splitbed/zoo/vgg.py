"""VGG-16, configuration D of Simonyan and Zisserman 2014, in torchvision's form."""

from __future__ import annotations

from typing import Final

from splitbed.zoo.alexnet import fully_connected
from splitbed.zoo.network import Network

_STAGES: Final = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions; each stage ends with a pooling."""


def vgg16(net: Network) -> None:
    """The whole network; torchvision's pooling from 7x7 to 7x7 does nothing and is left out."""
    x = net.input("input", (3, 224, 224))
    index = 0
    for channels, depth in _STAGES:
        for _ in range(depth):
            x = net.conv(x, f"features.{index}", channels, 3, padding=1, bias=True)
            x = net.relu(x, f"features.{index + 1}")
            index += 2
        x = net.max_pool(x, f"features.{index}", 2, 2)
        index += 1
    fully_connected(net, x, [f"classifier.{index}" for index in (0, 1, 3, 4, 6)])
