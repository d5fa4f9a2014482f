"""Four LeNet-5 on MNIST, the mean of their logits: the sample of that name and three trained from other seeds.

A teacher for ``compress lenet5 --teacher lenet5-ensemble``. The three are kept in half precision.
"""

from pathlib import Path

import lenet5
import torch
from mnist_data import PREPROCESSING, example, split
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["data", "example", "model", "preprocessing"]

preprocessing = PREPROCESSING
data = split
OTHERS = 3


class Ensemble(nn.Module):
    """The mean of what several networks of one task give."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) to logits (N, 10)."""
        return torch.stack([network(x) for network in self.networks]).mean(0)


def model() -> nn.Module:
    """The trained networks."""
    others = nn.ModuleList(lenet5.untrained() for _ in range(OTHERS))
    others.load_state_dict(load_file(Path(__file__).with_suffix(".safetensors")))
    return Ensemble([lenet5.model(), *others])
