"""LeNet-300-100 on MNIST: a perceptron with 300 and 100 hidden units; 266,610 parameters."""

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
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, 10),
        )
    )


def model() -> nn.Module:
    """The trained network."""
    network = untrained()
    network.load_state_dict(load_file(Path(__file__).with_suffix(".safetensors")))
    return network
