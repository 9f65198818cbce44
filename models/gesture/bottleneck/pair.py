"""The learned pair in PyTorch, and the embedded model's tail that it is trained through."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

CODE: Final = (8, 8, 8)
"""Channels, height and width of the code; its elements lie in 0..1."""

BOUNDARY: Final = (32, 16, 16)
"""What crosses at `layer2`."""

WIDTH: Final = 32
"""Channels inside encoder and decoder."""


class Layer(nn.Module):
    """A convolution and its batch norm, without a non-linearity."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y


class Encoder(nn.Module):
    """Boundary to code, both Nx(their shape): 1x1, 3x3 with stride 2, 3x3, clipped to 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = Layer(BOUNDARY[0], WIDTH // 2, 1)
        self.halve = Layer(WIDTH // 2, WIDTH, 3, 2)
        self.narrow = Layer(WIDTH, CODE[0], 3)
        # Two standard deviations of every channel fit into 0..1 at the start.
        nn.init.constant_(self.narrow.norm.weight, 0.25)
        nn.init.constant_(self.narrow.norm.bias, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.mix(x))
        x = torch.relu(self.halve(x))
        return self.narrow(x).clamp(0, 1)


class Decoder(nn.Module):
    """Code to boundary: two 3x3, a 1x1 to four times the channels, depth to space, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = Layer(CODE[0], WIDTH, 3)
        self.refine = Layer(WIDTH, WIDTH, 3)
        self.spread = Layer(WIDTH, 4 * BOUNDARY[0], 1)

    def forward(self, code: Tensor) -> Tensor:
        x = torch.relu(self.widen(code))
        x = x + torch.relu(self.refine(x))
        return torch.relu(functional.pixel_shuffle(self.spread(x), 2))


def rounded(code: Tensor, bits: Tensor) -> Tensor:
    """What `quantize:bits=BITS,low=0,high=1` makes of the code; the gradient goes straight through.

    `bits` holds one number for each picture, float32 N.
    """
    levels = (2**bits - 1).reshape(-1, 1, 1, 1)
    return code + (torch.round(code.detach() * levels) / levels - code.detach())


class Tail:
    """What follows `layer2` in the embedded model, frozen, with the weights of its ONNX file."""

    def __init__(self, model: Path) -> None:
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(str(model)).graph
        self._weights = {
            item.name: torch.from_numpy(numpy_helper.to_array(item).copy())
            for item in graph.initializer
        }

    def _conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.conv2d(x, kernel, bias, stride, kernel.shape[2] // 2)

    def _block(self, x: Tensor, name: str) -> Tensor:
        halves = f"{name}.down.weight" in self._weights
        y = torch.relu(self._conv(x, f"{name}.conv1", 2 if halves else 1))
        short = self._conv(x, f"{name}.down", 2) if halves else x
        return torch.relu(self._conv(y, f"{name}.conv2") + short)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`layer3` (Nx64x8x8) and the logits (Nx10) of a boundary."""
        middle = self._block(self._block(x, "layer3.0"), "layer3.1")
        last = self._block(middle, "layer4.0").mean((2, 3))
        return middle, functional.linear(last, self._weights["fc.weight"], self._weights["fc.bias"])
