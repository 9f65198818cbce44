"""GoogLeNet: as published in 2014, and with batch norm as torchvision has it.

Both without auxiliary heads and with torchvision's module names.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from splitbed.zoo.network import Network, Value
from splitbed.zoo.parameters import Norm


class _Inception(NamedTuple):
    """Channels of one module: 1x1; 3x3 and what is before it; 5x5 and before; after the pool."""

    one: int
    before_three: int
    three: int
    before_five: int
    five: int
    pool: int


# Szegedy et al. 2014, table 1; where a number stands, the pooling of this number comes first.
_MODULES: Final[dict[str, _Inception]] = {
    "3a": _Inception(64, 96, 128, 16, 32, 32),
    "3b": _Inception(128, 128, 192, 32, 96, 64),
    "4a": _Inception(192, 96, 208, 16, 48, 64),
    "4b": _Inception(160, 112, 224, 24, 64, 64),
    "4c": _Inception(128, 128, 256, 24, 64, 64),
    "4d": _Inception(112, 144, 288, 32, 64, 64),
    "4e": _Inception(256, 160, 320, 32, 128, 128),
    "5a": _Inception(256, 160, 320, 32, 128, 128),
    "5b": _Inception(384, 192, 384, 48, 128, 128),
}


class _Form(NamedTuple):
    """What tells the two forms apart."""

    batch_norm: bool
    """After every convolution; otherwise biases, and local response normalisation in the stem."""
    large_kernel: int
    """Of the branch that the paper calls 5x5; torchvision's ported weights have 3x3 there."""
    last_pool: int


_PAPER: Final = _Form(batch_norm=False, large_kernel=5, last_pool=3)
_TORCHVISION: Final = _Form(batch_norm=True, large_kernel=3, last_pool=2)


def paper(net: Network) -> None:
    """The network of 2014."""
    _googlenet(net, _PAPER)


def torchvision(net: Network) -> None:
    """The network of torchvision.

    Its trained weights expect pictures scaled to -1..1 (p / 127.5 - 1 for p in 0..255): torchvision
    takes ImageNet's normalisation and converts (`transform_input`), which is left out here.
    """
    _googlenet(net, _TORCHVISION)


def _googlenet(net: Network, form: _Form) -> None:
    x = net.input("input", (3, 224, 224))
    x = _conv(net, x, "conv1", 64, 7, form, stride=2)
    x = _local_norm(net, net.max_pool(x, "maxpool1", 3, 2, ceil=True), "norm1", form)
    x = _conv(net, x, "conv2", 64, 1, form)
    x = _local_norm(net, _conv(net, x, "conv3", 192, 3, form), "norm2", form)
    x = net.max_pool(x, "maxpool2", 3, 2, ceil=True)
    for name, channels in _MODULES.items():
        if name == "4a":
            x = net.max_pool(x, "maxpool3", 3, 2, ceil=True)
        if name == "5a":
            x = net.max_pool(x, "maxpool4", form.last_pool, 2, ceil=True)
        x = _inception(net, x, f"inception{name}", channels, form)
    x = net.flatten(net.global_average(x, "avgpool"))
    net.output(net.linear(x, "fc", 1000), "logits")


def _inception(net: Network, x: Value, path: str, channels: _Inception, form: _Form) -> Value:
    one = _conv(net, x, f"{path}.branch1", channels.one, 1, form)
    three = _conv(net, x, f"{path}.branch2.0", channels.before_three, 1, form)
    three = _conv(net, three, f"{path}.branch2.1", channels.three, 3, form)
    five = _conv(net, x, f"{path}.branch3.0", channels.before_five, 1, form)
    five = _conv(net, five, f"{path}.branch3.1", channels.five, form.large_kernel, form)
    pool = net.max_pool(x, f"{path}.branch4.0", 3, 1, padding=1, ceil=True)
    pool = _conv(net, pool, f"{path}.branch4.1", channels.pool, 1, form)
    return net.concat([one, three, five, pool], path)


def _conv(
    net: Network, x: Value, path: str, channels: int, kernel: int, form: _Form, *, stride: int = 1
) -> Value:
    norm = Norm(f"{path}.bn", 1e-3) if form.batch_norm else None
    x = net.conv(
        x,
        f"{path}.conv",
        channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        bias=not form.batch_norm,
        norm=norm,
    )
    return net.relu(x, path, function=True)


def _local_norm(net: Network, x: Value, path: str, form: _Form) -> Value:
    # Of the paper's network only Caffe's form (bvlc_googlenet) states these figures.
    return x if form.batch_norm else net.local_norm(x, path, alpha=1e-4, bias=1.0)
