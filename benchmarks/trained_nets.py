"""``separable`` and ``vgg`` of ``small_nets.py`` as that script trained them: a model file for ``beside_int8.py``."""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from edgecompress.files import resource

sys.path += [str(resource("sample_models")), str(Path(__file__).parent)]

import small_nets
from cifar10_data import PREPROCESSING, augment, example, split

__all__ = ["augment", "data", "example", "preprocessing", "separable", "vgg"]

preprocessing = PREPROCESSING
data = split


def separable() -> nn.Module:
    """Depthwise and 1x1 convolutions in turns."""
    return _trained("separable")


def vgg() -> nn.Module:
    """3x3 convolutions alone."""
    return _trained("vgg")


def _trained(name: str) -> nn.Module:
    net = small_nets.NETS[name]()
    net.load_state_dict(load_file(small_nets.WEIGHTS / f"{name}.safetensors"))
    return net
