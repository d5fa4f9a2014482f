"""ResNet-20 on CIFAR-10, compressed by edgecompress and fine-tuned; layers are chains of small convolutions.

Made by the command in info.toml from resnet20, whose licence (resnet.LICENSE) goes with it.
"""

from pathlib import Path

from cifar10_data import PREPROCESSING, augment, example, split
from cifar_resnet import CifarResNet
from safetensors.torch import load_file
from torch import nn

from edgecompress.decomposing import decompose
from edgecompress.plans import CompressionPlan

__all__ = ["augment", "data", "example", "model", "preprocessing", "validation_seen"]

preprocessing = PREPROCESSING
data = split
validation_seen = True


def model() -> nn.Module:
    """The structure of the plan beside this file, with its trained factors."""
    here = Path(__file__)
    network = decompose(CifarResNet(3), CompressionPlan.load(here.with_suffix(".plan.json")), fill=False)
    network.load_state_dict(load_file(here.with_suffix(".safetensors")))
    return network
