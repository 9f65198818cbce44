"""The gesture network in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments import gestures

CHANNELS = (16, 16, 32, 64, 128)
BLOCKS = (2, 2, 2, 1)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first may halve the picture."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.down is None else self.down(x)))


class GestureNet(nn.Module):
    """Stem, max pool, four residual layers, average pool and one linear layer."""

    def __init__(self, classes: int = len(gestures.CLASSES)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS[0], 5, 2, 2, bias=False)
        self.stem_bn = nn.BatchNorm2d(CHANNELS[0])
        self.pool = nn.MaxPool2d(3, 2, 1)
        for i, count in enumerate(BLOCKS):
            inputs, outputs = CHANNELS[i], CHANNELS[i + 1]
            blocks = [Block(inputs, outputs, 1 if i == 0 else 2)]
            blocks += [Block(outputs, outputs, 1) for _ in range(count - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(CHANNELS[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.stem_bn(self.stem(x))))
        for i in range(len(BLOCKS)):
            x = getattr(self, f"layer{i + 1}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
