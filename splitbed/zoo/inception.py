"""Inception v3 (Szegedy et al. 2015) in torchvision's form, without the auxiliary head."""

from __future__ import annotations

from typing import Final, NamedTuple

from splitbed.zoo.network import Network, Value
from splitbed.zoo.parameters import Norm
from splitbed.zoo.window import Size


class _Conv(NamedTuple):
    """A convolution inside a module."""

    name: str
    channels: int
    kernel: Size = 1
    padding: Size = 0
    stride: int = 1


_Branch = tuple[_Conv, ...]


def inception_v3(net: Network) -> None:
    """The whole network for 299x299 pictures.

    As with GoogLeNet, the trained weights expect pictures scaled to -1..1, torchvision's own
    `transform_input` being left out.
    """
    x = net.input("input", (3, 299, 299))
    x = _conv(net, x, "", _Conv("Conv2d_1a_3x3", 32, 3, stride=2))
    x = _conv(net, x, "", _Conv("Conv2d_2a_3x3", 32, 3))
    x = _conv(net, x, "", _Conv("Conv2d_2b_3x3", 64, 3, 1))
    x = net.max_pool(x, "maxpool1", 3, 2)
    x = _conv(net, x, "", _Conv("Conv2d_3b_1x1", 80))
    x = _conv(net, x, "", _Conv("Conv2d_4a_3x3", 192, 3))
    x = net.max_pool(x, "maxpool2", 3, 2)
    for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _plain(net, x, name, _with_fives(), pool)
    x = _reducing(net, x, "Mixed_6a", _TO_17)
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        x = _plain(net, x, f"Mixed_{name}", _with_sevens(width), 192)
    x = _reducing(net, x, "Mixed_7a", _TO_8)
    for name in ("Mixed_7b", "Mixed_7c"):
        x = _forking(net, x, name)
    x = net.flatten(net.global_average(x, "avgpool"))
    net.output(net.linear(x, "fc", 1000), "logits")


def _with_fives() -> list[_Branch]:
    """Figure 5 of the paper (with one 5x5 left), for maps of 35x35."""
    return [
        (_Conv("branch1x1", 64),),
        (_Conv("branch5x5_1", 48), _Conv("branch5x5_2", 64, 5, 2)),
        (
            _Conv("branch3x3dbl_1", 64),
            _Conv("branch3x3dbl_2", 96, 3, 1),
            _Conv("branch3x3dbl_3", 96, 3, 1),
        ),
    ]


def _with_sevens(width: int) -> list[_Branch]:
    """Figure 6 with n = 7, for maps of 17x17."""
    across: tuple[Size, Size] = (1, 7), (0, 3)
    down: tuple[Size, Size] = (7, 1), (3, 0)
    return [
        (_Conv("branch1x1", 192),),
        (
            _Conv("branch7x7_1", width),
            _Conv("branch7x7_2", width, *across),
            _Conv("branch7x7_3", 192, *down),
        ),
        (
            _Conv("branch7x7dbl_1", width),
            _Conv("branch7x7dbl_2", width, *down),
            _Conv("branch7x7dbl_3", width, *across),
            _Conv("branch7x7dbl_4", width, *down),
            _Conv("branch7x7dbl_5", 192, *across),
        ),
    ]


# Figure 10: convolution and pooling side by side, both with stride 2.
_TO_17: Final[list[_Branch]] = [
    (_Conv("branch3x3", 384, 3, stride=2),),
    (
        _Conv("branch3x3dbl_1", 64),
        _Conv("branch3x3dbl_2", 96, 3, 1),
        _Conv("branch3x3dbl_3", 96, 3, stride=2),
    ),
]
_TO_8: Final[list[_Branch]] = [
    (_Conv("branch3x3_1", 192), _Conv("branch3x3_2", 320, 3, stride=2)),
    (
        _Conv("branch7x7x3_1", 192),
        _Conv("branch7x7x3_2", 192, (1, 7), (0, 3)),
        _Conv("branch7x7x3_3", 192, (7, 1), (3, 0)),
        _Conv("branch7x7x3_4", 192, 3, stride=2),
    ),
]


def _plain(net: Network, x: Value, path: str, branches: list[_Branch], pool: int) -> Value:
    made = [_chain(net, x, path, branch) for branch in branches]
    made.append(_pooled(net, x, path, pool))
    return net.concat(made, path)


def _reducing(net: Network, x: Value, path: str, branches: list[_Branch]) -> Value:
    made = [_chain(net, x, path, branch) for branch in branches]
    made.append(net.max_pool(x, path, 3, 2, function=True))
    return net.concat(made, path)


def _forking(net: Network, x: Value, path: str) -> Value:
    """Figure 7, for maps of 8x8: two branches that fork into 1x3 and 3x1 at their end."""
    one = _conv(net, x, path, _Conv("branch1x1", 320))
    three = _conv(net, x, path, _Conv("branch3x3_1", 384))
    threes = _fork(net, three, path, "branch3x3_2")
    double = _conv(net, x, path, _Conv("branch3x3dbl_1", 448))
    double = _conv(net, double, path, _Conv("branch3x3dbl_2", 384, 3, 1))
    doubles = _fork(net, double, path, "branch3x3dbl_3")
    return net.concat([one, *threes, *doubles, _pooled(net, x, path, 192)], path)


def _fork(net: Network, x: Value, path: str, name: str) -> list[Value]:
    """Both ends of a fork; torchvision joins them at once, an exporter with all other branches."""
    across = _Conv(f"{name}a", 384, (1, 3), (0, 1))
    down = _Conv(f"{name}b", 384, (3, 1), (1, 0))
    return [_conv(net, x, path, across), _conv(net, x, path, down)]


def _pooled(net: Network, x: Value, path: str, channels: int) -> Value:
    return _conv(net, net.average_pool(x, path), path, _Conv("branch_pool", channels))


def _chain(net: Network, x: Value, path: str, branch: _Branch) -> Value:
    for conv in branch:
        x = _conv(net, x, path, conv)
    return x


def _conv(net: Network, x: Value, path: str, conv: _Conv) -> Value:
    inner = f"{path}.{conv.name}" if path else conv.name
    x = net.conv(
        x,
        f"{inner}.conv",
        conv.channels,
        conv.kernel,
        stride=conv.stride,
        padding=conv.padding,
        norm=Norm(f"{inner}.bn", 1e-3),
    )
    return net.relu(x, inner, function=True)
