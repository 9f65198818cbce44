"""MobileNetV1 as in TensorFlow slim, MobileNetV2 as in torchvision."""

from __future__ import annotations

from typing import Final

from splitbed.zoo.network import Network, Value
from splitbed.zoo.parameters import Norm
from splitbed.zoo.resnet import BRANCH_GAIN

V1_SCOPE: Final = "MobilenetV1"
_V1_EPSILON: Final = 1e-3

# Howard et al. 2017, table 1: of each separable convolution the stride and the channels.
_V1_BLOCKS: Final = (
    *((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)),
    *((1, 512), (1, 512), (1, 512), (1, 512), (1, 512), (2, 1024), (1, 1024)),
)
# Sandler et al. 2018, table 2: expansion, channels, repetitions, stride.
_V2_STAGES: Final = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)


def v1(net: Network) -> None:
    """MobileNetV1 1.0 for 224x224 pictures and 1000 classes.

    slim's own checkpoints have 1001 classes, 0 for background: 4,233,001 parameters.
    """
    x = v1_trunk(net, net.input("input", (3, 224, 224)))
    head = f"{V1_SCOPE}/Logits"
    x = net.global_average(x, f"{head}/AvgPool_1a")
    x = net.conv(x, f"{head}/Conv2d_1c_1x1", 1000, 1, bias=True)
    net.output(net.flatten(x, head), "logits")


def v1_trunk(net: Network, x: Value, *, output_stride: int = 32) -> Value:
    """The 27 convolutions before the head; each is followed by a ReLU6.

    Where a stride would take the map below 1/`output_stride` of the input, the convolutions after
    it are dilated instead (as in DeepLab and PoseNet).
    """
    x = _v1_conv(net, x, "Conv2d_0", 32, 3, stride=2)
    reached, dilation = 2, 1
    for number, (stride, channels) in enumerate(_V1_BLOCKS, 1):
        step, spread = (stride, 1) if reached < output_stride else (1, dilation)
        if reached < output_stride:
            reached *= stride
        else:
            dilation *= stride
        name = f"Conv2d_{number}"
        x = _v1_conv(
            net, x, f"{name}_depthwise", x.channels, 3, stride=step, dilation=spread, depthwise=True
        )
        x = _v1_conv(net, x, f"{name}_pointwise", channels, 1)
    return x


def v2(net: Network) -> None:
    """MobileNetV2 1.0 for 224x224 pictures and 1000 classes."""
    x = net.input("input", (3, 224, 224))
    x = _v2_conv(net, x, "features.0", 32, 3, stride=2)
    number = 1
    for expansion, channels, repetitions, stride in _V2_STAGES:
        for index in range(repetitions):
            step = 1 if index else stride
            x = _v2_block(net, x, f"features.{number}", expansion, channels, step)
            number += 1
    x = _v2_conv(net, x, f"features.{number}", 1280, 1)
    x = net.flatten(net.global_average(x, "", function=True))
    net.output(net.linear(x, "classifier.1", 1000), "logits")


def _v1_conv(
    net: Network,
    x: Value,
    name: str,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    depthwise: bool = False,
) -> Value:
    path = f"{V1_SCOPE}/{name}"
    x = net.conv(
        x,
        path,
        channels,
        kernel,
        stride=stride,
        padding="same",
        groups=channels if depthwise else 1,
        dilation=dilation,
        norm=Norm(f"{path}/BatchNorm", _V1_EPSILON),
    )
    return net.relu6(x, path)


def _v2_conv(
    net: Network, x: Value, path: str, channels: int, kernel: int, *, stride: int = 1
) -> Value:
    """A convolution with batch norm and ReLU6; with a 3x3 kernel over equal channels, depthwise."""
    groups = channels if kernel == 3 and x.channels == channels else 1
    x = net.conv(
        x,
        f"{path}.0",
        channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        norm=Norm(f"{path}.1"),
    )
    return net.relu6(x, f"{path}.2")


def _v2_block(
    net: Network, x: Value, path: str, expansion: int, channels: int, stride: int
) -> Value:
    joined = stride == 1 and x.channels == channels
    y, index = x, 0
    if expansion > 1:
        y = _v2_conv(net, y, f"{path}.conv.0", expansion * x.channels, 1)
        index = 1
    y = _v2_conv(net, y, f"{path}.conv.{index}", y.channels, 3, stride=stride)
    norm = Norm(f"{path}.conv.{index + 2}", gain=BRANCH_GAIN if joined else 1.0)
    y = net.conv(y, f"{path}.conv.{index + 1}", channels, 1, norm=norm)
    return net.add(x, y, path) if joined else y
