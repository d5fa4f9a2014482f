"""LeNet-5 in its Caffe form on MNIST: 20 and 50 maps of 5x5, 500 hidden units; 431,080 parameters."""

from collections import OrderedDict
from pathlib import Path

from mnist_data import PREPROCESSING, example, split
from safetensors.torch import load_file
from torch import nn

__all__ = ["data", "example", "model", "preprocessing"]

preprocessing = PREPROCESSING
data = split


def untrained() -> nn.Module:
    """The network with PyTorch's default initialisation."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu=nn.ReLU(),
            fc2=nn.Linear(500, 10),
        )
    )


def model() -> nn.Module:
    """The trained network."""
    network = untrained()
    network.load_state_dict(load_file(Path(__file__).with_suffix(".safetensors")))
    return network
