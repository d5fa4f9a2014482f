"""ResNet-56 on CIFAR-10 with pretrained weights (see info.toml and resnet.LICENSE)."""

from pathlib import Path

from cifar10_data import PREPROCESSING, augment, example, split
from cifar_resnet import trained
from torch import nn

__all__ = ["augment", "data", "example", "model", "preprocessing", "validation_seen"]

preprocessing = PREPROCESSING
data = split
validation_seen = True


def model() -> nn.Module:
    """The trained network."""
    return trained(9, Path(__file__).with_suffix(".safetensors"))
