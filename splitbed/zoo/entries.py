"""What is known of each network: input, outputs, size, and where these figures come from."""

from __future__ import annotations

from typing import Final

import msgspec

from splitbed.tensor import TensorSpec


class ZooEntry(msgspec.Struct, frozen=True):
    """The facts about one network, for a batch of 1."""

    name: str
    about: str
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    parameters: int
    """Trained numbers as `source` counts them."""
    source: str
    """Where the shapes and the count come from, and what does not fit."""
    uncounted: int = 0
    """Scales and shifts of batch norms that `source` leaves out of its count."""


def _spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, "float32", (1, *shape))


def _classifier(
    name: str, about: str, parameters: int, source: str, *, side: int = 224
) -> ZooEntry:
    """A network from RGB pictures to the scores of ImageNet's 1000 classes, before softmax."""
    return ZooEntry(
        name=name,
        about=about,
        input=_spec("input", 3, side, side),
        outputs=(_spec("logits", 1000),),
        parameters=parameters,
        source=source,
    )


def _posenet(name: str, side: int, form: str, source: str) -> ZooEntry:
    return ZooEntry(
        name=name,
        about=f"PoseNet on MobileNetV1 1.0, 17 key points, output stride {form}",
        input=_spec("input", 3, 257, 257),
        outputs=(
            _spec("heatmaps", 17, side, side),
            _spec("offsets", 34, side, side),
            _spec("displacement_fwd", 32, side, side),
            _spec("displacement_bwd", 32, side, side),
        ),
        parameters=3_313_907,
        source=source,
        uncounted=10_944,
    )


_TORCHVISION: Final = "torchvision 0.28, `num_params` of its weights"
_ANCHORS: Final = 9 * (100 * 160 + 50 * 80 + 25 * 40 + 13 * 20 + 7 * 10)
"""Of RetinaNet on 800x1280: nine at each place of P3 to P7."""

_ALL: Final = (
    _classifier(
        "alexnet",
        "AlexNet of 2012, with grouped convolutions and local response normalisation",
        60_965_224,
        "Krizhevsky et al. 2012 (layers; 'about 60 million'); the exact count is that of Caffe's "
        "bvlc_alexnet. pool1 96x27x27, pool2 256x13x13, pool5 256x6x6 (TR 22.874, clause 5.1)",
        side=227,
    ),
    _classifier(
        "alexnet_torchvision",
        "AlexNet of 'One weird trick' (Krizhevsky 2014)",
        61_100_840,
        _TORCHVISION,
    ),
    _classifier("vgg16", "VGG-16, configuration D", 138_357_544, _TORCHVISION),
    _classifier("resnet18", "ResNet-18", 11_689_512, _TORCHVISION),
    _classifier("resnet50", "ResNet-50 v1.5", 25_557_032, _TORCHVISION),
    _classifier("resnet152", "ResNet-152 v1.5", 60_192_808, _TORCHVISION),
    _classifier("resnext50_32x4d", "ResNeXt-50 32x4d", 25_028_904, _TORCHVISION),
    _classifier("resnext101_32x8d", "ResNeXt-101 32x8d", 88_791_336, _TORCHVISION),
    _classifier(
        "mobilenet_v1",
        "MobileNetV1 1.0",
        4_231_976,
        "Howard et al. 2017 (4.2 million); the exact count is that of Keras's trainable parameters "
        "for 1000 classes. slim's checkpoints have 1001 classes and 4,233,001",
    ),
    _classifier("mobilenet_v2", "MobileNetV2 1.0", 3_504_872, _TORCHVISION),
    _classifier(
        "googlenet",
        "GoogLeNet with batch norm, without auxiliary heads; pictures scaled to -1..1",
        6_624_904,
        _TORCHVISION,
    ),
    _classifier(
        "googlenet_2014",
        "GoogLeNet as published, with biases and 5x5 kernels, without auxiliary heads",
        6_998_552,
        "Szegedy et al. 2014, table 1 (layers); the exact count is that of Caffe's bvlc_googlenet "
        "without its auxiliary heads. TR 22.874 states 6.8 million",
    ),
    _classifier(
        "inception_v3",
        "Inception v3 without auxiliary head; pictures scaled to -1..1",
        23_834_568,
        f"{_TORCHVISION}: 27,161,264, less the auxiliary head's 3,326,696",
        side=299,
    ),
    _posenet(
        "posenet_mobilenet_v1_100",
        9,
        "32",
        "TensorFlow Lite's PoseNet (13.3 MB, batch norms merged: 4 bytes for each of these), "
        "S4-240785 table 10.2.4-1. That table's 1,180,147 parameters do not fit its 13.3 MB",
    ),
    _posenet(
        "posenet_mobilenet_v1_100_stride16",
        17,
        "16, by a dilated last block",
        "The frozen graph of SamsungLabs/SA4-AIML, whose split script (S4-240785, clause 10.2.8) "
        "lists 17x17 maps behind the 23rd convolution. The weights are those of stride 32",
    ),
    ZooEntry(
        name="ssd300_resnet50",
        about="NVIDIA's SSD300 on ResNet-50, raw boxes and class scores, 81 classes",
        input=_spec("input", 3, 300, 300),
        outputs=(_spec("loc", 4, 8732), _spec("conf", 81, 8732)),
        parameters=22_894_902,
        source="NVIDIA DeepLearningExamples, PyTorch/Detection/SSD, ssd/model.py (layers; the "
        "exact count is their sum); 23 million in S4-240785 clause 10.3.4, node names in table "
        "10.3.9.2",
    ),
    ZooEntry(
        name="retinanet_resnet50_fpn",
        about="torchvision's first RetinaNet, raw outputs of all levels, 91 classes",
        input=_spec("input", 3, 800, 1280),
        outputs=(
            _spec("cls_logits", _ANCHORS, 91),
            _spec("bbox_regression", _ANCHORS, 4),
        ),
        parameters=34_014_999,
        source=f"{_TORCHVISION}, which does not count the trunk's frozen batch norms. Input and "
        "pyramid: S4-240785, clause 10.3",
        uncounted=53_120,
    ),
)

ENTRIES: Final = {entry.name: entry for entry in _ALL}
