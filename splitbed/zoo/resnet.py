"""ResNet and ResNeXt in torchvision's form: a bottleneck's stride is in its 3x3 convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from splitbed.zoo.network import Network, Value
from splitbed.zoo.parameters import Norm

BRANCH_GAIN: Final = 0.2
"""Random scale of the last batch norm of a residual branch: fifty branches then add up to a few
times the first."""

_PLANES: Final = (64, 128, 256, 512)


class ResNet(NamedTuple):
    """Which of the family: blocks in each of four stages, and their kind."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64


RESNET18: Final = ResNet((2, 2, 2, 2), bottleneck=False)
RESNET50: Final = ResNet((3, 4, 6, 3))
RESNET152: Final = ResNet((3, 8, 36, 3))
RESNEXT50_32X4D: Final = ResNet((3, 4, 6, 3), groups=32, group_width=4)
RESNEXT101_32X8D: Final = ResNet((3, 4, 23, 3), groups=32, group_width=8)


def classifier(net: Network, kind: ResNet) -> None:
    """The whole network for 224x224 ImageNet pictures."""
    x = trunk(net, net.input("input", (3, 224, 224)), kind)[-1]
    x = net.flatten(net.global_average(x, "avgpool"))
    net.output(net.linear(x, "fc", 1000), "logits")


def trunk(
    net: Network,
    x: Value,
    kind: ResNet,
    *,
    strides: tuple[int, ...] = (1, 2, 2, 2),
    path: Callable[[str], str] = str,
    epsilon: float = 1e-5,
) -> list[Value]:
    """Stem and stages; what each stage makes.

    There are as many stages as `strides`, one for each stage's first block. `path` says where the
    caller keeps a module that torchvision's ResNet calls `conv1`, `layer1` and so on.
    """
    norm = Norm(path("bn1"), epsilon)
    x = net.conv(x, path("conv1"), 64, 7, stride=2, padding=3, norm=norm)
    x = net.max_pool(net.relu(x, path("relu")), path("maxpool"), 3, 2, padding=1)
    made = []
    for number, stride in enumerate(strides):
        for index in range(kind.blocks[number]):
            block = f"{path(f'layer{number + 1}')}.{index}"
            x = _block(net, x, block, kind, _PLANES[number], 1 if index else stride, epsilon)
        made.append(x)
    return made


def _block(
    net: Network, x: Value, path: str, kind: ResNet, planes: int, stride: int, epsilon: float
) -> Value:
    width = planes * kind.group_width // 64 * kind.groups
    # Of each convolution: channels, kernel, stride, groups.
    if kind.bottleneck:
        layers = [(width, 1, 1, 1), (width, 3, stride, kind.groups), (4 * planes, 1, 1, 1)]
    else:
        layers = [(planes, 3, stride, 1), (planes, 3, 1, 1)]
    y = x
    for number, (channels, kernel, step, groups) in enumerate(layers, 1):
        last = number == len(layers)
        y = net.conv(
            y,
            f"{path}.conv{number}",
            channels,
            kernel,
            stride=step,
            padding=kernel // 2,
            groups=groups,
            norm=Norm(f"{path}.bn{number}", epsilon, BRANCH_GAIN if last else 1.0),
        )
        if not last:
            y = net.relu(y, f"{path}.relu")
    if stride != 1 or x.channels != y.channels:
        norm = Norm(f"{path}.downsample.1", epsilon)
        x = net.conv(x, f"{path}.downsample.0", y.channels, 1, stride=stride, norm=norm)
    return net.relu(net.add(y, x, path), f"{path}.relu")
