"""Reference networks, built as ONNX graphs without any framework.

`build` makes a network with random weights (to measure with), without weights (to list its cuts)
or with trained ones; `entry` says what is published about it. Each family is one module that writes
its layers through `network.Network`.
"""

from splitbed.zoo.entries import ZooEntry
from splitbed.zoo.registry import NAMES, build, entry

__all__ = ["NAMES", "ZooEntry", "build", "entry"]
