"""WRN-10-3 (Zagoruyko and Komodakis 2016, arXiv 1605.07146) on CIFAR-10, as a model file for ``storage.py``.

Its weights are not shipped: ``storage.py`` trains them on the official data into ``out/``, half an hour of one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from edgecompress.files import resource

sys.path.append(str(resource("sample_models")))

from cifar10_data import PREPROCESSING, augment, example, split

__all__ = ["augment", "data", "example", "model", "preprocessing"]

preprocessing = PREPROCESSING
data = split
WEIGHTS = Path("out") / "wide_resnet.safetensors"
WIDTH = 3


class Block(nn.Module):
    """Two 3x3 convolutions, each after its own normalisation, and a shortcut: (N, C, H, W) to half the side or none."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        x = self.bn1(x).relu()
        out: Tensor = self.conv2(self.bn2(self.conv1(x)).relu()) + self.shortcut(x)
        return out


class WideResNet(nn.Module):
    """A 3x3 convolution, three groups of one block with 48, 96 and 192 channels, one Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1 = Block(16, 16 * WIDTH, 1)
        self.layer2 = Block(16 * WIDTH, 32 * WIDTH, 2)
        self.layer3 = Block(32 * WIDTH, 64 * WIDTH, 2)
        self.bn = nn.BatchNorm2d(64 * WIDTH)
        self.linear = nn.Linear(64 * WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) to class scores (N, 10)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        scores: Tensor = self.linear(self.bn(x).relu().mean((2, 3)))
        return scores


def untrained() -> nn.Module:
    """The network with PyTorch's default initialisation."""
    return WideResNet()


def model() -> nn.Module:
    """The network as ``storage.py`` trained it."""
    network = untrained()
    network.load_state_dict(load_file(WEIGHTS))
    return network
