"""A model file with everything a command may ask for; as a script, the same by the Python API.

edgecompress run examples/own_cnn.py --keep 0.4 --epochs 1 -o out/own_cnn
python examples/own_cnn.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import edgecompress as ec
from edgecompress.selectors import Energy

SIZE = 12


def model() -> nn.Sequential:
    """A small CNN with batch norms; a trained one would load its weights here."""
    torch.manual_seed(0)
    features = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2)]
    return nn.Sequential(
        *features, nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1)
    )


def example() -> Tensor:
    """Two images."""
    return torch.zeros(2, 1, SIZE, SIZE)


def data(split: str) -> TensorDataset:
    """Noise, and its standard deviation as target: (images, deviations)."""
    generator = torch.Generator().manual_seed({"train": 0, "validation": 1, "test": 2}[split])
    deviations = 1 + torch.rand(256, 1, generator=generator)
    return TensorDataset(deviations[..., None, None] * torch.randn(256, 1, SIZE, SIZE, generator=generator), deviations)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error."""
    return nn.functional.mse_loss(outputs, targets)


def score(outputs: Tensor, targets: Tensor) -> float:
    """Minus the mean absolute error: higher is better."""
    return -float((outputs - targets).abs().mean())


def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Every second batch mirrored."""
    return inputs.flip(3) if torch.rand((), generator=generator) < 0.5 else inputs


def main() -> None:
    """Ranks by energy, without a budget; no training."""
    sample = ec.resolve(__file__)
    dense = sample.model()
    plan = ec.plan(dense, sample.inputs, Energy(0.8), name=sample.name)
    small = ec.decompose(dense, plan)
    for layer in plan.layers:
        print(layer.name, layer.method, layer.ranks)
    print(f"score {ec.score(dense, sample):.3f} -> {ec.score(small, sample):.3f}")


if __name__ == "__main__":
    main()
