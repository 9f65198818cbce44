"""RetinaNet (Lin et al. 2017) on ResNet-50 with a feature pyramid, torchvision's first form."""

from __future__ import annotations

from typing import Final

from splitbed.zoo.network import Network, Value
from splitbed.zoo.resnet import RESNET50, trunk

CLASSES: Final = 91
"""COCO's class numbers as they are, with gaps; 0 is background and never trained."""
ANCHORS: Final = 9
"""At each place of each map: three sizes by three aspect ratios."""

_CHANNELS: Final = 256
_PYRAMID: Final = "backbone.fpn"


def retinanet_resnet50_fpn(net: Network) -> None:
    """The network for pictures of 800x1280 up to the raw outputs of all levels.

    The pyramid is complete before the heads begin, and P6 before P7: behind the convolution that
    makes P6, exactly P3 to P6 cross. Outputs are (batch, anchors, classes or coordinates).
    """
    x = net.input("input", (3, 800, 1280))
    # torchvision freezes the batch norm of its trained network, and sets its epsilon to 0.
    stages = trunk(net, x, RESNET50, path=lambda name: f"backbone.body.{name}", epsilon=0.0)
    levels = _pyramid(net, stages[1:])
    for head, last, size, output in (
        ("classification_head", "cls_logits", CLASSES, "cls_logits"),
        ("regression_head", "bbox_reg", 4, "bbox_regression"),
    ):
        results = [_head(net, level, f"head.{head}", last, size) for level in levels]
        net.output(net.concat(results, f"head.{head}"), output)


def _pyramid(net: Network, maps: list[Value]) -> list[Value]:
    """P3 to P7 from C3 to C5."""
    levels: list[Value] = []
    above: Value | None = None
    for index in reversed(range(len(maps))):
        inner = net.conv(maps[index], f"{_PYRAMID}.inner_blocks.{index}.0", _CHANNELS, 1, bias=True)
        if above is not None:
            inner = net.add(inner, net.enlarge(above, _PYRAMID, inner), _PYRAMID)
        above = inner
        levels.insert(0, _three(net, inner, f"{_PYRAMID}.layer_blocks.{index}.0"))
    extra = f"{_PYRAMID}.extra_blocks"
    levels.append(_three(net, levels[-1], f"{extra}.p6", stride=2))
    bent = net.relu(levels[-1], extra, function=True)
    levels.append(_three(net, bent, f"{extra}.p7", stride=2))
    return levels


def _head(net: Network, x: Value, path: str, last: str, size: int) -> Value:
    """One level's outputs; the weights are the same for all levels."""
    for index in range(4):
        x = net.relu(
            _three(net, x, f"{path}.conv.{index}.0"),
            f"{path}.conv.{index}.1",
        )
    x = _three(net, x, f"{path}.{last}", channels=ANCHORS * size)
    height, width = x.shape[2:]
    x = net.reshape(x, path, (ANCHORS, size, height, width))
    x = net.transpose(x, path, (0, 3, 4, 1, 2))
    return net.reshape(x, path, (height * width * ANCHORS, size))


def _three(
    net: Network, x: Value, path: str, *, channels: int = _CHANNELS, stride: int = 1
) -> Value:
    return net.conv(x, path, channels, 3, stride=stride, padding=1, bias=True)
