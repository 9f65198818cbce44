"""SSD300 with a ResNet-50 trunk, as NVIDIA's DeepLearningExamples has it (S4-240785, 10.3.9.2)."""

from __future__ import annotations

from typing import Final

from splitbed.zoo.network import Network, Value
from splitbed.zoo.parameters import Norm
from splitbed.zoo.resnet import RESNET50, trunk

CLASSES: Final = 81
"""80 of COCO, and 0 for background."""

_TRUNK: Final = "feature_extractor.feature_extractor"
# The trunk is an nn.Sequential of torchvision's children, so its modules have numbers for names.
_NUMBERS: Final = {
    name: index
    for index, name in enumerate(("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"))
}
# Of each further block: channels inside, channels it makes, whether it halves the map.
_BLOCKS: Final = (
    (256, 512, True),
    (256, 512, True),
    (128, 256, True),
    (128, 256, False),
    (128, 256, False),
)
_BOXES: Final = (4, 6, 6, 6, 4, 4)
"""Default boxes at each place of the six maps: 38, 19, 10, 5, 3 and 1 wide; 8732 altogether."""


def ssd300_resnet50(net: Network) -> None:
    """The network for 300x300 pictures up to the raw outputs, before boxes are decoded.

    The trunk ends with layer3, whose first block keeps its stride of 1, so that the map stays at
    38x38. With batch norms folded, `split_node_N` of table 10.3.9.2 is node N, counted from 0, and
    the table's sizes are those of the cut before that node.
    """
    x = net.input("input", (3, 300, 300))
    x = trunk(
        net,
        x,
        RESNET50,
        strides=(1, 2, 1),
        path=lambda name: f"{_TRUNK}.{_NUMBERS[name]}",
    )[-1]
    maps = [x]
    for index, (inside, made, halves) in enumerate(_BLOCKS):
        x = _block(net, x, f"additional_blocks.{index}", inside, made, halves)
        maps.append(x)
    places: list[Value] = []
    classes: list[Value] = []
    for index, (x, boxes) in enumerate(zip(maps, _BOXES, strict=True)):
        for head, size, results in (("loc", 4, places), ("conf", CLASSES, classes)):
            y = net.conv(x, f"{head}.{index}", boxes * size, 3, padding=1, bias=True)
            results.append(net.reshape(y, "", (size, -1)))
    net.output(net.concat(places, "", axis=2), "loc")
    net.output(net.concat(classes, "", axis=2), "conf")


def _block(net: Network, x: Value, path: str, inside: int, made: int, halves: bool) -> Value:
    x = net.conv(x, f"{path}.0", inside, 1, norm=Norm(f"{path}.1"))
    x = net.relu(x, f"{path}.2")
    x = net.conv(
        x,
        f"{path}.3",
        made,
        3,
        stride=2 if halves else 1,
        padding=1 if halves else 0,
        norm=Norm(f"{path}.4"),
    )
    return net.relu(x, f"{path}.5")
