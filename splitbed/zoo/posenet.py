"""PoseNet: MobileNetV1 1.0 with four 1x1 convolutions on top (S4-240785, clause 10.2)."""

from __future__ import annotations

from typing import Final

from splitbed.zoo.mobilenet import V1_SCOPE, v1_trunk
from splitbed.zoo.network import Network

# 17 key points, 16 edges between them, two coordinates of each.
_HEADS: Final = (
    ("heatmap_2", 17, "heatmaps"),
    ("offset_2", 34, "offsets"),
    ("displacement_fwd_2", 32, "displacement_fwd"),
    ("displacement_bwd_2", 32, "displacement_bwd"),
)


def mobilenet_v1_100(net: Network, *, output_stride: int = 32) -> None:
    """For 257x257 pictures; heatmaps are before the sigmoid, as in TensorFlow Lite's file."""
    x = v1_trunk(net, net.input("input", (3, 257, 257)), output_stride=output_stride)
    for path, channels, output in _HEADS:
        net.output(net.conv(x, f"{V1_SCOPE}/{path}", channels, 1, bias=True), output)
